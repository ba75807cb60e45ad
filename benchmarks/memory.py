"""Predicted against measured memory on a CPU, for the tiny Chat checkpoint and for middle-sized random models.

    python benchmarks/memory.py [--models tiny chat paint]

Every line is a process of its own that loads through the drop-in class and answers a question, or paints a picture.
Measured is its peak of RssAnon, memory that is not pages of files; predicted is `Plan.unmapped`.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from processes import run

CASES = {
    "tiny": [{}, {"dtype": "float32"}, {"quantization": "int8"}, {"quantization": "4bit"}],
    "chat": [{}, {"dtype": "float32"}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"quantization": "4bit"}],
    "paint": [{}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"quantization": "4bit"}],
}
ENOUGH = "1TB"
MIDDLE = {"vocab_size": 60000, "dim_model": 1536, "dim_ff": 4096, "num_heads*dim_head": 1536}
NEW_TOKENS, STEPS = 32, 2


def measure(kind: str, repo: Path, options: dict) -> tuple[int, int | None]:
    """Peak of a process that loads and works, and for Chat how many tokens its prompt had."""
    done = run([sys.executable, __file__, "--measure", kind, repo, json.dumps(options)])
    return done.anonymous, json.loads(done.output.splitlines()[-1])


def chat(repo, options):
    from PIL import Image

    from viscpm_hf import VisCPMChat

    model = VisCPMChat(repo, image_safety_checker=False, device="cpu", memory=ENOUGH, **options)
    question = "w1" * 400 if len(model.processor.tokenizer) > 10000 else "红" * 100
    for _ in range(2):
        model.chat(Image.new("RGB", (224, 224)), question, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    return len(model.processor.encode_chat(True, question, "", max_length=2048)["input_ids"])


def paint(repo, options):
    import torch

    from viscpm_hf import VisCPMPaint

    options = {name: getattr(torch, value) if name == "dtype" else value for name, value in options.items()}
    painter = VisCPMPaint(repo, False, False, False, device="cpu", memory=ENOUGH, **options)
    painter.generate("月" * 20, num_inference_steps=STEPS)


def predict(repo: Path, options: dict, prompt_tokens: int | None) -> int:
    import torch

    from viscpm_hf.memory.machine import Machine
    from viscpm_hf.memory.plans import Workload, list_plans
    from viscpm_hf.memory.sizes import read_model

    workload = Workload(new_tokens=NEW_TOKENS, steps=STEPS)
    if prompt_tokens is not None:
        workload = replace(workload, prompt_tokens=prompt_tokens)
    dtype = getattr(torch, options["dtype"]) if "dtype" in options else None
    plans = list_plans(read_model(repo), Machine("cpu", 2**40), dtype=dtype, workload=workload)
    method = options.get("quantization", "resident")
    # without a dtype the first precision is the one that is loaded
    return next(plan for plan in reversed(plans) if plan.method == method and "," not in plan.title).unmapped


def make(kind: str, folder: Path, sizes: dict = MIDDLE, nbytes: int = 900_000_000) -> Path:
    """A converted repository; `sizes` and `nbytes` are of the random Chat."""
    if kind == "tiny":
        from viscpm_hf.tiny import convert_tiny_chat

        return convert_tiny_chat(folder / kind)
    import conversion

    conversion.SIZES.update(sizes)
    vocabulary = folder / "vocab.txt"
    conversion.write_vocabulary(vocabulary)
    if kind == "paint":
        return make_paint(folder, vocabulary)
    from viscpm_hf.checkpoint import convert_chat

    checkpoint = folder / "checkpoint.bin"
    conversion.write_checkpoint(checkpoint, nbytes)
    repo = convert_chat(checkpoint, vocabulary, folder / "chat", progress=False)
    checkpoint.unlink()
    return repo


def make_paint(folder, vocabulary):
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    from viscpm_hf import CpmBeeConfig, CpmBeeModel, CpmBeeTokenizer, VisCPMPaintPipeline, VisCPMPaintTextProjection
    from viscpm_hf.checkpoint.pipeline_repo import SCHEDULER

    language = {"hidden_size": 1024, "intermediate_size": 2560, "num_hidden_layers": 10, "num_attention_heads": 16}
    widths, blocks = (128, 256, 512, 512), {"down_block_types": ["DownEncoderBlock2D"] * 4}
    blocks |= {"up_block_types": ["UpDecoderBlock2D"] * 4, "block_out_channels": (64, 128, 256, 256)}
    heads = {"attention_head_dim": [2, 4, 8, 8], "use_linear_projection": True}
    pipeline = VisCPMPaintPipeline(
        CpmBeeTokenizer(str(vocabulary)),
        CpmBeeModel(CpmBeeConfig(vocab_size=MIDDLE["vocab_size"], head_dim=64, **language)).half(),
        VisCPMPaintTextProjection(1024, 512).half(),
        UNet2DConditionModel(sample_size=64, block_out_channels=widths, cross_attention_dim=512, **heads).half(),
        AutoencoderKL(layers_per_block=2, latent_channels=4, **blocks).half(),
        DDPMScheduler(**SCHEDULER),
        *[None] * 6,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "paint")
    return folder / "paint"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--folder", help="where to work; needs 4 GB (default: the system's)")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        kind, repo, options = args.measure
        print(json.dumps((paint if kind == "paint" else chat)(repo, json.loads(options))))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(f"{'model':6} {'options':28} {'predicted':>9} {'measured':>9}  ratio")
        for kind in args.models:
            repo = make(kind, Path(folder))
            for options in CASES[kind]:
                peak, prompt_tokens = measure(kind, repo, options)
                predicted = predict(repo, options, prompt_tokens)
                shown = " ".join(map(str, options.values())) or "as stored"
                line = f"{predicted / 1e6:6.0f} MB {peak / 1e6:6.0f} MB  {predicted / peak:.2f}"
                print(f"{kind:6} {shown:28} {line}", flush=True)


if __name__ == "__main__":
    main()
