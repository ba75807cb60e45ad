"""What `viscpm quantize` gains on the tiny Paint, and what it takes for one random block of the released size, of 48.

python benchmarks/calibration.py
"""

import resource
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path

import torch

from viscpm_hf import CpmBeeConfig, CpmBeeModel, CpmBeeTokenizer, VisCPMPaint
from viscpm_hf.memory.calibration import calibrate, quantize_paint
from viscpm_hf.memory.placement import quantization_config
from viscpm_hf.tiny import VOCABULARY, tiny_paint_repo
from viscpm_hf.tiny.world.prompts import SPLITS, held_out_prompts, training_prompts
from viscpm_hf.tiny.world.questions import LANGUAGES

PROMPTS = 128


@torch.no_grad()
def embeddings(repo: Path, **options) -> torch.Tensor:
    """What the UNet is given for 200 held-out prompts, one after the other."""
    pipeline = VisCPMPaint(repo, False, False, False, device="cpu", **options).pipeline
    texts = [each.text for where in product(LANGUAGES, SPLITS) for each in held_out_prompts(where[0], 50, 0, where[1])]
    return torch.cat([pipeline.encode_prompt(text)[0].float().flatten() for text in texts])


def compare_tiny(folder: Path, prompts: list[str]) -> None:
    repo = tiny_paint_repo()
    calibrated = quantize_paint(repo, prompts, folder / "calibrated", "cpu", progress=False)
    exact = embeddings(repo)
    for name, moved in (
        ("int8", embeddings(repo, quantization="int8")),
        ("4bit", embeddings(repo, quantization="4bit")),
        ("4bit, calibrated", embeddings(calibrated)),
    ):
        print(f"Tiny Paint, {name}: what the UNet is given moves by {(moved - exact).norm() / exact.norm():.1%}")


def time_block(folder: Path, prompts: list[str]) -> None:
    torch.manual_seed(0)
    tokenizer = CpmBeeTokenizer(str(VOCABULARY))
    exact = CpmBeeModel(CpmBeeConfig(vocab_size=len(tokenizer), num_hidden_layers=1)).half().eval()
    exact.save_pretrained(folder / "block")
    config = quantization_config("4bit", torch.device("cpu"), torch.float16)
    rounded = CpmBeeModel.from_pretrained(folder / "block", dtype="auto", quantization_config=config)
    tokens = sum(len(tokenizer.encode_data({"caption": text, "objects": ""})["input_ids"]) for text in prompts)
    start = time.perf_counter()
    calibrate(exact, rounded, tokenizer, prompts, progress=False)
    taken = time.perf_counter() - start
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"Released size, {len(prompts)} prompts of {tokens} tokens, {torch.get_num_threads()} threads: ", end="")
    print(f"{taken:.0f} s for a block, peak {peak / 1e9:.1f} GB")


def main() -> None:
    warnings.simplefilter("ignore")
    drawn = [prompt.text for prompt in training_prompts(2 * PROMPTS)]
    with tempfile.TemporaryDirectory() as folder:
        compare_tiny(Path(folder), drawn[:PROMPTS])
        pairs = [" ".join(pair) for pair in zip(drawn[:PROMPTS], drawn[PROMPTS:], strict=True)]  # as long as captions
        time_block(Path(folder), pairs)


if __name__ == "__main__":
    main()
