"""Guards the widening of Paint's language model: it says the same, and what is left out is learned again."""

import torch
from diffusers import DiffusionPipeline

from viscpm_hf.remote_code.modeling_cpmbee import CpmBeeConfig, CpmBeeModel
from viscpm_hf.remote_code.modeling_viscpm_paint import VisCPMPaintTextProjection
from viscpm_hf.tiny import tiny_paint_repo
from viscpm_hf.tiny.training import widen
from viscpm_hf.tiny.training.paint_data import encode_prompts
from viscpm_hf.tiny.training.train_paint import CROSS_ATTENTION_DIM, tiny_text_encoder

PROMPTS = ["草地上有一只猫", "a rocket at night"]


def parts(**sizes):
    config = CpmBeeConfig(**{**tiny_text_encoder().config.to_dict(), "logit_scale": None, **sizes})
    projection = VisCPMPaintTextProjection(config.hidden_size, CROSS_ATTENTION_DIM)
    return CpmBeeModel(config).eval(), projection.eval()


def states(text_encoder, projection):
    with torch.no_grad():
        hidden_states = text_encoder(**encode_prompts(PROMPTS), use_cache=False).last_hidden_state
        return projection(hidden_states).hidden_states


def test_more_width_says_the_same():
    """Of a model with other widths and as many units, the states stay but for rounding; with fewer they do not."""
    torch.manual_seed(0)
    units = tiny_text_encoder().config.intermediate_size
    narrow = parts(hidden_size=96, num_attention_heads=3)
    wanted = states(*narrow)
    assert torch.allclose(states(*widen.widened(*narrow)), wanted, atol=1e-3)
    larger = parts(hidden_size=96, num_attention_heads=3, intermediate_size=2 * units)
    assert not torch.allclose(states(*widen.widened(*larger)), states(*larger), atol=1e-3)


def test_the_command_writes_a_model_in_the_originals_layout(tmp_path, capsys):
    """That converts as any other; what the states differ by is printed before and after."""
    command = f"--model {tiny_paint_repo()} --output {tmp_path} --minutes 0.02 --scenes 4 --batch-size 2"
    assert widen.main(command.split()) == 0
    before, after = (float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[:2])
    assert before < 1e-6 and after < 0.01  # the shipped model has these widths already
    assert {"pytorch_model.bin", "llm_config.json", "sd_base", "vocab.txt"} <= {
        path.name for path in tmp_path.iterdir()
    }
    shipped = DiffusionPipeline.from_pretrained(tiny_paint_repo(), trust_remote_code=True).text_encoder.config
    assert shipped.hidden_size % 64 == 0 and shipped.intermediate_size % 64 == 0
