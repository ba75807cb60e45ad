"""Trains the tiny VisCPM-Paint from scratch and writes it in the original's layout.

    python -m viscpm_hf.tiny.training.train_paint --output DIR [--minutes 150]

First the autoencoder learns to draw the world's pictures, then its decoder alone gets sharper; then the language model
learns what prompts mean, and at last UNet, projection and language model together learn to paint. On a GPU it takes
minutes. The same command resumes from the last state in DIR; the model as it is then is written there once a minute.
"""

import argparse
import copy
import math
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tqdm import tqdm

from ...remote_code.modeling_cpmbee import CpmBeeConfig, CpmBeeModel
from ...remote_code.modeling_viscpm_paint import VisCPMPaintTextProjection
from ..world.pictures import IMAGE_SIZE
from ..world.things import THINGS
from .export import write_original_paint
from .loop import SPEEDS, train_for
from .paint_data import MAP_PIXELS, OFTEN, PaintData, draw_rows, paint_tokenizer, prepare_paint, seen_maps, to_pixels
from .paint_learners import PaintLearner, TextLearner, VaeLearner, light_norms

CROSS_ATTENTION_DIM = 128
PHASES = {"vae": 0.21, "decoder": 0.08, "words": 0.07, "paint": 0.64}  # shares of the time
BATCH_SIZES = {"cuda": (128, 128, 1024, 512), "cpu": (8, 8, 64, 32)}
SCENES = {"cuda": 200_000, "cpu": 20_000}


def tiny_vae(size: int) -> AutoencoderKL:
    """An autoencoder that makes 24x24 latents of 96x96 pictures; with a factor of 8 colours wash out."""
    return AutoencoderKL(
        sample_size=size,
        block_out_channels=(32, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
    )


def tiny_unet(size: int) -> UNet2DConditionModel:
    """Three levels: only on the lowest does every pixel know from the padding where it is."""
    return UNet2DConditionModel(
        sample_size=size // 4,
        block_out_channels=(64, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=CROSS_ATTENTION_DIM,
        attention_head_dim=4,  # heads, as in the original's configuration
        use_linear_projection=True,
    )


def tiny_text_encoder() -> CpmBeeModel:
    config = CpmBeeConfig(
        vocab_size=paint_tokenizer().vocab_size,
        hidden_size=192,  # multiples of 64, as quantized weights want them
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=6,
        head_dim=32,
        position_bias_num_buckets=32,
        position_bias_num_segment_buckets=64,
        position_bias_max_distance=64,
    )
    return CpmBeeModel(config)


def prepared(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Scenes and prompts, from the file in the output folder where there is one."""
    file = args.output / "prepared.pt"
    if not file.exists():
        args.output.mkdir(parents=True, exist_ok=True)
        numbers = prepare_paint(args.scenes, args.prompts, args.seed, args.workers, args.often)
        torch.save(numbers, file.with_suffix(".partial"))
        file.with_suffix(".partial").rename(file)
    return torch.load(file, weights_only=True)


def on_device(numbers: dict[str, torch.Tensor], size: int, device: torch.device) -> PaintData:
    """Draws the scenes where they are needed."""
    numbers = {name: tensor.to(device) for name, tensor in numbers.items()}
    rows = numbers.pop("rows")
    maps, colours = seen_maps(rows, size // MAP_PIXELS)
    empty_length = int((numbers["empty_ids"] != 0).sum())
    return PaintData(draw_rows(rows, size), maps, colours, empty_length=empty_length, **numbers)


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, data: PaintData, factor: float | None = None) -> float:
    """Gives the data its latents, scaled by a factor, or to a standard deviation of 1; returns the factor."""
    device, chunks = data.pictures.device, data.pictures.split(500)
    with torch.autocast(device.type, torch.bfloat16):
        means = [
            vae.encode(to_pixels(chunk)).latent_dist.mean.half()
            for chunk in tqdm(chunks, "encoding pictures", disable=None)
        ]
    latents = torch.cat(means)
    factor = factor or round(1 / float(latents[:5000].float().std()), 5)
    data.latents = latents.mul_(factor)
    return factor


def train(args: argparse.Namespace) -> None:
    """Runs all phases, each for its share of the time that is left."""
    start = time.perf_counter()
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    batch_sizes = dict(zip(PHASES, args.batch_sizes or BATCH_SIZES[device.type], strict=True))
    torch.manual_seed(args.seed)
    if args.start_from:
        known = DiffusionPipeline.from_pretrained(args.start_from, trust_remote_code=True, dtype=torch.float32)
        vae, unet, text_encoder, projection = known.vae, known.unet, known.text_encoder, known.text_projection
    else:
        vae, unet, text_encoder = tiny_vae(args.size), tiny_unet(args.size), tiny_text_encoder()
        projection = VisCPMPaintTextProjection(text_encoder.config.hidden_size, CROSS_ATTENTION_DIM)
    for part in (vae, unet, text_encoder, projection):
        part.to(device)
        light_norms(part)
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # in bfloat16 faster than sdpa
    data = on_device(prepared(args), args.size, device)
    _say(f"{len(data.maps)} pictures drawn", start)
    scale = math.sqrt(text_encoder.config.hidden_size)
    words_rate, paint_rate = args.words_rate, args.paint_rate

    def seconds(phase: str) -> float:
        left = 60 * args.minutes - (time.perf_counter() - start)
        ahead = list(PHASES)[list(PHASES).index(phase) :]
        return max(left, 1) * PHASES[phase] / sum(PHASES[each] for each in ahead)

    def run(phase: str, learner: torch.nn.Module, rates: dict[str, float], **more) -> None:
        file = args.output / "states" / f"{phase}.pt"
        train_for(learner.to(device), seconds(phase), rates, file, seed=args.seed, speed=args.speed, **more)
        _say(f"{phase} done", start)

    if not args.start_from:
        run("vae", VaeLearner(vae, data, batch_sizes["vae"]), {"": 1.5e-3}, decay=0.995)
        run("decoder", VaeLearner(vae, data, batch_sizes["decoder"], decoder_only=True), {"": 8e-4}, decay=0.995)
    known_factor = vae.config.scaling_factor if args.start_from else None
    vae.register_to_config(scaling_factor=encode_pictures(vae, data, known_factor))
    data.pictures = data.pictures[:1]
    _say("latents ready", start)

    reader = TextLearner(text_encoder, projection, data, batch_sizes["words"])

    def rates(rate: float, factor: float) -> dict[str, float]:
        return {
            r"text_encoder\.(embed_tokens|layers.*_proj)": rate * scale * factor,
            "position_bias": rate * 5 * factor,
            "text_encoder": rate * factor,
            "": rate,
        }

    if not args.start_from:
        run("words", reader, rates(words_rate, 1.0), decay=0.99)

    learner = PaintLearner(unet, reader, data, batch_sizes["paint"])

    def export() -> None:
        frozen = copy.deepcopy(vae).cpu()
        write_original_paint(text_encoder, unet, projection, frozen, args.output)

    def compiled() -> None:
        unet.compile()

    run("paint", learner, rates(paint_rate, 0.3), decay=args.decay, compiled=compiled, at_save=export)
    export()


def _say(what: str, start: float) -> None:
    print(f"{what} after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for states and the finished model")
    parser.add_argument("--start-from", metavar="REPO", help="converted model whose UNet and words are to learn more")
    parser.add_argument("--minutes", type=float, default=150, help="of training in all")
    parser.add_argument("--prepare", action="store_true", help="only write prompts, which needs no GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=IMAGE_SIZE, help="of the pictures, a multiple of 32")
    parser.add_argument("--scenes", type=int, help="by default 200000 on a GPU, else 20000")
    parser.add_argument("--prompts", type=int, default=4, help="for each scene")
    parser.add_argument(
        "--often",
        nargs="+",
        choices=[thing.name for thing in THINGS],
        default=(),
        metavar="NAME",
        help=f"pictograms to show {OFTEN} times as often as others, such as elephant 'fire engine'",
    )
    parser.add_argument("--workers", type=int, help="processes that write prompts; by default one for each processor")
    parser.add_argument("--batch-sizes", type=int, nargs=4, metavar="N", help=f"of {', '.join(PHASES)}")
    parser.add_argument("--words-rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--paint-rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--decay", type=float, default=0.998, help="of the moving average")
    parser.add_argument("--speed", choices=SPEEDS, default="graph", help="of a step on a GPU")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.scenes = args.scenes or SCENES[torch.device(args.device).type]

    if args.prepare:
        prepared(args)
        return 0
    train(args)
    written = [args.output / "pytorch_model.bin", *(args.output / "sd_base" / "vae").glob("*.safetensors")]
    print(f"wrote {args.output} ({sum(file.stat().st_size for file in written) / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
