"""Guards conversion: lossless, sharded, cast or not, in little memory, and the result is the original's model."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from viscpm_hf.checkpoint import CheckpointError, convert_cpmbee, verify
from viscpm_hf.checkpoint.files.stored import StoredTensor
from viscpm_hf.checkpoint.files.torch_file import TorchWriter
from viscpm_hf.checkpoint.layout.keys import CHAT
from viscpm_hf.checkpoint.repo import CHAT_CODE

GOLDEN = Path(__file__).parents[1] / "golden"
UNUSED = {
    "vpm.beit3.text_embed.weight",
    "vpm.beit3.vision_embed.mask_token",
    "vpm.mim_head.weight",
    "vpm.mim_head.bias",
}


def test_every_tensor_is_kept_under_its_new_name(chat_repo, chat_model, weights, stored):
    ours = stored(chat_repo)
    parameters = dict(chat_model.named_parameters())
    assert ours.keys() == {*parameters, *UNUSED}
    assert all(torch.equal(ours[name], parameters[name]) for name in parameters)
    assert all(torch.equal(ours[name], weights[name]) for name in UNUSED)
    assert torch.equal(ours["model.language_model.embed_tokens.weight"], weights["llm.input_embedding.weight"])
    gate = "llm.encoder.layers.1.ffn.ffn.w_in.w_0.weight"
    assert torch.equal(ours["model.language_model.layers.1.mlp.gate_proj.weight"], weights[gate])


def test_the_model_computes_what_the_original_computed(chat_model, golden):
    expected = golden("chat_vision.safetensors")
    with torch.no_grad():
        features = chat_model.get_image_features(expected["pixel_values"]).pooler_output
    assert (features - expected["vision_hidden_states"]).abs().max() < 1e-4


def test_nothing_is_missing_or_new_when_loaded(chat_repo):
    for auto in (AutoModelForImageTextToText, AutoModel):
        _, info = auto.from_pretrained(chat_repo, output_loading_info=True)
        assert not info["missing_keys"] and not info["mismatched_keys"]
        assert set(info["unexpected_keys"]) <= {"lm_head.weight"}


def test_configuration_files(chat_repo, golden):
    config = json.loads((chat_repo / "config.json").read_text())
    assert config["architectures"] == ["VisCPMChatForConditionalGeneration"] and config["dtype"] == "float32"
    ids = golden("tokenizer.json")["ids"]
    assert config["image_token_id"] == ids["unk"] and config["text_config"]["eos_token_id"] == ids["eos"]
    assert config["text_config"]["rotary_dtype"] == "float32" and config["vision_config"]["num_attention_heads"] == 3
    maps = [config["auto_map"]]
    for name in ("tokenizer_config.json", "processor_config.json"):
        maps.append(json.loads((chat_repo / name).read_text())["auto_map"])
    assert {"AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"} == maps[0].keys()
    assert "AutoTokenizer" in maps[1] and "AutoProcessor" in maps[2]
    for auto_map in maps:
        for target in auto_map.values():
            module, _, name = (target if isinstance(target, str) else target[0]).partition(".")
            assert f"class {name}(" in (chat_repo / f"{module}.py").read_text()
    generation = json.loads((chat_repo / "generation_config.json").read_text())
    expected = {"num_beams": 3, "beam_temperature": 0.7, "repetition_penalty": 1.1, "length_penalty": 3.0}
    expected |= {"max_new_tokens": 514, "do_sample": False, "repetition_window": None, "pad_token_id": 0}
    assert expected.items() <= generation.items() and generation["eos_token_id"] == ids["eos"]


def test_remote_code_and_vocabulary_are_copied_verbatim(chat_repo):
    source = Path(__file__).parents[2] / "src" / "viscpm_hf" / "remote_code"
    copied = sorted(chat_repo.glob("*.py"))
    assert {file.name for file in copied} == set(CHAT_CODE)
    for file in copied:
        assert file.read_bytes() == (source / file.name).read_bytes()
        siblings = re.findall(r"^\s*from \.(\w+) import", file.read_text(), re.MULTILINE)
        assert all((chat_repo / f"{name}.py").exists() for name in siblings)
    assert (chat_repo / "vocab.txt").read_bytes() == (GOLDEN / "vocab.txt").read_bytes()


def test_report_and_model_card(convert, chat_checkpoint):
    checkpoint = chat_checkpoint / "pytorch_model.plain.bin"
    out = convert(variant="balance")
    report = json.loads((out / "conversion.json").read_text())
    data = checkpoint.read_bytes()
    expected = {"file": checkpoint.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert report["source"] == expected and report["variant"] == "balance" and report["dtype"] == "keep"
    counts = {part: numbers["tensors"] for part, numbers in report["components"].items()}
    assert counts == {"language_model": 30, "vision_tower": 90, "connector": 4, "unused": 4}
    assert set(report["dropped"]) == UNUSED and report["versions"]["torch"] == torch.__version__
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: other") and "# VisCPM-Chat balance" in card and checkpoint.name in card
    assert "$" not in card and "non-commercial" in card


def test_shards_have_an_index_and_load_to_the_same_model(convert, chat_model, chat_checkpoint):
    out = convert(max_shard_size="60KB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in out.glob("model-*.safetensors"))
    assert len(files) > 3 and set(index["weight_map"].values()) == set(files)
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors" and not (out / "model.safetensors").exists()
    assert index["metadata"] == {"total_size": 336640, "total_parameters": 84160}
    # one tensor alone may be larger than a shard
    assert all((out / name).stat().st_size < 80000 for name in files)
    for name, parameter in AutoModelForImageTextToText.from_pretrained(out).named_parameters():
        assert torch.equal(parameter, chat_model.get_parameter(name)), name
    assert not any(result.differences for result in verify(chat_checkpoint / "pytorch_model.plain.bin", out).values())


@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("target", ["keep", "float16", "bfloat16", "float32"])
def test_types(convert, weights, stored, tmp_path, source, target):
    torch.save({name: tensor.to(source) for name, tensor in weights.items()}, tmp_path / "a.bin")
    out = convert(tmp_path / "a.bin", dtype=target)
    dtype = source if target == "keep" else getattr(torch, target)
    ours = stored(out)
    assert {tensor.dtype for tensor in ours.values()} == {dtype}
    expected = weights["llm.input_embedding.weight"].to(source).to(dtype)
    assert torch.equal(ours["model.language_model.embed_tokens.weight"], expected)
    assert json.loads((out / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert not any(result.differences for result in verify(tmp_path / "a.bin", out).values())


def test_config_has_the_language_models_type(convert, weights, tmp_path):
    mixed = {name: tensor.half() if name.startswith("llm.") else tensor for name, tensor in weights.items()}
    mixed["llm.encoder.output_layernorm.weight"] = weights["llm.encoder.output_layernorm.weight"]
    torch.save(mixed, tmp_path / "a.bin")
    out = convert(tmp_path / "a.bin")
    assert AutoModelForImageTextToText.from_pretrained(out).dtype == torch.float16
    assert not any(result.differences for result in verify(tmp_path / "a.bin", out).values())


def test_infinities_are_kept_and_overflow_is_refused(convert, weights, tmp_path):
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    weights["query"][0, 0] = float("inf")
    weights["query"][0, 1] = float("nan")
    torch.save(weights, tmp_path / "a.bin")
    convert(tmp_path / "a.bin", tmp_path / "half", dtype="float16")
    weights["query"][0, 2] = 70000
    torch.save(weights, tmp_path / "b.bin")
    with pytest.raises(CheckpointError, match="query_tokens holds a number of size 7e[+]04, too large for float16"):
        convert(tmp_path / "b.bin", dtype="float16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.bin", "half"]


def test_safetensors_and_unusual_storage_give_the_same_repository(convert, weights, chat_repo, stored, tmp_path):
    save_file(weights, tmp_path / "a.safetensors")
    buffer = torch.cat([tensor.flatten() for tensor in weights.values()])  # one storage for all, as DeepSpeed has it
    views, start = {}, 0
    for name, tensor in weights.items():
        views[name] = buffer[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    torch.save(views, tmp_path / "views.pt")
    torch.save(
        {name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for name, tensor in weights.items()},
        tmp_path / "transposed.bin",
    )
    expected = stored(chat_repo)
    for name in ("a.safetensors", "views.pt", "transposed.bin"):
        ours = stored(convert(tmp_path / name, tmp_path / f"from {name}"))
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[key], expected[key]) for key in expected), name


def test_checkpoints_without_unused_tensors_convert(convert, weights, tmp_path):
    torch.save({name: tensor for name, tensor in weights.items() if name not in UNUSED}, tmp_path / "a.bin")
    out = convert(tmp_path / "a.bin")
    assert not (out / "original_only.safetensors").exists()
    assert json.loads((out / "conversion.json").read_text())["dropped"] == []


def test_published_values_stand_for_a_missing_configuration(convert, weights, tmp_path):
    """Without JSON: 256 + 256 buckets, 16 vision heads, half rotary angles."""
    sizes = {"num_layers": 1, "encoder_layers": 1, "vocab_size": 410, "dim_model": 40, "dim_ff": 64, "num_heads": 4,
             "num_heads*dim_head": 32, "position_bias_rows": 512, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 16,
             "patch_size": 4, "image_positions": 28, "max_source_positions": 9, "query_num": 7}  # fmt: skip
    torch.save(
        {
            key.replace("{i}", "0"): torch.randn([sizes.get(size, size) for size in shape])
            for table in CHAT.components.values()
            for key, (_, shape) in table.items()
        },
        tmp_path / "a.bin",
    )
    out = convert(tmp_path / "a.bin", llm_config=None, vision_config=None)
    config = json.loads((out / "config.json").read_text())
    text = {"position_bias_num_buckets": 256, "position_bias_num_segment_buckets": 256, "rotary_dtype": "float16"}
    text |= {"position_bias_max_distance": 2048, "rms_norm_eps": 1e-6, "scale_down_proj_input": True, "head_dim": 8}
    assert text.items() <= config["text_config"].items()
    vision = {
        "num_attention_heads": 16,
        "image_size": 20,
        "patch_size": 4,
        "query_num": 7,
        "max_position_embeddings": 9,
    }
    assert vision.items() <= config["vision_config"].items()
    processor = AutoProcessor.from_pretrained(out)
    assert processor.query_num == 7 and processor.image_processor.size == {"height": 20, "width": 20}


@pytest.fixture(scope="module")
def cpmbee(weights, chat_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpmbee")
    plain = {name.removeprefix("llm."): tensor for name, tensor in weights.items() if name.startswith("llm.")}
    torch.save(plain, folder / "a.bin")
    config = chat_checkpoint / "llm_config.json"
    return convert_cpmbee(folder / "a.bin", GOLDEN / "vocab.txt", folder / "out", llm_config=config, progress=False)


def test_plain_cpmbee(cpmbee, weights):
    model = AutoModelForCausalLM.from_pretrained(cpmbee).eval()
    tokenizer = AutoTokenizer.from_pretrained(cpmbee)
    assert model.config.scale_down_proj_input is False and model.config.auto_map.keys() == {
        "AutoConfig", "AutoModel", "AutoModelForCausalLM"}  # fmt: skip
    assert torch.equal(model.model.embed_tokens.weight, weights["llm.input_embedding.weight"])
    inputs = tokenizer({"input": "the cat", "<ans>": ""}, return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=4)
    assert answer.shape[1] > inputs["input_ids"].shape[1]
    assert model.generation_config.num_beams == 3 and model.generation_config.max_new_tokens == 102
    _, info = AutoModel.from_pretrained(cpmbee, output_loading_info=True)
    assert not info["missing_keys"]
    assert not any(result.differences for result in verify(cpmbee.parent / "a.bin", cpmbee).values())


def test_memory_does_not_grow_with_the_checkpoint(convert, weights, tmp_path, child, memory_growth):
    big, rows = tmp_path / "big.bin", 300 << 20
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    shapes["vpm.beit3.text_embed.weight"] = (rows, 1)  # its shape is free
    tensors = {name: StoredTensor(big, torch.float16, shape, 0) for name, shape in shapes.items()}
    zeros = memoryview(bytes(1 << 20))
    with TorchWriter(big, tensors) as writer:
        for name, tensor in tensors.items():
            blocks = [zeros] * (tensor.nbytes >> 20) + [zeros[: tensor.nbytes & ((1 << 20) - 1)]]
            writer.write_tensor(name, blocks)
    assert big.stat().st_size > 600e6

    def measure():
        convert(output=tmp_path / "small")  # whatever is allocated once
        return int(memory_growth(lambda: convert(big)) > 50e6)

    assert child(measure).code() == 0
    assert (tmp_path / "out" / "original_only.safetensors").stat().st_size > 600e6
