"""The golden VisCPM-Paint as components, without conversion; short runs of it; tiny checkers and a tiny ranker."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    ChineseCLIPProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
)

from viscpm_hf import CpmBeeConfig, CpmBeeModel, CpmBeeTokenizer, VisCPMPaintPipeline, VisCPMPaintTextProjection

GOLDEN = Path(__file__).parent / "golden"
CPMBEE_NAMES = {
    "input_embedding": "embed_tokens",
    "encoder.layers": "layers",
    "encoder.output_layernorm": "norm",
    "self_att.layernorm_before_attention": "input_layernorm",
    "self_att.self_attention.attention_out": "self_attn.o_proj",
    "self_att.self_attention.project_": "self_attn.",
    "ffn.layernorm_before_ffn": "post_attention_layernorm",
    "ffn.ffn.w_in.w_0": "mlp.gate_proj",
    "ffn.ffn.w_in.w_1": "mlp.up_proj",
    "ffn.ffn.w_out": "mlp.down_proj",
    "relative_attention_bias": "relative_attention_bias.weight",
}
PROJECTION_NAMES = {"w_out_res": "linear", "layernorm": "norm"}
OPTIONAL = ("safety_checker", "feature_extractor", "prompt_checker", "prompt_checker_tokenizer")
OPTIONAL += ("ranker", "ranker_processor")
PROMPT, LONG = "海上生明月，天涯共此时", "a red car on 鲲鹏 street"
SHORT, UNSAFE = "北京", "坏东西"
EXACT = {"atol": 1e-5, "rtol": 0}  # of images in [0, 1], where a pixel's step is 4e-3
FEW = {"num_inference_steps": 2, "output_type": "pt"}


def renamed(weights, prefix, names):
    """The tensors under a prefix, with parts of their names replaced."""
    result = {}
    for key, value in weights.items():
        if key.startswith(prefix):
            key = key.removeprefix(prefix)
            for original, name in names.items():
                key = key.replace(original, name)
            for short in "qkv":
                key = key.replace(f"self_attn.{short}.", f"self_attn.{short}_proj.")
            result[key] = value
    return result


def golden_components():
    """Components of the golden checkpoint in float32, the optional ones None."""
    config = json.loads((GOLDEN / "paint_config.json").read_text(encoding="utf-8"))
    weights, llm = load_file(GOLDEN / "paint_weights.safetensors"), config["llm"]
    text_encoder = CpmBeeModel(
        CpmBeeConfig(
            vocab_size=llm["vocab_size"],
            hidden_size=llm["dim_model"],
            intermediate_size=llm["dim_ff"],
            num_hidden_layers=llm["num_layers"],
            num_attention_heads=llm["num_heads"],
            head_dim=llm["dim_head"],
            position_bias_num_buckets=llm["position_bias_num_buckets"],
            position_bias_num_segment_buckets=llm["position_bias_num_segment_buckets"],
            position_bias_max_distance=llm["position_bias_max_distance"],
            rotary_dtype="float32",
        )
    )
    text_encoder.load_state_dict(renamed(weights, "llm.", CPMBEE_NAMES))
    projection = VisCPMPaintTextProjection(config["trans_block"]["dim_model"], config["trans_block"]["dim_out"])
    projection.load_state_dict(renamed(weights, "trans_block.", PROJECTION_NAMES))
    unet = UNet2DConditionModel(**config["unet"])
    unet.load_state_dict(renamed(weights, "unet.", {}))
    vae = AutoencoderKL(**config["vae"])
    vae.load_state_dict(load_file(GOLDEN / "paint_vae.safetensors"))
    return {
        "tokenizer": CpmBeeTokenizer(str(GOLDEN / "vocab.txt")),
        "text_encoder": text_encoder.eval(),
        "text_projection": projection.eval(),
        "unet": unet.eval(),
        "vae": vae.eval(),
        "scheduler": DDPMScheduler(**config["scheduler"], steps_offset=0),
        **dict.fromkeys(OPTIONAL),
    }


def golden_pipeline(**components):
    """A pipeline of the golden checkpoint, with some components replaced."""
    pipe = VisCPMPaintPipeline(**{**golden_components(), **components}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paints_the_originals_pictures(pipe, **arguments):
    """Runs the recorded case of 50 steps and two pictures; they may differ by one level."""
    case = json.loads((GOLDEN / "paint_golden.json").read_text(encoding="utf-8"))["full_generate"]
    pictures = pipe(
        case["prompt"],
        negative_prompt=case["negative_prompt"],
        height=case["image_size"],
        width=case["image_size"],
        guidance_scale=case["guidance_scale"],
        num_images_per_prompt=case["num_images_per_prompt"],
        generator=torch.Generator().manual_seed(case["seed"]),
        **arguments,
    ).images
    expected = [np.asarray(Image.open(GOLDEN / file), dtype=int) for file in case["files"]]
    found = [np.asarray(picture, dtype=int) for picture in pictures]
    return all(np.abs(one - other).max() <= 1 for one, other in zip(found, expected, strict=True))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def paint(pipe, prompt=PROMPT, seed=0, **arguments):
    return pipe(prompt, **{**FEW, "generator": seeded(seed), **arguments}).images


def add_lora(model, **options):
    """Adds a random LoRA to a UNet or a text encoder; its tensors. transformers can ask for a peft yet to come."""
    names = ["to_k", "to_v"] if hasattr(model, "conv_in") else ["q_proj", "v_proj", "up_proj"]
    torch.manual_seed(0)
    name = options.pop("adapter_name", "default")
    try:
        config = {"r": 4, "lora_alpha": 4, "target_modules": names, "init_lora_weights": False, **options}
        model.add_adapter(LoraConfig(**config), adapter_name=name)
    except ValueError as error:
        if "version of PEFT" in str(error):
            pytest.skip(str(error))
        raise
    return get_peft_model_state_dict(model, adapter_name=name)


def record(module, kept):
    """Inputs and outputs of every call of a module."""
    calls = []
    handle = module.register_forward_hook(
        lambda module, args, kwargs, output: calls.append(kept(args, kwargs, output)), with_kwargs=True
    )
    return calls, handle


def characters(folder, texts):
    """A BERT tokenizer whose words are the characters of some texts."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set("".join(texts)) - {" "})]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return BertTokenizer(str(folder / "vocab.txt"))


BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {**BERT, "image_size": 32, "patch_size": 8}


def prompt_checker_parts(folder, safe, unsafe):
    """A real BERT classifier that refuses one of two texts, fitted in a moment."""
    tokenizer = characters(folder, [safe, unsafe])
    torch.manual_seed(0)
    config = BertConfig(**BERT, vocab_size=len(tokenizer), max_position_embeddings=24, num_labels=2)
    model = BertForSequenceClassification(config).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    inputs = tokenizer([safe, unsafe], padding=True, return_tensors="pt")
    for _ in range(60):
        model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"prompt_checker": model, "prompt_checker_tokenizer": tokenizer}


def safety_checker_parts(unsafe, safe):
    """A real Stable Diffusion safety checker that finds one of two pictures unsafe."""
    torch.manual_seed(0)
    config = CLIPConfig(vision_config={**VISION, "initializer_factor": 20.0}, text_config=BERT, projection_dim=8)
    model = StableDiffusionSafetyChecker(config).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    with torch.no_grad():
        embeds = model.visual_projection(
            model.vision_model(processor([unsafe, safe], return_tensors="pt").pixel_values)[1]
        )
        model.concept_embeds_weights.fill_(2.0)  # a cosine never reaches it
        model.special_care_embeds_weights.fill_(2.0)
        model.concept_embeds[0] = embeds[0]
        model.concept_embeds_weights[0] = (1 + torch.cosine_similarity(*embeds, dim=0)) / 2
    return {"safety_checker": model, "feature_extractor": processor}


def ranker_parts(folder, texts):
    """A real Chinese-CLIP with random weights."""
    tokenizer = characters(folder, texts)
    torch.manual_seed(1)
    config = ChineseCLIPConfig(
        text_config={**BERT, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "initializer_range": 1.0},
        vision_config={**VISION, "initializer_factor": 20.0, "initializer_range": 1.0},
        projection_dim=8,
    )
    size = {"height": 32, "width": 32}
    processor = ChineseCLIPProcessor(ChineseCLIPImageProcessorPil(size=size, crop_size=size), tokenizer)
    return {"ranker": ChineseCLIPModel(config).eval(), "ranker_processor": processor}
