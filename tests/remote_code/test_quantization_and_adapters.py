"""Guards that 8-bit, 4-bit and LoRA replace every linear layer of the language model, and none elsewhere."""

import re

import pytest
import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, TorchAoConfig

from viscpm_hf import VisCPMChatConfig, VisCPMChatForConditionalGeneration

LANGUAGE_LINEARS = 3 * 7  # layers × (q, k, v, o, gate, up, down)
ONLY_THE_LANGUAGE_MODEL = ["model.vision_tower", "model.connector", "lm_head"]
LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


@pytest.fixture(scope="module")
def wide_repo(chat_model, tmp_path_factory):
    """A random model whose sizes are multiples of 64: bitsandbytes' 4-bit kernels for the CPU take no others."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 16}
    config = VisCPMChatConfig(
        text_config={**chat_model.config.text_config.to_dict(), **sizes},
        vision_config=chat_model.config.vision_config.to_dict(),
    )
    torch.manual_seed(0)
    VisCPMChatForConditionalGeneration(config).float().save_pretrained(folder)
    return folder


def quantization_config(kind):
    if kind == "bitsandbytes-8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=ONLY_THE_LANGUAGE_MODEL)
    if kind == "bitsandbytes-4bit":
        return BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=ONLY_THE_LANGUAGE_MODEL)
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig(version=2), modules_to_not_convert=ONLY_THE_LANGUAGE_MODEL)


def replaced(model):
    """Names of linear layers that are no longer plain: another class, or a quantized tensor as weight."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (type(module) is not torch.nn.Linear or type(module.weight) is not torch.nn.Parameter)
    ]


@pytest.mark.parametrize("kind", ["bitsandbytes-8bit", "bitsandbytes-4bit", "torchao-int8"])
def test_quantizers_replace_every_language_model_linear(wide_repo, chat_inputs, kind, tmp_path):
    pytest.importorskip(kind.split("-")[0])
    model = AutoModelForImageTextToText.from_pretrained(wide_repo, quantization_config=quantization_config(kind))
    names = replaced(model)
    assert len(names) == LANGUAGE_LINEARS, names
    assert all(name.startswith("model.language_model.layers.") for name in names)
    inputs = chat_inputs((0, "这张图片里有什么？"))
    model.save_pretrained(tmp_path)  # before any forward pass: bitsandbytes repacks 4-bit weights on the CPU
    plain = AutoModelForImageTextToText.from_pretrained(wide_repo)
    logits, expected = model(**inputs).logits.float(), plain(**inputs).logits
    # a random tiny model amplifies rounding, so this only tells "lossy" from "broken"
    assert torch.nn.functional.cosine_similarity(logits.flatten(), expected.flatten(), dim=0) > 0.7
    assert model.generate(**inputs, max_new_tokens=4).shape[1] == inputs["input_ids"].shape[1] + 4
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert len(replaced(reloaded)) == LANGUAGE_LINEARS
    torch.testing.assert_close(reloaded(**inputs).logits.float(), logits)


def test_lora_trains_saves_reloads_and_merges(chat_repo, chat_inputs, tmp_path):
    peft = pytest.importorskip("peft")
    inputs = chat_inputs((0, "这张图片里有什么？"), (1, "q"))
    config = peft.LoraConfig(r=4, target_modules=LORA_TARGETS, modules_to_save=["connector"])
    torch.manual_seed(0)
    model = peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(chat_repo), config)
    adapted = [name for name, module in model.named_modules() if re.search(r"lora_A\.default$", name)]
    assert len(adapted) == LANGUAGE_LINEARS
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = model(**inputs, labels=inputs["input_ids"].clamp(max=400)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    expected = model(**inputs).logits
    model.save_pretrained(tmp_path)
    base = AutoModelForImageTextToText.from_pretrained(chat_repo)
    assert not torch.allclose(base(**inputs).logits, expected, atol=1e-2)
    reloaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(reloaded(**inputs).logits, expected)
    torch.testing.assert_close(reloaded.merge_and_unload()(**inputs).logits, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("targets", "language", "vision"), [(["q_proj", "v_proj"], 3 * 2, 0), ("all-linear", 3 * 7, 1)]
)
def test_lora_by_the_usual_names(chat_repo, chat_inputs, targets, language, vision):
    """BEiT-3's pairs of layers are named like CpmBee's layers, but are no layers that peft knows."""
    peft = pytest.importorskip("peft")
    inputs = chat_inputs((0, "这张图片里有什么？"))
    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(chat_repo), config).eval()
    adapted = [name for name, _ in model.named_modules() if name.endswith("lora_A.default")]
    assert sum("language_model" in name for name in adapted) == language
    assert (sum("vision_tower" in name for name in adapted) > 0) == bool(vision)
    expected = model(**inputs).logits
    torch.testing.assert_close(model.merge_and_unload()(**inputs).logits, expected, atol=1e-3, rtol=1e-4)


def test_prompt_tuning_sees_tokens_as_the_model_does(chat_model, chat_repo, chat_inputs):
    """With ids and mask alone; a prompt in segments has no place for tokens before it."""
    peft = pytest.importorskip("peft")
    base = AutoModelForImageTextToText.from_pretrained(chat_repo)
    ids = torch.tensor([[20, 21, 30, 31, 32]])
    expected = chat_model(input_ids=ids).logits[:, 2:]
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, token_dim=40, num_layers=3)
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        prompt = base.get_input_embeddings()(ids[0, :2])
        model.prompt_encoder["default"].embedding.weight.copy_(prompt)
    found = model(input_ids=ids[:, 2:], attention_mask=torch.ones(1, 3, dtype=torch.long)).logits
    torch.testing.assert_close(found[:, -3:], expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="prompt learning"):
        model.generate(**chat_inputs((None, "q")), num_beams=3, max_new_tokens=3)
    with pytest.raises(ValueError, match="Prompt tuning"):
        model(**{key: value for key, value in chat_inputs((None, "q")).items() if key != "mm_token_type_ids"})


def test_prefix_tuning_is_refused_where_it_has_no_place(chat_repo, chat_inputs):
    """Keys before the prompt are in no segment; nothing is answered as if they were not there."""
    peft = pytest.importorskip("peft")
    base = AutoModelForImageTextToText.from_pretrained(chat_repo)
    model = peft.get_peft_model(base, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    for beams in (1, 3):
        with pytest.raises(ValueError, match="Prefix tuning|prompt learning"):
            model.generate(**chat_inputs((None, "q")), num_beams=beams, max_new_tokens=3)
