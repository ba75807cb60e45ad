"""Guards Paint's conversion: lossless, sharded, cast or not, in little memory, and the result paints as recorded."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from paint import characters, paints_the_originals_pictures, prompt_checker_parts, ranker_parts, safety_checker_parts
from paint_original import GOLDEN, converted_paint, stored
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from viscpm_hf import VisCPMPaintTextProjection
from viscpm_hf.checkpoint import CheckpointError, export_original, verify
from viscpm_hf.checkpoint.files.stored import StoredTensor
from viscpm_hf.checkpoint.files.torch_file import TorchWriter
from viscpm_hf.memory.calibration_inputs import identities, require_parts

SOURCE = Path(__file__).parents[2] / "src" / "viscpm_hf" / "remote_code"
OTHERS = {"vae.encoder.weight": torch.randn(3, 2), "global_step": torch.tensor(7), "ids": torch.arange(4)}


@pytest.fixture(scope="module")
def repo(paint_original, tmp_path_factory):
    """The converted golden checkpoint; not to be changed."""
    return converted_paint(paint_original, output=tmp_path_factory.mktemp("repo") / "out")


@pytest.fixture(scope="module")
def weights():
    """Original names → tensors; not to be changed."""
    return load_file(GOLDEN / "paint_weights.safetensors")


def differences(checkpoint, repo):
    return [each for result in verify(checkpoint, repo, progress=False).values() for each in result.differences]


def test_every_tensor_is_kept_under_its_new_name(repo, weights):
    ours = stored(repo)
    parts = {
        "text_encoder": AutoModel.from_pretrained(repo / "text_encoder"),
        "text_projection": VisCPMPaintTextProjection.from_pretrained(repo / "text_projection"),
        "unet": UNet2DConditionModel.from_pretrained(repo / "unet"),
        "vae": AutoencoderKL.from_pretrained(repo / "vae"),
    }
    expected = {f"{part}/{name}": value for part, model in parts.items() for name, value in model.state_dict().items()}
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert torch.equal(ours["text_encoder/embed_tokens.weight"], weights["llm.input_embedding.weight"])
    assert torch.equal(ours["text_projection/linear.weight"], weights["trans_block.w_out_res.weight"])
    assert torch.equal(ours["text_projection/norm.bias"], weights["trans_block.layernorm.bias"])
    unet = {name: tensor for name, tensor in weights.items() if name.startswith("unet.")}
    assert all(torch.equal(ours[name.replace("unet.", "unet/", 1)], tensor) for name, tensor in unet.items())
    vae = load_file(GOLDEN / "paint_vae.safetensors")
    assert all(torch.equal(ours[f"vae/{name}"], tensor) for name, tensor in vae.items())


def test_the_converted_pipeline_paints_what_the_original_painted(repo):
    pipe = DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    assert paints_the_originals_pictures(pipe)


def test_nothing_is_missing_or_new_when_loaded(repo):
    for model, folder in ((AutoModel, "text_encoder"), (UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        _, info = model.from_pretrained(repo / folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["mismatched_keys"] and not info["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(repo / "tokenizer").vocab_size == 410


def test_configuration_files(repo):
    index = json.loads((repo / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_viscpm_paint", "VisCPMPaintPipeline"]
    assert index["ranker"] == index["ranker_processor"] == index["safety_checker"] == [None, None]
    for folder in ("tokenizer", "text_encoder", "text_projection"):
        module, name = index[folder]
        assert f"class {name}(" in (repo / folder / f"{module}.py").read_text()
    assert index["requires_safety_checker"] is False and index["prompt_checker_threshold"] == 0.75
    text = json.loads((repo / "text_encoder" / "config.json").read_text())
    expected = {"model_type": "cpmbee", "dtype": "float32", "hidden_size": 32, "rotary_dtype": "float32"}
    assert {**expected, "scale_down_proj_input": True, "architectures": ["CpmBeeModel"]}.items() <= text.items()
    assert text["auto_map"] == {
        "AutoConfig": "modeling_cpmbee.CpmBeeConfig",
        "AutoModel": "modeling_cpmbee.CpmBeeModel",
    }
    tokenizer = json.loads((repo / "tokenizer" / "tokenizer_config.json").read_text())
    assert tokenizer["auto_map"]["AutoTokenizer"][0] == "tokenization_cpmbee.CpmBeeTokenizer"
    projection = VisCPMPaintTextProjection.load_config(repo / "text_projection")
    assert (projection["hidden_size"], projection["cross_attention_dim"], projection["eps"]) == (32, 24, 1e-6)


def test_the_schedulers_last_step_is_0(repo, golden):
    scheduler = DDPMScheduler.from_pretrained(repo / "scheduler")
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == golden("paint_golden.json")["full_generate"]["timesteps"]
    first_last = golden("paint_golden.json")["alphas_cumprod_first_last"]
    assert scheduler.alphas_cumprod[[0, -1]].tolist() == pytest.approx(first_last)
    assert scheduler.config.clip_sample is False and scheduler.config.variance_type == "fixed_small"


def test_remote_code_and_vocabulary_are_copied_verbatim(repo):
    code = {path.relative_to(repo).as_posix() for path in repo.rglob("*.py")}
    assert code == {
        "pipeline_viscpm_paint.py",
        "text_encoder/modeling_cpmbee.py",
        "text_projection/modeling_viscpm_paint.py",
        "tokenizer/tokenization_cpmbee.py",
    }
    assert all((repo / name).read_bytes() == (SOURCE / Path(name).name).read_bytes() for name in code)
    assert (repo / "tokenizer" / "vocab.txt").read_bytes() == (GOLDEN / "vocab.txt").read_bytes()


def test_report_and_model_card(convert_paint_to, paint_original):
    out = convert_paint_to(variant="zhplus")
    report, data = (
        json.loads((out / "conversion.json").read_text()),
        (paint_original / "pytorch_model.bin").read_bytes(),
    )
    assert report["source"]["sha256"] == hashlib.sha256(data).hexdigest() and report["variant"] == "zhplus"
    counts = {part: numbers["tensors"] for part, numbers in report["components"].items()}
    assert counts == {"text_encoder": 21, "text_projection": 3, "unet": 208} and report["dropped"] == []
    assert report["family"] == "VisCPM-Paint" and report["ready_made"] == {"vae": "sd_base"}
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: other") and "# VisCPM-Paint zhplus" in card and "`sd_base`" in card
    assert "pipeline_tag: text-to-image" in card and "$" not in card and str(paint_original) not in card
    with pytest.raises(CheckpointError, match="Got variant 'v1.1', expected one of balance, zhplus"):
        convert_paint_to(variant="v1.1")


def test_shards_have_an_index_and_load_to_the_same_models(convert_paint_to, repo, paint_original):
    out = convert_paint_to(max_shard_size="40KB")
    for folder, stem in (("text_encoder", "model"), ("unet", "diffusion_pytorch_model")):
        index = json.loads((out / folder / f"{stem}.safetensors.index.json").read_text())
        files = sorted(path.name for path in (out / folder).glob("*.safetensors"))
        assert len(files) > 2 and set(index["weight_map"].values()) == set(files)
        assert files[0] == f"{stem}-00001-of-{len(files):05}.safetensors"
    assert (out / "text_projection" / "diffusion_pytorch_model.safetensors").exists()
    assert len(list((out / "vae").glob("diffusion_pytorch_model-*.safetensors"))) > 2
    expected, ours = stored(repo), stored(out)
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)
    for model, folder in ((AutoModel, "text_encoder"), (UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        for name, value in model.from_pretrained(out / folder).state_dict().items():
            assert torch.equal(value, expected[f"{folder}/{name}"]), name
    assert not differences(paint_original / "pytorch_model.bin", out)


@pytest.mark.parametrize("target", ["keep", "float16", "bfloat16", "float32"])
def test_types(convert_paint_to, weights, tmp_path, target):
    mixed = {name: tensor.half() if name.startswith("llm.") else tensor for name, tensor in weights.items()}
    torch.save(mixed, tmp_path / "a.bin")
    out = convert_paint_to(tmp_path / "a.bin", dtype=target)
    types = {}
    for name, tensor in stored(out).items():
        types.setdefault(name.partition("/")[0], set()).add(str(tensor.dtype).removeprefix("torch."))
    rest = "float32" if target == "keep" else target
    text = "float16" if target == "keep" else target
    assert types == {"text_encoder": {text}, "text_projection": {rest}, "unet": {rest}, "vae": {"float32"}}
    assert json.loads((out / "text_encoder" / "config.json").read_text())["dtype"] == text
    assert not differences(tmp_path / "a.bin", out)


@pytest.mark.parametrize("name", ["back.bin", "back.safetensors"])
@pytest.mark.parametrize("shard", ["5GB", "40KB"])
def test_export_gives_the_checkpoint_back(convert_paint_to, weights, tmp_path, name, shard):
    mixed = {key: value.half() if key.startswith("llm.") else value for key, value in weights.items()} | OTHERS
    save_file(mixed, tmp_path / "a.safetensors")
    out = convert_paint_to(tmp_path / "a.safetensors", max_shard_size=shard)
    report = json.loads((out / "conversion.json").read_text())
    assert set(report["dropped"]) == OTHERS.keys() and report["dropped_to"] == "original_only.safetensors"
    assert load_file(out / "original_only.safetensors").keys() == OTHERS.keys()
    back = export_original(out, tmp_path / name, progress=False)
    ours = load_file(back) if name.endswith("safetensors") else torch.load(back, weights_only=True)
    assert ours.keys() == mixed.keys()
    for key, tensor in mixed.items():
        assert ours[key].dtype == tensor.dtype and torch.equal(ours[key], tensor), key
    results = verify(back, out, progress=False)
    assert {part: result.tensors for part, result in results.items()} == {
        "text_encoder": 21, "text_projection": 3, "unet": 208, "unused": 3}  # fmt: skip
    assert not any(result.differences for result in results.values())


def test_a_pipeline_that_was_trained_and_saved_again_is_exported(repo, weights, tmp_path):
    pipe = DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)
    with torch.no_grad():
        pipe.unet.conv_in.bias += 1
    pipe.save_pretrained(tmp_path / "tuned", max_shard_size="100KB")
    back = torch.load(export_original(tmp_path / "tuned", tmp_path / "a.bin", progress=False), weights_only=True)
    assert back.keys() == weights.keys()
    assert [name for name in weights if not torch.equal(back[name], weights[name])] == ["unet.conv_in.bias"]


def test_changed_missing_and_surplus_tensors_are_named(paint_original, repo, tmp_path):
    broken = shutil.copytree(repo, tmp_path / "broken")
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.bias"][0] += 1
    del tensors["conv_out.bias"]
    save_file({**tensors, "extra": torch.zeros(1)}, file)
    results = verify(paint_original / "pytorch_model.bin", broken, progress=False)
    assert {part: result.differences for part, result in results.items() if result.differences} == {
        "unet": ["unet.conv_in.bias has other values", "unet.conv_out.bias is missing"],
        "surplus": ["unet/extra is not in the checkpoint"],
    }
    with pytest.raises(CheckpointError, match="missing: unet/conv_out.bias; unknown: unet/extra"):
        export_original(broken, tmp_path / "a.bin", progress=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda repo: (repo / "model_index.json").unlink(), "not a converted repository"),
        (
            lambda repo: (repo / "model_index.json").write_text('{"_class_name": "Other"}'),
            "not a converted repository",
        ),
        (lambda repo: (repo / "unet" / "config.json").unlink(), "There is no file .*unet/config.json"),
        (lambda repo: (repo / "unet" / "config.json").write_text('{"layers_per_block": "a"}'), "is 'a' but the"),
        (lambda repo: (repo / "text_encoder" / "model.safetensors").unlink(), "text_encoder lacks model.safetensors"),
        (lambda repo: save_file({"unet/conv_in.bias": torch.zeros(1)}, repo / "original_only.safetensors"), "twice"),
    ],
)
def test_broken_repositories_are_refused(paint_original, repo, tmp_path, spoil, message):
    broken = shutil.copytree(repo, tmp_path / "broken")
    spoil(broken)
    with pytest.raises(CheckpointError, match=message):
        verify(paint_original / "pytorch_model.bin", broken, progress=False)
    with pytest.raises(CheckpointError, match=message):
        export_original(broken, tmp_path / "a.bin", progress=False)


def test_a_vae_of_2023_gives_the_same_repository(convert_paint_to, paint_original, repo, tmp_path):
    """PyTorch's file, and attention layers under their old names."""
    old = shutil.copytree(paint_original / "sd_base", tmp_path / "old")
    (old / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for name, tensor in load_file(GOLDEN / "paint_vae.safetensors").items():
        for today, before in names.items():
            name = name.replace(today, before)
        tensors[name] = tensor
    assert sum(".query." in name for name in tensors) == 4
    torch.save(tensors, old / "vae" / "diffusion_pytorch_model.bin")
    out = convert_paint_to(sd_base=old)
    ours, expected = stored(out), stored(repo)
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)
    assert not list(out.rglob("*.bin"))


def test_safetensors_are_preferred_to_a_file_of_pytorch(convert_paint_to, paint_original, tmp_path):
    both = shutil.copytree(paint_original / "sd_base", tmp_path / "both")
    (both / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"not to be opened")
    convert_paint_to(sd_base=both)


def test_checkers_and_ranker_are_put_in_and_load(convert_paint_to, paint_original, tmp_path):
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    for name in ("safety", "prompt", "ranker"):
        (tmp_path / name).mkdir()
    given = safety_checker_parts(*pictures)
    given |= prompt_checker_parts(tmp_path / "prompt", "一只猫", "一把枪")
    given |= ranker_parts(tmp_path / "ranker", ["一只猫", "red car"])
    for folder, names in (
        ("safety", ("safety_checker", "feature_extractor")),
        ("prompt", ("prompt_checker", "prompt_checker_tokenizer")),
        ("ranker", ("ranker", "ranker_processor")),
    ):
        for name in names:
            given[name].save_pretrained(tmp_path / folder)
    # as the original's ranker lies on the Hub: PyTorch's file, no tokenizer_config.json
    weights = load_file(tmp_path / "ranker" / "model.safetensors")
    torch.save(
        {**weights, "text_model.embeddings.position_ids": torch.arange(24)[None]},
        tmp_path / "ranker" / "pytorch_model.bin",
    )
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "ranker" / name).unlink()
    out = convert_paint_to(
        safety_checker=tmp_path / "safety", prompt_checker=tmp_path / "prompt", ranker=tmp_path / "ranker"
    )
    for folder in ("safety", "prompt", "ranker"):
        shutil.rmtree(tmp_path / folder)
    index = json.loads((out / "model_index.json").read_text())
    assert index["requires_safety_checker"] is True and index["ranker"] == ["transformers", "ChineseCLIPModel"]
    pipe = DiffusionPipeline.from_pretrained(out, trust_remote_code=True)
    pipe.save_pretrained(tmp_path / "saved")
    for folder in (out, tmp_path / "saved"):
        require_parts(folder, identities(folder))  # `viscpm quantize` finds all it would copy
    for name in ("safety_checker", "prompt_checker", "ranker"):
        ours, theirs = getattr(pipe, name).state_dict(), given[name].state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    pixels = [
        part(pictures, return_tensors="pt").pixel_values
        for part in (pipe.feature_extractor, given["feature_extractor"])
    ]
    assert torch.equal(*pixels)
    for mine, theirs in (
        (pipe.prompt_checker_tokenizer, given["prompt_checker_tokenizer"]),
        (pipe.ranker_processor.tokenizer, given["ranker_processor"].tokenizer),
    ):
        assert mine("一只猫 red")["input_ids"] == theirs("一只猫 red")["input_ids"]
    ours = pipe.ranker_processor.image_processor(pictures, return_tensors="pt").pixel_values
    assert torch.equal(ours, given["ranker_processor"].image_processor(pictures, return_tensors="pt").pixel_values)
    assert pipe("一只猫", num_inference_steps=2, height=32, width=32).rank_scores.shape == (1, 4)
    assert not differences(paint_original / "pytorch_model.bin", out)


def test_a_safety_checker_of_diffusers_gets_an_image_processor(convert_paint_to, tmp_path):
    given = safety_checker_parts(*[Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")])
    given["safety_checker"].save_pretrained(tmp_path / "safety")
    pipe = DiffusionPipeline.from_pretrained(
        convert_paint_to(safety_checker=tmp_path / "safety"), trust_remote_code=True
    )
    assert pipe.feature_extractor.crop_size["height"] == 32 and pipe.feature_extractor.size["shortest_edge"] == 32


@pytest.mark.parametrize(
    ("option", "model_type", "message"),
    [
        ("safety_checker", "bert", "is not a safety checker but a bert model; give --safety-checker"),
        ("prompt_checker", "chinese_clip", "is not a prompt checker but a chinese_clip model; give --prompt-checker"),
        ("prompt_checker", "bert", "has no vocab.txt or tokenizer.json"),
        ("ranker", "clip", "is not a ranker but a clip model; give --ranker"),
        ("ranker", "chinese_clip", "has no vocab.txt or tokenizer.json"),
    ],
)
def test_other_models_are_refused(convert_paint_to, tmp_path, option, model_type, message):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text(json.dumps({"model_type": model_type}))
    save_file({"a": torch.zeros(1)}, tmp_path / "a" / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        convert_paint_to(**{option: tmp_path / "a"})
    characters(tmp_path / "a", ["abc"])
    if message.startswith("has no") and option == "ranker":
        with pytest.raises(CheckpointError, match="has no preprocessor_config.json or processor_config.json"):
            convert_paint_to(**{option: tmp_path / "a"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_memory_does_not_grow_with_the_checkpoint(convert_paint_to, weights, tmp_path, child, memory_growth):
    big = tmp_path / "big.bin"
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()} | {"vae.extra": (300 << 20, 1)}
    tensors = {name: StoredTensor(big, torch.float16, shape, 0) for name, shape in shapes.items()}
    zeros = memoryview(bytes(1 << 20))
    with TorchWriter(big, tensors) as writer:
        for name, tensor in tensors.items():
            writer.write_tensor(name, [zeros] * (tensor.nbytes >> 20) + [zeros[: tensor.nbytes & ((1 << 20) - 1)]])
    assert big.stat().st_size > 600e6

    def measure():
        convert_paint_to(output=tmp_path / "small")  # whatever is allocated once
        return int(memory_growth(lambda: convert_paint_to(big)) > 50e6)

    assert child(measure).code() == 0
    assert (tmp_path / "out" / "original_only.safetensors").stat().st_size > 600e6
