"""Gives a trained tiny Paint a language model of other widths, which says the same.

    python -m viscpm_hf.tiny.training.widen --model DIR --output OTHER [--minutes 10]

Quantized weights want widths that are multiples of 64. Width is added with zeros and changes nothing; of the
feed-forward units those that say least are left out, and then language model and projection learn the states that they
had before. UNet and autoencoder stay as they are. DIR is a converted repository.
"""

import argparse
import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ...remote_code.modeling_cpmbee import CpmBeeModel
from ...remote_code.modeling_viscpm_paint import VisCPMPaintTextProjection
from .export import write_original_paint
from .loop import train_for
from .paint_data import PaintData, encode_prompts, prepare_paint
from .paint_learners import TextLearner, prompt_mask
from .train_paint import CROSS_ATTENTION_DIM, tiny_text_encoder


@torch.no_grad()
def widened(old: CpmBeeModel, projection: VisCPMPaintTextProjection) -> tuple[CpmBeeModel, VisCPMPaintTextProjection]:
    """The same function of prompts in the widths of `tiny_text_encoder`, but for the units that are left out.

    What is new in a state is zero, so that norms grow by sqrt(new / old); embeddings and outputs are divided by the
    root of a width and make up for it. New inputs of a matrix are noise: they multiply zeros, and can learn.
    """
    new = tiny_text_encoder()
    new_projection = VisCPMPaintTextProjection(new.config.hidden_size, CROSS_ATTENTION_DIM)
    width, inner = old.config.hidden_size, old.config.num_attention_heads * old.config.head_dim
    grown = (new.config.hidden_size / width) ** 0.5
    grown_inner = (new.config.num_attention_heads * new.config.head_dim / inner) ** 0.5
    grown_units = (new.config.intermediate_size / old.config.intermediate_size) ** 0.5

    def copy(target: nn.Module, source: torch.Tensor, rows: int = 0, columns: int = 0) -> None:
        """Zeros in new rows, a little noise in new columns of old rows; a vector has rows only."""
        weight = target.weight
        if weight.dim() == 1:
            weight[:width] = source
            return
        weight.mul_(0.3)
        weight[rows:] = 0
        weight[:rows, :columns] = source

    new.embed_tokens.weight.zero_()
    new.embed_tokens.weight[:, :width] = old.embed_tokens.weight * grown
    copy(new.norm, old.norm.weight / grown)
    new.norm.weight[width:] = 1 / grown
    bias, old_bias = (each.position_bias.relative_attention_bias.weight for each in (new, old))
    bias.zero_()
    bias[:, : old_bias.shape[1]] = old_bias
    new_projection.norm.load_state_dict(projection.norm.state_dict())
    copy(new_projection.linear, projection.linear.weight, CROSS_ATTENTION_DIM, width)
    for target, source in zip(new.layers, old.layers, strict=True):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            copy(target.get_submodule(norm), source.get_submodule(norm).weight)
        for name in ("q_proj", "k_proj", "v_proj"):
            copy(target.self_attn.get_submodule(name), source.self_attn.get_submodule(name).weight, inner, width)
        copy(target.self_attn.o_proj, source.self_attn.o_proj.weight * grown_inner, width, inner)
        mlp, old_mlp = target.mlp, source.mlp
        loud = old_mlp.down_proj.weight.norm(dim=0) * old_mlp.up_proj.weight.norm(dim=1)
        kept = loud.topk(len(mlp.up_proj.weight)).indices.sort().values
        for name in ("gate_proj", "up_proj"):
            copy(mlp.get_submodule(name), old_mlp.get_submodule(name).weight[kept], len(kept), width)
        copy(mlp.down_proj, old_mlp.down_proj.weight[:, kept] * grown_units, width, len(kept))
    return new, new_projection


class StatesLearner(nn.Module):
    """New parts with the mean square of what their states differ by from those of the old ones."""

    def __init__(self, new: TextLearner, old: TextLearner):
        super().__init__()
        self.new, self.old = new, [old]  # in a list: its weights are not to be trained or kept
        for module in (new.parts, *new.reader.parameters(), *new.head.parameters()):
            module.requires_grad_(False)

    def forward(self) -> torch.Tensor:
        data, (old,) = self.new.data, self.old
        scenes, which = data.choose(self.new.batch_size)
        mask = prompt_mask(data, data.lengths[scenes, which])
        inputs = data.input_ids[scenes, which], data.segment_ids[scenes, which], mask
        # the last one is the empty prompt, which every picture is painted with
        for tensor, empty in zip(inputs, (data.empty_ids, data.empty_segments, data.empty_ids != 0), strict=True):
            tensor[-1] = empty
        with torch.no_grad(), torch.autocast(mask.device.type, enabled=False):
            wanted = old.states(*inputs)
        return (self.new.states(*inputs) - wanted).float()[mask].square().mean()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="converted Paint repository")
    parser.add_argument("--output", type=Path, required=True, help="folder for the state and the finished model")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--scenes", type=int, default=20_000, help="with four prompts each")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    pipeline = DiffusionPipeline.from_pretrained(args.model, trust_remote_code=True, dtype=torch.float32)
    numbers = prepare_paint(args.scenes, 4, args.seed, workers=1)
    rows, nothing = numbers.pop("rows"), torch.zeros(args.scenes, 1, 1, dtype=torch.uint8)
    empty_length = len(encode_prompts([""])["input_ids"][0])
    data = PaintData(rows[:1], nothing, nothing, empty_length=empty_length, **numbers)
    parts = widened(pipeline.text_encoder, pipeline.text_projection)
    new, old = (
        TextLearner(*each, data, args.batch_size)
        for each in (parts, (pipeline.text_encoder, pipeline.text_projection))
    )
    learner = StatesLearner(new, old)
    with torch.no_grad():
        print(f"before: {float(learner()):.6f}")
    rates = {r"text_encoder\.(embed_tokens|layers.*_proj)": args.rate * parts[0].config.hidden_size ** 0.5}
    rates |= {"position_bias": args.rate * 5, "": args.rate}
    train_for(learner, 60 * args.minutes, rates, args.output / "widen.pt", seed=args.seed, decay=0.995)
    with torch.no_grad():
        print(f"after: {float(learner()):.6f}")
    write_original_paint(parts[0], pipeline.unet, parts[1], pipeline.vae, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
