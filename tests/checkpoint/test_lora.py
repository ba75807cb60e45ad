"""Guards LoRA weights of OpenDelta as peft adapters: they change outputs as they did in the original."""

import io
import json
import math
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from viscpm_hf import VisCPMChat
from viscpm_hf.checkpoint import CheckpointError, convert_cpmbee, convert_lora, merge_adapter
from viscpm_hf.checkpoint.publishing import read_contents
from viscpm_hf.checkpoint.publishing.card import card_of
from viscpm_hf.cli import main
from viscpm_hf.tiny import tiny_paint_repo

GOLDEN = Path(__file__).parents[1] / "golden"
peft = pytest.importorskip("peft")
R, ALPHA = 3, 16
ATTENTION, FFN = "encoder.layers.{}.self_att.self_attention.", "encoder.layers.{}.ffn.ffn."
# names in the original and here, and the width whose root the original divides the product by
QV = {ATTENTION + "project_q": "self_attn.q_proj", ATTENTION + "project_v": "self_attn.v_proj"}
ALL = QV | {
    ATTENTION + "project_k": "self_attn.k_proj",
    ATTENTION + "attention_out": "self_attn.o_proj",
    FFN + "w_in.w_0": "mlp.gate_proj",
    FFN + "w_in.w_1": "mlp.up_proj",
    FFN + "w_out": "mlp.down_proj",
}


def delta(model, targets, before="", after=".lora.lora_{}", r=R):
    """A state dict as OpenDelta saves it, of random numbers."""
    torch.manual_seed(3)
    found = {}
    for number, layer in enumerate(model.layers):
        for original, name in targets.items():
            width_out, width_in = layer.get_submodule(name).weight.shape
            place = before + original.format(number) + after
            found[place.format("A")] = torch.randn(r, width_in) / 4
            found[place.format("B")] = torch.randn(width_out, r) / 4
    return found


def original_outputs(model, language_model, targets, found, inputs, scale_before_product):
    """Outputs with the original's arithmetic: a layer's product over sqrt(fan_in), and its input times the delta."""
    hooks = []
    for number, layer in enumerate(language_model.layers):
        for original, name in targets.items():
            a, b = (found[f"{original.format(number)}.lora.lora_{key}"] for key in "AB")
            linear = layer.get_submodule(name)
            root = math.sqrt(linear.in_features)

            def hook(module, args, output, name=name, a=a, b=b, root=root):
                (states,) = args  # which here are divided already, so that the product need not be, with exceptions
                divided = name not in ("self_attn.o_proj", "mlp.down_proj") or (
                    name == "mlp.down_proj" and scale_before_product
                )
                states = states * root if divided else states
                product = torch.nn.functional.linear(states, module.weight) / root
                with_delta = product + (states @ a.T @ b.T) * (ALPHA / len(a))
                return with_delta if divided else with_delta * root

            hooks.append(linear.register_forward_hook(hook))
    with torch.no_grad():
        logits = model(**inputs).logits
    for hook in hooks:
        hook.remove()
    return logits


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits


@pytest.mark.parametrize("targets", [QV, ALL], ids=["query and value", "all"])
@pytest.mark.parametrize("before", ["", "llm.", "module.llm."])
def test_chat_changes_as_the_original_did(chat_repo, chat_model, chat_inputs, tmp_path, targets, before):
    inputs, language_model = chat_inputs((0, "这张图片里有什么？")), chat_model.model.language_model
    torch.save(delta(language_model, targets, before), tmp_path / "delta.bin")
    folder = convert_lora(tmp_path / "delta.bin", chat_repo, tmp_path / "adapter", progress=False)
    found = delta(language_model, targets)
    expected = original_outputs(chat_model, language_model, targets, found, inputs, scale_before_product=True)
    assert (expected - logits(chat_model, inputs)).abs().max() > 1
    adapted = peft.PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(chat_repo), folder)
    torch.testing.assert_close(logits(adapted, inputs), expected, atol=1e-3, rtol=1e-4)
    merged = merge_adapter(chat_repo, folder, tmp_path / "merged", progress=False)
    model = AutoModelForImageTextToText.from_pretrained(merged)
    torch.testing.assert_close(logits(model, inputs), expected, atol=1e-3, rtol=1e-4)
    chat = VisCPMChat(chat_repo, False, adapter=folder)
    torch.testing.assert_close(logits(chat.model, inputs), expected, atol=1e-3, rtol=1e-4)
    written = load_file(folder / "adapter_model.safetensors")
    assert sorted(t.sum().item() for t in written.values()) == sorted(t.sum().item() for t in found.values())


def test_a_text_model_changes_as_the_original_did(chat_checkpoint, golden, tmp_path):
    """Whose last layer of a block divides after the product."""
    weights = golden("chat_weights.safetensors")
    own = {name.removeprefix("llm."): tensor for name, tensor in weights.items() if name.startswith("llm.")}
    torch.save(own, tmp_path / "text.bin")
    vocab, config = GOLDEN / "vocab.txt", chat_checkpoint / "llm_config.json"
    repo = convert_cpmbee(tmp_path / "text.bin", vocab, tmp_path / "text", llm_config=config, progress=False)
    model = AutoModelForCausalLM.from_pretrained(repo).eval()
    found, inputs = delta(model.model, ALL), {"input_ids": torch.tensor([[20, 21, 30, 31, 32]])}
    torch.save(found, tmp_path / "delta.pt")
    expected = original_outputs(model, model.model, ALL, found, inputs, scale_before_product=False)
    folder = convert_lora(tmp_path / "delta.pt", repo, tmp_path / "adapter", progress=False)
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(repo), folder)
    torch.testing.assert_close(logits(adapted, inputs), expected, atol=1e-3, rtol=1e-4)


def test_strength_and_names_of_other_programs(chat_repo, chat_model, tmp_path, capsys):
    found = delta(chat_model.model.language_model, QV, "base_model.model.llm.", ".lora_{}.default.weight", r=2)
    found |= delta(chat_model.model.language_model, {ATTENTION + "project_k": "self_attn.k_proj"}, r=5)
    torch.save({"state_dict": found}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"delta_type": "lora", "lora_alpha": 32}')
    arguments = ["convert", "lora", "--input", str(tmp_path / "pytorch_model.bin"), "--model", str(chat_repo)]
    assert main([*arguments, "--output", str(tmp_path / "beside")]) == 0
    assert main([*arguments, "--output", str(tmp_path / "said"), "--alpha", "8"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("Converted")
    width = chat_model.config.text_config.hidden_size
    for name, alpha in (("beside", 32), ("said", 8)):
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert config["lora_alpha"] == pytest.approx(alpha * math.sqrt(width)) and config["r"] == 2
        assert len(config["target_modules"]) == 9 and set(config["rank_pattern"].values()) == {5}
        peft.PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(chat_repo), tmp_path / name)
        merge_adapter(chat_repo, tmp_path / name, tmp_path / f"{name}-merged", progress=False)


def renamed(found, old, new):
    return {name.replace(old, new): tensor for name, tensor in found.items()}


WRONG = {
    "other weights as well": (lambda found: {**found, "llm.output.weight": torch.ones(2)}, "more than LoRA weights"),
    "none": (
        lambda found: {"encoder.layers.0.adapter.down.weight": torch.ones(2)},
        "holds no LoRA weights of CPM-Bee",
    ),
    "embeddings": (lambda found: {**found, "input_embedding.lora.lora_A": torch.ones(2, 2)}, "more than LoRA weights"),
    "half": (lambda found: {k: v for k, v in found.items() if "q.lora.lora_B" not in k}, "hold a whole LoRA for"),
    "ranks": (lambda found: {k: v[:1] if "_A" in k else v for k, v in found.items()}, "hold a whole LoRA for"),
    "whole numbers": (lambda found: {k: v.int() for k, v in found.items()}, "hold a whole LoRA for"),
    "only A": (lambda found: {k: v for k, v in found.items() if "_A" in k}, "hold a whole LoRA for"),
    "four axes": (lambda found: {k: v[None, None] for k, v in found.items()}, "hold a whole LoRA for"),
    "no rank": (
        lambda found: {k: v[:0] if "_A" in k else v[:, :0] for k, v in found.items()},
        "are empty",
    ),
    "NaN": (lambda found: {k: v * float("nan") for k, v in found.items()}, "holds NaN or infinity for"),
    "infinity": (lambda found: {k: v / 0 if "_B" in k else v for k, v in found.items()}, "holds NaN or infinity for"),
    "no layer": (lambda found: renamed(found, "project_q", "project_z"), "more than LoRA weights"),
    "twice": (lambda found: found | renamed(found, "encoder.", "llm.encoder."), "twice, under different prefixes"),
    "another size": (lambda found: {k: v[:, 1:] if "_A" in k else v for k, v in found.items()}, "of another model"),
    "more layers": (lambda found: renamed(found, "layers.2.", "layers.47."), r"which has no \S+layers.47"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_taken_gets_one_sentence(chat_repo, chat_model, tmp_path, case):
    spoil, message = WRONG[case]
    torch.save(spoil(delta(chat_model.model.language_model, QV)), tmp_path / "delta.bin")
    with pytest.raises(CheckpointError, match=message):
        convert_lora(tmp_path / "delta.bin", chat_repo, tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["delta.bin"]


def test_other_models_and_strengths_are_refused(chat_repo, chat_model, tmp_path):
    torch.save(delta(chat_model.model.language_model, QV), tmp_path / "delta.bin")
    with pytest.raises(CheckpointError, match="is a VisCPM-Paint, expected a converted VisCPM-Chat or CPM-Bee"):
        convert_lora(tmp_path / "delta.bin", tiny_paint_repo(), tmp_path / "out", progress=False)
    for alpha in (0.0, float("nan"), float("inf")):
        with pytest.raises(CheckpointError, match="Got alpha"):
            convert_lora(tmp_path / "delta.bin", chat_repo, tmp_path / "out", alpha=alpha, progress=False)
    (tmp_path / "config.json").write_text('{"delta_type": "lora", "lora_alpha": "16"}')
    with pytest.raises(CheckpointError, match="has lora_alpha=.*expected a number; give --alpha"):
        convert_lora(tmp_path / "delta.bin", chat_repo, tmp_path / "out", progress=False)


@pytest.mark.parametrize("language", ["en_US.UTF-8", "zh_CN.UTF-8"])
def test_what_was_found_is_said_and_lies_beside_it(chat_repo, chat_model, tmp_path, capsys, monkeypatch, language):
    monkeypatch.setenv("LC_ALL", language)
    monkeypatch.delenv("LANGUAGE", raising=False)
    found = {name: tensor.half() for name, tensor in delta(chat_model.model.language_model, QV).items()}
    torch.save(found, tmp_path / "delta.bin")
    arguments = ["--input", tmp_path / "delta.bin", "--model", chat_repo, "--output", tmp_path / "mine"]
    assert main(["convert", "lora", *map(str, arguments), "--alpha", "32"]) == 0
    out, err = capsys.readouterr()
    chinese = language.startswith("zh")
    said = (
        "秩 3，alpha 32，6 层（q_proj、v_proj），float16"
        if chinese
        else "rank 3, alpha 32, 6 layers (q_proj, v_proj), float16"
    )
    assert out.splitlines()[1] == said
    assert f"{chat_repo}" in err and "--base-model" in err
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert "# mine" in card and f'base = "{chat_repo}"' in card and f'repo = "{tmp_path / "mine"}"' in card
    assert "base_model: openbmb/VisCPM-Chat" in card and "r = 3" in card
    published = card_of(read_contents(tmp_path / "mine"), "me/mine", "me/base")  # nobody has edited it
    assert str(tmp_path) not in published.decode() and 'base = "me/base"' in published.decode()


FILES = {
    "cut": lambda content: content[: len(content) // 2],
    "a byte off": lambda content: content[:-1],
    "text": lambda content: b"hello",
    "nothing": lambda content: b"",
    "another zip": lambda content: zipped(b"hello"),
    "json": lambda content: b'{"lora_A": [1]}',
}


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", content)
    return file.getvalue()


@pytest.mark.parametrize("name", ["delta.bin", "delta.safetensors", "delta.pt"])
@pytest.mark.parametrize("case", FILES)
def test_files_that_are_none_get_one_sentence(chat_repo, chat_model, tmp_path, capsys, case, name):
    found = delta(chat_model.model.language_model, QV)
    save_file(found, tmp_path / name) if name.endswith("tensors") else torch.save(found, tmp_path / name)
    (tmp_path / name).write_bytes(FILES[case]((tmp_path / name).read_bytes()))
    arguments = ["--input", tmp_path / name, "--model", chat_repo, "--output", tmp_path / "out"]
    assert main(["convert", "lora", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and name in err
    assert [path.name for path in tmp_path.iterdir()] == [name]
