"""Time of tokenising 2000 Chinese characters to model inputs, next to the original's recorded time.

    python benchmarks/tokenizer.py [--vocab bee.txt] [--repeats 200]

Without --vocab it makes up a vocabulary of the published size: the common Chinese characters, and words of 2 to 4.
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from viscpm_hf.remote_code.tokenization_cpmbee import CpmBeeTokenizer

# Medians of the original's tokenizer alone and of tokenizer plus convert_data_to_id, for 2000 Chinese characters and
# the published vocabulary of 86 583 entries, on a 2-core AVX-512 machine (Python code, one thread).
ORIGINAL_TOKENIZE_MS = 12.3
ORIGINAL_CONVERT_MS = 9.5
CHARACTERS = 2000
SPECIALS = ["<pad>", "<unk>", "<mask>", "<sep>", "</n>", "</_>", "<s>", "</s>", "<root>", "<ans>", "<option>"]


def made_up_vocabulary(path: Path, size: int = 86583) -> None:
    rng = random.Random(0)
    characters = [chr(code) for code in range(0x4E00, 0x9FA6)]
    entries = dict.fromkeys([*SPECIALS, *map(chr, range(33, 127)), "，", "。", *characters])
    while len(entries) < size:
        entries["".join(rng.choices(characters, k=rng.choice([2, 2, 2, 3, 4])))] = None
    path.write_text("\n".join(entries), encoding="utf-8", newline="\n")


def sample_text(tokenizer: CpmBeeTokenizer) -> str:
    """Words and single characters of the vocabulary in turn, so that a token has about 1.5 characters."""
    rng = random.Random(1)
    chinese = [entry for entry in sorted(tokenizer.get_vocab()) if all("\u4e00" <= c <= "\u9fff" for c in entry)]
    words, characters = [e for e in chinese if 1 < len(e) < 5], [e for e in chinese if len(e) == 1]
    text = "".join(rng.choice(words) + rng.choice(characters) for _ in range(CHARACTERS))
    return text[:CHARACTERS]


def median_ms(function, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=Path, help="vocabulary file of the original (default: a made-up one)")
    parser.add_argument("--repeats", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        vocab = args.vocab or Path(folder, "vocab.txt")
        if not args.vocab:
            made_up_vocabulary(vocab)
        start = time.perf_counter()
        tokenizer = CpmBeeTokenizer(vocab)
        built = time.perf_counter() - start

    text = sample_text(tokenizer)
    data = {"image": "<unk>" * 64, "context": "", "question": text, "<ans>": ""}
    tokens = len(tokenizer.encode_segment(text)[0])
    print(f"{len(tokenizer)} entries, built in {built:.2f} s; {CHARACTERS} characters, {tokens} tokens")
    for what, function, original in (
        ("tokenise", lambda: tokenizer.encode_segment(text), ORIGINAL_TOKENIZE_MS),
        ("tokenise and convert", lambda: tokenizer.encode_data(data), ORIGINAL_CONVERT_MS),
        ("… to tensors", lambda: tokenizer(data, return_tensors="pt"), ORIGINAL_CONVERT_MS),
    ):
        ours = median_ms(function, args.repeats)
        print(f"{what:22} {ours:6.2f} ms   original {original:5.1f} ms   {original / ours:4.1f}x")


if __name__ == "__main__":
    main()
