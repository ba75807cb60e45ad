"""`viscpm batch chat` with the tiny model, killed at random: rows lost, doubled, reordered or answered otherwise.

    python benchmarks/batch.py [--rows 1000] [--kills 3] [--processes 1 2] [--seed 0]

For each number of processes it runs once undisturbed, for the rate, and once killed with SIGKILL when a random number
of rows is there and a random moment later; the same command is given again until it ends well.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from viscpm_hf.cli.examples import QUESTIONS
from viscpm_hf.tiny import PICTURES


def write_rows(path: Path, rows: int, seed: int) -> list[dict]:
    """Questions that the tiny model understands, in random order, each with its number; here and there a bad row."""
    draw, written = random.Random(seed), []
    for number in range(rows):
        image, question, _ = draw.choice(QUESTIONS)
        row = {"id": number, "question": question, "image": image}
        if number % 97 == 50:
            row["image"] = "missing.png"
        written.append(row)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written), encoding="utf-8")
    return written


def lines_of(path: Path) -> list[str]:
    """Those that are complete."""
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def start(folder: Path, output: Path, processes: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "viscpm_hf", "batch", "chat", "--input", folder / "rows.jsonl"]
    command += ["--output", output, "--images", PICTURES, "--processes", processes]
    return subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode != 1:  # of the bad rows
        raise SystemExit(f"The command ended with {process.returncode}: {errors}")


def undisturbed(folder: Path, processes: int) -> tuple[list[str], float, float]:
    """The lines, the seconds of the whole command, and rows per second once the first is there."""
    output, begin = folder / f"undisturbed_{processes}.jsonl", time.perf_counter()
    process = start(folder, output, processes)
    while not (before := len(lines_of(output))) and process.poll() is None:
        time.sleep(0.02)
    first = time.perf_counter()
    finish(process)
    end, lines = time.perf_counter(), lines_of(output)
    return lines, end - begin, (len(lines) - before) / (end - first)


def killed(folder: Path, processes: int, rows: int, kills: int, seed: int) -> list[str]:
    """The lines of a run that was killed so often."""
    output, draw = folder / f"killed_{processes}.jsonl", random.Random(seed)
    for there in sorted(draw.sample(range(1, max(kills + 1, 9 * rows // 10)), kills)):
        process = start(folder, output, processes)
        while len(lines_of(output)) < there and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.random() / 10)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"It ended with {process.returncode} before it was killed: take more --rows.")
        print(f"  killed with {len(lines_of(output))} rows there", flush=True)
    finish(start(folder, output, processes))
    return lines_of(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = write_rows(folder / "rows.jsonl", asked.rows, asked.seed)
        print("| processes | seconds | rows/s | kills | lost | doubled | reordered | other answers |")
        for processes in asked.processes:
            expected, seconds, rate = undisturbed(folder, processes)
            found = killed(folder, processes, asked.rows, asked.kills, asked.seed)
            ids = [json.loads(line)["id"] for line in found]
            lost = len({row["id"] for row in written} - set(ids))
            doubled = len(ids) - len(set(ids))
            reordered = sum(later < earlier for earlier, later in zip(ids, ids[1:], strict=False))
            other = sum(line != wanted for line, wanted in zip(found, expected, strict=False))
            print(
                f"| {processes} | {seconds:.1f} | {rate:.1f} | {asked.kills} | {lost} | {doubled} | {reordered} | "
                f"{other} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
