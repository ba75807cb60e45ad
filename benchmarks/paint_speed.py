"""How fast a middle-sized random Paint (68 M weights in its UNet) paints on a CPU, in several settings.

    python benchmarks/paint_speed.py [--rounds 3] [--size 256]

Settings take turns in every round, and the fastest round counts, since other work on the machine only slows down.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from chat_speed import gflops, seconds
from diffusers import DPMSolverMultistepScheduler
from memory import make
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from viscpm_hf import VisCPMPaintPipeline

PROMPT = "一只戴着红色帽子的小猫坐在窗台上，看着外面的雪花。"
# name: precision, how the UNet is laid out and compiled, steps (50 of DDPM, fewer of DPM++)
SETTINGS = {
    "float32": (torch.float32, (), 50),
    "float32, channels last": (torch.float32, ("channels last",), 50),
    "float32, compiled": (torch.float32, ("compiled",), 50),
    "bfloat16": (torch.bfloat16, (), 50),
    "bfloat16, blocks compiled": (torch.bfloat16, ("blocks compiled",), 50),
    "bfloat16, compiled": (torch.bfloat16, ("channels last", "compiled"), 50),
    "bfloat16, 20 steps": (torch.bfloat16, (), 20),
    "bfloat16, compiled, 20 steps": (torch.bfloat16, ("channels last", "compiled"), 20),
}


def load(repo: Path, dtype: torch.dtype, how: tuple[str, ...], steps: int) -> VisCPMPaintPipeline:
    pipeline = VisCPMPaintPipeline.from_pretrained(repo, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    if steps < 50:
        options = {"timestep_spacing": "trailing"}
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, **options)
    if "channels last" in how:
        pipeline.unet.to(memory_format=torch.channels_last)
    if "compiled" in how:
        pipeline.unet.compile()
    if "blocks compiled" in how:
        pipeline.unet.compile_repeated_blocks()
    return pipeline


def paint(pipeline, size: int, steps: int) -> float:
    """Seconds for an image."""
    start = time.perf_counter()
    pipeline(PROMPT, height=size, width=size, num_inference_steps=steps, generator=torch.Generator().manual_seed(0))
    return time.perf_counter() - start


@torch.no_grad()
def read_text(pipeline) -> tuple[float, float]:
    """Seconds to read prompt and negative prompt for the first time.

    As the original does, one by one, padded alike, and with logits over the vocabulary that nothing uses; and as the
    pipeline does.
    """
    start = time.perf_counter()
    for prompt, other in ((PROMPT, ""), ("", PROMPT)):
        embeds = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, negative_prompt=other)[0]
        states = embeds.new_ones(embeds.shape[1], pipeline.text_encoder.config.hidden_size)
        states @ pipeline.text_encoder.embed_tokens.weight.T
    middle = time.perf_counter()
    pipeline.encode_prompt(PROMPT)
    return middle - start, time.perf_counter() - middle


@torch.no_grad()
def arithmetic(unet, size: int) -> str:
    """How much a step with guidance computes, how fast, and what it would take at the speed of a large product."""
    sample = torch.randn(2, unet.config.in_channels, size // 8, size // 8)
    inputs = sample, 500, torch.randn(2, 37, unet.config.cross_attention_dim)
    with FlopCounterMode(display=False) as counter:
        unet(*inputs)
    count, taken, fastest = counter.get_total_flops() / 1e9, min(seconds(unet, *inputs) for _ in range(5)), gflops()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        unet(*inputs)
    kinds = {"convolutions": ("aten::mkldnn_convolution",), "products": ("aten::addmm", "aten::mm")}
    events = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    parts = {kind: sum(events.get(name, 0) for name in names) for kind, names in kinds.items()}
    least = taken - sum(parts.values()) + count / fastest
    said = ", ".join(f"{part:.2f} s of them {kind}" for kind, part in parts.items())
    return (
        f"A step in float32: {taken:.2f} s, {said}, for {count:.0f} GFLOP; at the {fastest:.0f} GFLOP/s of a large "
        f"product {least:.2f} s: {taken / least:.1f} ×"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="width and height of the image in pixels")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        repo = make("paint", Path(folder))
        pipelines = {name: load(repo, *setting) for name, setting in SETTINGS.items()}
    best, text = dict.fromkeys(SETTINGS, float("inf")), (float("inf"),) * 2
    for name, pipeline in pipelines.items():
        print(f"{name}: compilation and two steps {paint(pipeline, args.size, 2):.0f} s", flush=True)
    for _ in range(args.rounds):
        for name, pipeline in pipelines.items():
            best[name] = min(best[name], paint(pipeline, args.size, SETTINGS[name][2]))
        text = [min(pair) for pair in zip(text, read_text(pipelines["float32"]), strict=True)]

    whole = best["float32"] + text[0] - text[1]
    print(
        f"\n{torch.get_num_threads()} threads, {args.size}×{args.size} pixels\n\n| | an image | ratio |\n|---|---|---|"
    )
    print(f"| float32, 50 steps, texts read as the original does | {whole:.2f} s | 1 |")
    for name, taken in best.items():
        print(f"| {name} | {taken:.2f} s | {whole / taken:.2f} × |")
    print(f"\n{arithmetic(pipelines['float32'].unet, args.size)}")
    print(f"\nReading the texts: {text[0]:.3f} s as the original, {text[1]:.3f} s here: {text[0] / text[1]:.1f} ×")


if __name__ == "__main__":
    main()
