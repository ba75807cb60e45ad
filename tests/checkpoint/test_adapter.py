"""Guards LoRA adapters: added to the weights as peft adds them, merged into a repository, refused in a sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from viscpm_hf import VisCPMChat
from viscpm_hf.checkpoint import CheckpointError, convert_chat, export_original, merge_adapter, verify
from viscpm_hf.cli import main
from viscpm_hf.tiny import CHAT_CHECKPOINT, PICTURES, tiny_chat_repo, tiny_paint_repo

peft = pytest.importorskip("peft")
LANGUAGE = r".*language_model\.layers\.\d+\.(self_attn\.(q|v)_proj|mlp\.down_proj)"
BOTH = rf"({LANGUAGE})|.*vision_tower\.layers\.\d+\.(self_attn\.q_proj\.[AB]|mlp\.[AB]\.fc2)|.*connector\.linear_[12]"
KINDS = {
    "plain": {"target_modules": LANGUAGE, "lora_alpha": 60},
    "biases": {"target_modules": BOTH, "lora_alpha": 16, "bias": "lora_only"},
    "vision": {"target_modules": BOTH, "lora_alpha": 60, "alpha_pattern": {r".*(vision_tower|connector).*": 8}},
    "ranks": {"target_modules": LANGUAGE, "lora_alpha": 60, "rank_pattern": {"v_proj": 2}, "use_rslora": True},
    "dora": {"target_modules": LANGUAGE, "lora_alpha": 60, "use_dora": True},
    "connector": {"target_modules": LANGUAGE, "lora_alpha": 60, "modules_to_save": ["connector"], "bias": "all"},
}
QUESTION, PICTURE = "猫在哪里？", PICTURES / "1_cat_and_apple.png"


def base(folder=None):
    return AutoModelForImageTextToText.from_pretrained(folder or tiny_chat_repo(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def inputs():
    return AutoProcessor.from_pretrained(tiny_chat_repo())(images=PICTURE, text=QUESTION, return_tensors="pt")


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits.float()


def random_adapter(folder, **options):
    """A LoRA as peft saves it that changes the answers of the tiny model a little."""
    torch.manual_seed(0)
    model = peft.get_peft_model(base(), peft.LoraConfig(r=4, **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
            elif parameter.requires_grad and "lora_A" not in name:
                parameter.mul_(1.01)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return random_adapter(tmp_path_factory.mktemp("adapter"), **KINDS["vision"])


@pytest.mark.parametrize("kind", KINDS)
def test_merged_answers_as_the_adapter_does(tmp_path, inputs, kind):
    """In float32; stored in the type of the base it is the base's bytes but for what the adapter changes."""
    folder = random_adapter(tmp_path / "adapter", **KINDS[kind])
    expected = logits(peft.PeftModel.from_pretrained(base(), folder), inputs)
    assert (expected - logits(base(), inputs)).abs().max() > 0.05
    out = merge_adapter(tiny_chat_repo(), folder, tmp_path / "out", dtype="float32", progress=False)
    torch.testing.assert_close(logits(base(out), inputs), expected, atol=5e-5, rtol=1e-5)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "float32" and AutoModelForImageTextToText.from_pretrained(out).dtype == torch.float32
    chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False, dtype="float32", adapter=folder)
    torch.testing.assert_close(logits(chat.model, inputs), expected, atol=5e-5, rtol=1e-5)


def test_a_merged_repository_is_a_converted_one(tmp_path, inputs, adapter, capsys):
    """With the base's types and files; exported, converted and verified like any other; the base stays as it was."""
    repo, out = tiny_chat_repo(), tmp_path / "out"
    before = {path: path.stat().st_mtime_ns for path in repo.rglob("*")}
    assert main(["merge", "--model", str(repo), "--adapter", str(adapter), "--output", str(out)]) == 0
    assert capsys.readouterr().out.strip() == f"Written: {out}"
    assert before == {path: path.stat().st_mtime_ns for path in repo.rglob("*")}
    names = {str(path.relative_to(repo)) for path in before}
    assert names == {str(path.relative_to(out)) for path in out.rglob("*")}
    old, new = load_file(repo / "model.safetensors"), load_file(out / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in old.items()} == {name: tensor.dtype for name, tensor in new.items()}
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    lora = load_file(adapter / "adapter_model.safetensors")
    found = {name.removeprefix("base_model.model.").replace(".lora_A", "") for name in lora if "lora_A" in name}
    assert changed == found and len(changed) > 10
    card = (out / "README.md").read_text()
    assert card.count("## Fine-tuned") == 1
    assert json.loads((out / "conversion.json").read_text())["merged"][0]["adapter"] == adapter.name

    checkpoint = export_original(out, tmp_path / "original.bin", progress=False)
    assert not any(result.differences for result in verify(checkpoint, out, progress=False).values())
    options = {
        "llm_config": CHAT_CHECKPOINT / "llm_config.json",
        "vision_config": CHAT_CHECKPOINT / "vision_config.json",
    }
    again = convert_chat(checkpoint, repo / "vocab.txt", tmp_path / "again", progress=False, **options)
    assert torch.equal(logits(base(again), inputs), logits(base(out), inputs))


def test_large_models_are_merged_file_by_file(tmp_path, inputs, adapter, memory_growth):
    sharded, out = tmp_path / "sharded", tmp_path / "out"
    base().save_pretrained(sharded, max_shard_size="2MB")
    growth = memory_growth(
        lambda: merge_adapter(sharded, adapter, out, max_shard_size="1MB", progress=False)  # no conversion.json either
    )
    assert growth < 32 << 20
    assert len(list(out.glob("model-*.safetensors"))) > len(list(sharded.glob("model-*.safetensors"))) > 2
    merged = merge_adapter(tiny_chat_repo(), adapter, tmp_path / "whole", dtype="float32", progress=False)
    assert torch.equal(logits(base(out), inputs), logits(base(merged), inputs))


def test_what_users_of_peft_and_transformers_do(adapter, inputs):
    expected = logits(peft.PeftModel.from_pretrained(base(), adapter), inputs)
    model = base()
    model.load_adapter(str(adapter))
    torch.testing.assert_close(logits(model, inputs), expected)
    model = AutoModelForImageTextToText.from_pretrained(adapter, dtype=torch.float32)  # names its base
    torch.testing.assert_close(logits(model, inputs), expected)
    processor = AutoProcessor.from_pretrained(tiny_chat_repo())
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    content = [{"type": "image", "image": str(PICTURE)}, {"type": "text", "text": QUESTION}]
    (found,) = pipe([{"role": "user", "content": content}], return_full_text=False)
    chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False, dtype="float32", adapter=adapter)
    assert found["generated_text"] == chat.answers([{"image": PICTURE, "question": QUESTION}])[0][0].text


def test_memory_and_types(adapter, inputs):
    expected = logits(VisCPMChat(tiny_chat_repo(), False, dtype="float32", adapter=adapter).model, inputs)
    limited = VisCPMChat(tiny_chat_repo(), False, memory="2GB", adapter=adapter, dtype="float32")
    torch.testing.assert_close(logits(limited.model, inputs), expected)
    packed = VisCPMChat(tiny_chat_repo(), False, dtype="bfloat16", adapter=adapter)  # packed on some CPUs
    assert (logits(packed.model, inputs) - expected).abs().median() < 0.3


def test_quantized_weights_are_refused(adapter, tmp_path):
    pytest.importorskip("torchao")
    with pytest.raises(ValueError, match="for weights that are quantized.*viscpm merge --model DIR"):
        VisCPMChat(tiny_chat_repo(), False, quantization="int8", adapter=adapter)
    shutil.copytree(tiny_chat_repo(), tmp_path / "q")
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (tmp_path / "q" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is quantized, and nothing can be added"):
        merge_adapter(tmp_path / "q", adapter, tmp_path / "out", progress=False)


def change(key, value):
    def apply(folder):
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, key: value}))

    return apply


def tensors(function):
    def apply(folder):
        file = folder / "adapter_model.safetensors"
        save_file(function(load_file(file)), file)

    return apply


def first(found, function):
    name = next(name for name in found if "q_proj.lora_A" in name)
    return {**found, name: function(found[name])}


WRONG = {
    "of another model": (
        tensors(lambda found: {name.replace("q_proj", "query"): tensor for name, tensor in found.items()}),
        r"is an adapter of another model than \S+, which has no model.*query.*weight",
    ),
    "of another size": (
        tensors(lambda found: first(found, lambda tensor: tensor[:, 1:].contiguous())),
        r"another model than \S+ its model.*q_proj.*weight is \[192, 191\], there it is \[192, 192\]|another model",
    ),
    "of half a layer": (
        tensors(lambda found: {name: tensor for name, tensor in found.items() if "q_proj.lora_B" not in name}),
        "does not hold a whole LoRA for model",
    ),
    "of ZeRO-3": (
        tensors(lambda found: first(found, lambda tensor: tensor[:0].contiguous())),
        "not hold a whole LoRA",
    ),
    "of no number": (
        tensors(lambda found: first(found, lambda tensor: tensor * float("nan"))),
        "holds a number that float16 cannot hold",
    ),
    "empty": (tensors(lambda found: {}), "is an empty adapter"),
    "of the head": (
        tensors(lambda found: {"base_model.model.lm_head.weight": torch.ones(2, 2)}),
        "changes lm_head.weight, but embedding and head of .* share their weights",
    ),
    "of embeddings": (
        tensors(lambda found: {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(2, 2)}),
        "holds model.embed_tokens.lora_embedding_A, which cannot be added",
    ),
    "without a configuration": (
        lambda folder: (folder / "adapter_config.json").unlink(),
        "has no adapter_config.json",
    ),
    "without weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "lacks adapter_model.safet"),
    "damaged": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"PK\3\4"), "is damaged"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "not valid JSON"),
    "of another kind": (change("peft_type", "IA3"), "is an adapter of the kind IA3, expected LORA"),
    "of its own base": (change("init_lora_weights", "pissa_niter_4"), "changes the model's own weights as well"),
    "of no strength": (change("lora_alpha", "x"), "has lora_alpha='?x'? for model.*expected a number"),
    "of odd patterns": (change("alpha_pattern", {"(": 3}), "no regular expression"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_adapter_gets_one_sentence(tmp_path, adapter, case):
    spoil, message = WRONG[case]
    shutil.copytree(adapter, tmp_path / "wrong")
    spoil(tmp_path / "wrong")
    with pytest.raises(CheckpointError, match=message):
        merge_adapter(tiny_chat_repo(), tmp_path / "wrong", tmp_path / "out", progress=False)
    with pytest.raises(CheckpointError, match=message):
        VisCPMChat(tiny_chat_repo(), False, adapter=tmp_path / "wrong")
    assert [path.name for path in tmp_path.iterdir()] == ["wrong"]


def test_what_is_no_adapter_gets_one_sentence(tmp_path, adapter, capsys):
    (tmp_path / "run").mkdir()
    shutil.copytree(adapter, tmp_path / "run" / "checkpoint-4")
    (tmp_path / "paint").mkdir()
    (tmp_path / "paint" / "pytorch_lora_weights.safetensors").touch()
    (tmp_path / "delta.bin").touch()
    said = {
        tmp_path / "run": "has no adapter_config.json, but folders that have: checkpoint-4",
        tmp_path / "paint": "but a LoRA of VisCPM-Paint, which the pipeline loads",
        tiny_chat_repo(): "but a whole model",
        tmp_path / "delta.bin": "is a file, expected the folder of a peft adapter; .*viscpm convert lora --input",
        tmp_path / "nothing": "does not exist, expected a folder or a Hub repository",
        "owner/no-such-adapter": "could not be fetched from the Hub",
    }
    for given, message in said.items():
        with pytest.raises(CheckpointError, match=message):
            VisCPMChat(tiny_chat_repo(), False, adapter=given)
    with pytest.raises(CheckpointError, match="is a VisCPM-Paint, whose LoRA the pipeline merges"):
        merge_adapter(tiny_paint_repo(), adapter, tmp_path / "out", progress=False)
    arguments = ["chat", "--adapter", str(tmp_path / "paint"), "--question", QUESTION]
    assert main(arguments) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "a LoRA of VisCPM-Paint" in line


def test_an_adapter_on_the_command_line(adapter, capsys):
    assert main(["chat", "--adapter", str(adapter), "--image", str(PICTURE), "--question", QUESTION]) == 0
    chat = VisCPMChat(tiny_chat_repo(), False, adapter=adapter)
    assert capsys.readouterr().out.strip() == chat.chat(PICTURE, QUESTION)[0]
