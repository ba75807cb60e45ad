"""Conversion: memory and time against copying the same file.

    python benchmarks/conversion.py --gigabytes 3 --rounds 3

Makes a checkpoint of random half-precision weights with VisCPM-Chat's names, then, in turns, copies the file with `cp`
and converts it with `conversion/convert_chat.py`, each time with the file out of the page cache ("cold") and in it
("warm"). Reported: seconds of the fastest round of each, the conversion's peak memory (VmHWM), and how long Python
takes to import what the script needs, which is in its seconds whatever the size.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from processes import out_of_cache, run
from tokenizer import SPECIALS

from viscpm_hf.checkpoint.files.stored import PIECE, StoredTensor
from viscpm_hf.checkpoint.files.torch_file import TorchWriter
from viscpm_hf.checkpoint.layout.keys import CHAT

SCRIPT = Path(__file__).parents[1] / "conversion" / "convert_chat.py"
SIZES = {
    "vocab_size": 30000,
    "dim_model": 2048,
    "dim_ff": 5120,
    "num_heads": 16,
    "num_heads*dim_head": 2048,
    "position_bias_rows": 512,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_layers": 4,
    "image_positions": 199,
    "max_source_positions": 1024,
    "patch_size": 16,
    "query_num": 64,
}


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Original names and shapes of a model with that many language layers."""
    sizes = {**SIZES, "num_layers": layers}
    found = {"vpm.beit3.text_embed.weight": (64010, 1024)}
    for component, table in CHAT.components.items():
        for key, (_, shape) in table.items():
            for layer in range(sizes[CHAT.layers[component]] if "{i}" in key else 1):
                found[key.replace("{i}", str(layer))] = tuple(sizes.get(size, size) for size in shape)
    return found


def write_vocabulary(path: Path) -> None:
    words = [f"w{number}" for number in range(SIZES["vocab_size"] - len(SPECIALS))]
    path.write_text("\n".join([*SPECIALS, *words]) + "\n", encoding="utf-8")


def write_checkpoint(path: Path, nbytes: int) -> None:
    layers = 1
    while sum(2 * torch.Size(shape).numel() for shape in shapes(layers).values()) < nbytes:
        layers += 1
    tensors = {name: StoredTensor(path, torch.float16, shape, 0) for name, shape in sorted(shapes(layers).items())}
    noise = memoryview(torch.randn(PIECE // 2).half().view(torch.uint8).numpy())
    with TorchWriter(path, tensors) as writer:
        for name, tensor in tensors.items():
            lengths = (min(PIECE, tensor.nbytes - start) for start in range(0, tensor.nbytes, PIECE))
            writer.write_tensor(name, (noise[:length] for length in lengths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3, help="size of the checkpoint (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--folder", help="where to work; needs three times the size (default: the system's)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        checkpoint, vocabulary = Path(folder, "checkpoint.bin"), Path(folder, "vocab.txt")
        write_checkpoint(checkpoint, int(args.gigabytes * 1e9))
        write_vocabulary(vocabulary)
        copied, converted = Path(folder, "copy"), Path(folder, "converted")
        options = ["--checkpoint", checkpoint, "--vocab", vocabulary, "--output", converted]
        commands = {
            "cp": ["cp", checkpoint, copied],
            "convert": [sys.executable, SCRIPT, *options],
            "import": [sys.executable, SCRIPT, "--help"],
        }
        seconds, memory = {}, 0
        for _, cache in itertools.product(range(args.rounds), ("cold", "warm")):
            for name, command in commands.items():
                if cache == "cold":
                    out_of_cache(checkpoint)
                os.sync()
                measured = run(command)
                seconds.setdefault((name, cache), []).append(measured.seconds)
                memory = max(memory, measured.resident if name == "convert" else 0)
                subprocess.run(["rm", "-rf", str(copied), str(converted)], check=True)
        print(f"checkpoint {checkpoint.stat().st_size / 1e9:.2f} GB, {args.rounds} rounds, {os.cpu_count()} cores")
        for cache in ("cold", "warm"):
            copy, convert, imports = (min(seconds[name, cache]) for name in commands)
            print(
                f"{cache}: cp {copy:.2f} s, conversion {convert:.2f} s of which imports {imports:.2f} s; "
                f"ratio {convert / copy:.2f}, without imports {(convert - imports) / copy:.2f}"
            )
        print(f"peak memory of the conversion: {memory / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
