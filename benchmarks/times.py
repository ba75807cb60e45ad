"""Predicted against measured seconds of Chat on a CPU: prompt, token, answer, for each way to hold its weights.

    python benchmarks/times.py [--methods stored bfloat16 int8 4bit] [--layers 4] [--width 4096]

The model has random weights, the released widths and few blocks. Each method is a process of its own, which measures
products as `viscpm fit` does, before and after it answers; predicted is the smaller of both, measured the fastest of
three. Prompts have 128 tokens with a picture, answers 64. Others at work spoil it: see the load. RESULTS.md has a
table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import chat_speed
import torch

METHODS = {  # as VisCPMChat is asked for them: the title of the plan, its dtype
    "stored": ("all in RAM", None),
    "float32": ("all in RAM, float32", None),
    "bfloat16": ("all in RAM, bfloat16", None),
    "int8": ("8-bit language model", None),
    "4bit": ("4-bit language model", None),
    "int8 in bfloat16": ("8-bit language model", torch.bfloat16),
    "4bit in bfloat16": ("4-bit language model", torch.bfloat16),
}
PROMPT, ANSWER, ROUNDS = 128, 64, 3


@torch.no_grad()
def write(folder: Path, layers: int, width: int, vision_layers: int) -> None:
    """A converted repository in float16, without its processor."""
    from viscpm_hf import VisCPMChatConfig, VisCPMChatForConditionalGeneration

    sizes = {"hidden_size": width, "intermediate_size": width * 5 // 2, "num_attention_heads": width // 128}
    config = VisCPMChatConfig(
        text_config={**sizes, "num_hidden_layers": layers}, vision_config={"num_hidden_layers": vision_layers}
    )
    with torch.device("meta"):
        model = VisCPMChatForConditionalGeneration._from_config(config, dtype=torch.float16)
    model.to_empty(device="cpu").tie_weights()
    noise = torch.randn(2**20 - 3).half()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(float(name.endswith("weight")))
            continue
        for piece in parameter.view(-1).split(len(noise)):
            piece.copy_(noise[: len(piece)])
            piece /= 1 if "language_model" in name else parameter[0].numel() ** 0.5
    model.save_pretrained(folder)


def measured(model, beams: int) -> tuple[float, float, float]:
    """Seconds of a prompt, of a token and of the whole answer: the fastest of several."""
    settings = {**chat_speed.BEAMS, "num_beams": beams} if beams > 1 else {"num_beams": 1, "repetition_penalty": 1.1}
    settings |= {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER}
    starts, found = [], []
    hook = model.model.language_model.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))
    inputs = chat_speed.make_inputs(model, 1, PROMPT)
    model.generate(**inputs, **settings | {"max_new_tokens": 2, "min_new_tokens": 2})  # packs, reads the files
    for _ in range(ROUNDS):
        starts.clear()
        begin = time.perf_counter()
        model.generate(**inputs, **settings)
        end = time.perf_counter()
        found.append((starts[1] - begin, (end - starts[1]) / (len(starts) - 1), end - begin))
    hook.remove()
    return tuple(map(min, zip(*found, strict=True)))


def one(folder: Path, name: str) -> dict:
    """Predictions and what was measured, by number of beams."""
    from viscpm_hf import VisCPMChatForConditionalGeneration
    from viscpm_hf.memory.machine import this_machine
    from viscpm_hf.memory.placement import load_chat
    from viscpm_hf.memory.plans import Workload, list_plans
    from viscpm_hf.memory.sizes import read_model
    from viscpm_hf.memory.timing import measure

    title, dtype = METHODS[name]
    model, machine = read_model(folder), this_machine("cpu", folder)

    def predicted(beams):
        workload = Workload(prompt_tokens=PROMPT, answer_tokens=ANSWER, beams=beams)
        plan = next(plan for plan in list_plans(model, machine, None, dtype, workload) if plan.title == title)
        times = measure(model, [plan.kernel], workload)
        timed = type(machine)(**{**vars(machine), "times": times})
        plan = next(plan for plan in list_plans(model, timed, None, dtype, workload) if plan.title == title)
        if not plan.measured:
            sys.exit(f"error: products of {plan.kernel!r} could not be measured here")
        return plan, (plan.encode_seconds, plan.seconds, plan.answer_seconds)

    before = {beams: predicted(beams) for beams in (1, 3)}
    loaded = load_chat(VisCPMChatForConditionalGeneration, folder, before[1][0], torch.device("cpu")).eval()
    found = {}
    for beams in (1, 3):
        taken, after = measured(loaded, beams), predicted(beams)[1]
        smaller = tuple(map(min, zip(before[beams][1], after, strict=True)))
        found[beams] = {"predicted": smaller, "measured": taken}
    return {"beams": found, "load": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["stored", "bfloat16", "int8", "4bit"])
    parser.add_argument("--layers", type=int, default=4, help="blocks of the language model (default: %(default)s)")
    parser.add_argument("--width", type=int, default=4096, help="of its states (default: %(default)s)")
    parser.add_argument("--vision-layers", type=int, default=24, help="of the vision tower (default: %(default)s)")
    parser.add_argument("--folder", help="of an earlier run, or where to write the model (default: a temporary one)")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(Path(args.folder), args.one)))
        return
    with tempfile.TemporaryDirectory(prefix="times_") as temporary:
        folder = Path(args.folder or temporary)
        if not (folder / "config.json").exists():
            write(folder, args.layers, args.width, args.vision_layers)
        print(f"{torch.get_num_threads()} threads; seconds predicted / measured (ratio)\n")
        columns = ["prompt", "token, 1 beam", "token, 3 beams", f"answer of {ANSWER}, 1 beam", "3 beams", "load"]
        print("| | " + " | ".join(columns) + " |\n" + "|---" * (1 + len(columns)) + "|")
        for name in args.methods:
            command = [sys.executable, __file__, "--folder", str(folder), "--one", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            both = [result["beams"][beams] for beams in ("1", "3")]
            cells = [shown(both[1], 0), shown(both[0], 1), shown(both[1], 1), shown(both[0], 2), shown(both[1], 2)]
            print(f"| {name} | {' | '.join(cells)} | {result['load']:.1f} |", flush=True)


def shown(result: dict, which: int) -> str:
    predicted, measured = result["predicted"][which], result["measured"][which]
    return f"{predicted:.3g} / {measured:.3g} ({predicted / measured:.2f})"


if __name__ == "__main__":
    main()
