"""Training steps of VisCPM-Chat: memory beside what `viscpm fit --train` predicts, speed beside a plain loop.

    python benchmarks/finetuning.py --gpu      # the release's geometry on one GPU, random weights; a minute
    python benchmarks/finetuning.py --small    # a reduced geometry on the CPU; some minutes

Steps are done by ChatTrainer, with its data set, collator and optimizer. The plain loop does the same arithmetic with
batches made before: forward, backward, clipping, the same optimizer. Rounds of both take turns on the same weights.
A ratio of 1 means that all around the arithmetic costs nothing. `tensors` is torch's peak in steps of ChatTrainer,
`card` all that the GPU gave; on the CPU the peak is a process's memory that is not pages of files (RssAnon), and each
is one of its own. With --gpu weights are made on the GPU in the precision that they are used in; full training has
fewer layers. --tiny tries that on a CPU.
"""

import argparse
import dataclasses
import datetime
import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from full_size import initial
from gpu import GB, TINY, now, on_gpu, peaks, start_peaks
from PIL import Image
from processes import run
from tokenizer import made_up_vocabulary

SECONDS = 50  # no further case is begun after them, with --gpu
WARM, EACH = 2, 3  # steps before anything is measured, and of a round
ALL = {"tune_llm": True, "tune_vision": True}
# name, mode, what is trained, layers of the language model (None: all), batch, gradient checkpointing
GPU_CASES = [
    ("LoRA", "lora", {}, None, 1, True),
    ("LoRA", "lora", {}, None, 8, True),
    ("LoRA, states saved", "lora", {}, None, 1, False),
    ("QLoRA", "qlora", {}, None, 1, True),
    ("QLoRA", "qlora", {}, None, 8, True),
    ("all weights, 8 of 48 layers", "full", ALL, 8, 1, True),
    ("all weights, 8 of 48 layers", "full", ALL, 8, 8, True),
    ("vision side", "full", {"tune_vision": True}, None, 8, True),
]
SMALL = {
    "language": {"hidden_size": 512, "intermediate_size": 1280, "num_hidden_layers": 6, "num_attention_heads": 8},
    "vision": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4},
}
SMALL["language"] |= {"head_dim": 64, "vocab_size": 30000}
SMALL_CASES = [("LoRA", "lora", {}, 1), ("all weights", "full", ALL, 4)]
# of a process each: mode, what is trained, batch, gradient checkpointing
PEAKS = [
    ("lora", {}, 1, True),
    ("lora", {}, 4, False),
    ("qlora", {}, 1, True),
    ("full", {}, 1, True),
    ("full", ALL, 1, True),
    ("full", ALL, 4, False),
]


def config_of(sizes: dict, layers: int | None = None):
    """Configuration of a whole model."""
    import viscpm_hf as v

    language = sizes["language"] | ({} if layers is None else {"num_hidden_layers": layers})
    return v.VisCPMChatConfig(text_config=v.CpmBeeConfig(**language).to_dict(), vision_config=sizes["vision"])


def make_processor(config, folder: Path):
    import viscpm_hf as v

    made_up_vocabulary(folder / "vocab.txt", config.text_config.vocab_size)
    images = v.VisCPMChatImageProcessor(size=config.vision_config.image_size)
    tokenizer = v.CpmBeeTokenizer(str(folder / "vocab.txt"))
    return v.VisCPMChatProcessor(images, tokenizer, config.vision_config.query_num)


def make_model(config, mode: str, tuned: dict, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """A model of random numbers, made where and in the precision in which it is used."""
    from viscpm_hf import VisCPMChatForConditionalGeneration
    from viscpm_hf.finetuning.model import add_lora, choose_tuned, in_four_bits

    with torch.device("meta"):
        model = VisCPMChatForConditionalGeneration._from_config(config, dtype=dtype)
    state = {}
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight":  # the embedding once more
            continue
        language = "language_model." in key
        wanted = torch.float32 if mode == "full" and (not language or tuned.get("tune_llm")) else dtype
        noise = torch.randn(tensor.shape, device=device, dtype=wanted)
        state[key] = initial("llm." * language + key, tuple(tensor.shape), noise).to(device, wanted)
        del noise
    if mode == "qlora":
        options = in_four_bits(dtype, device)
        kind = VisCPMChatForConditionalGeneration
        model = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, **options)
    else:
        model.load_state_dict(state, strict=False, assign=True)
        model.tie_weights()
    if mode == "full":
        choose_tuned(model, **{"tune_llm": False, "tune_vision": False} | tuned)
        return model
    return add_lora(model, **tuned)


class Rounds:
    """Rounds of ChatTrainer and of a plain loop in turn, on the same weights: seconds of each."""

    def __init__(self, batches: list[dict], rounds: int, device: torch.device, autocast: bool):
        from transformers import TrainerCallback

        self.batches, self.rounds, self.device, self.autocast = batches, rounds, device, autocast
        self.trainer, self.plain, self.peak = [], [], ""
        rounds_ = self

        class Callback(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                rounds_.after(state.global_step, kwargs["model"], kwargs["optimizer"])

        self.callback = Callback()

    @property
    def steps(self) -> int:
        return WARM + self.rounds * EACH

    def after(self, step: int, model: torch.nn.Module, optimizer) -> None:
        if step > WARM and (step - WARM) % EACH == 0:
            self.trainer.append(now(self.device) - self.start)
            self.peak = peaks(self.device)
            self.plain.append(self.plain_round(model, getattr(optimizer, "optimizer", optimizer)))
        if step == WARM:
            start_peaks(self.device)
        if step >= WARM and (step - WARM) % EACH == 0:
            self.start = now(self.device)

    def plain_round(self, model, optimizer) -> float:
        tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        start = now(self.device)
        for number in range(EACH):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                # what the class has, not what Trainer put around it
                loss = type(model).forward(model, **self.batches[number % len(self.batches)]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tuned, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return now(self.device) - start

    def per_second(self, tokens: int) -> tuple[float, float, float]:
        """Tokens per second of both, and the median ratio."""
        ratios = [plain / trainer for plain, trainer in zip(self.plain, self.trainer, strict=True)]
        each = (tokens * EACH / statistics.median(times) for times in (self.trainer, self.plain))
        return (*each, statistics.median(ratios))


def samples(count: int, length: int) -> list[dict]:
    """Conversations about pictures, as long as the longest sample may be, more or less."""
    picture = Image.effect_mandelbrot((224, 224), (-2, -1.5, 1, 1.5), 100).convert("RGB")
    answer = "".join(chr(0x4E00 + 7 * i % 20000) for i in range(length - 150))
    return [{"image": picture, "question": "这张图片里有什么？" * (1 + i % 3), "answer": answer} for i in range(count)]


def train(
    model: torch.nn.Module,
    processor,
    folder: Path,
    batch: int,
    length: int,
    rounds: int,
    device: torch.device,
    saves: bool,
) -> Rounds:
    """Trains with ChatTrainer as `viscpm finetune chat` would, and plain rounds between."""
    from transformers import PrinterCallback, Seq2SeqTrainingArguments

    from viscpm_hf.finetuning import ChatCollator, ChatDataset, ChatTrainer

    collator = ChatCollator(processor, length)
    dataset = ChatDataset(samples(4 * batch, length))
    batches = [collator([dataset[i] for i in range(start, start + batch)]) for start in range(0, 4 * batch, batch)]
    batches = [{key: value.to(device) for key, value in each.items()} for each in batches]
    half = on_gpu(device)
    measured = Rounds(batches, rounds, device, half)
    # called so in later versions of transformers
    names = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)} & {"activation_checkpointing"}
    arguments = Seq2SeqTrainingArguments(
        str(folder / "run"),
        max_steps=measured.steps,
        per_device_train_batch_size=batch,
        bf16=half,
        use_cpu=not half,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **{names.pop() if names else "gradient_checkpointing": saves},
    )
    if not saves:  # what a case before left on: Trainer only turns it on
        model.gradient_checkpointing_disable()
    trainer = ChatTrainer(
        model, arguments, train_dataset=dataset, data_collator=collator, callbacks=[measured.callback]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return measured


def predicted(config, device_type: str, mode: str, tuned: dict, batch: int, length: int, dtype, checkpointing=True):
    from viscpm_hf.memory.machine import Machine
    from viscpm_hf.memory.sizes import released_chat
    from viscpm_hf.memory.training import Training, plan_training

    training = Training(mode, batch=batch, length=length, dtype=dtype, checkpointing=checkpointing, **tuned)
    return plan_training(released_chat(config), Machine(device_type, 2**40), training)


def gpu(tiny: bool, length: int, rounds: int) -> None:
    """Prints a table of steps at the release's geometry."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = torch.device("cpu" if tiny else "cuda")
    begun = time.perf_counter()
    name = "CPU" if tiny else torch.cuda.get_device_name()
    print(f"\n{name}, {datetime.date.today()}, torch {torch.__version__}, {length} tokens a sample, bf16\n")
    print("| trained | batch | predicted | tensors | card | tokens/s | plain loop | ratio |\n" + "|---" * 8 + "|")
    with tempfile.TemporaryDirectory() as folder:
        processor = made = model = None
        for title, mode, tuned, layers, batch, saves in GPU_CASES:
            row = f"| {title} | {batch} |"
            if not tiny and time.perf_counter() - begun > SECONDS:
                print(f"{row} no time was left |")
                continue
            config = config_of(TINY if tiny else {"language": {}, "vision": {}}, 2 if tiny else layers)
            batch = min(batch, 2) if tiny else batch
            processor = processor or make_processor(config, Path(folder))
            try:
                if made != (mode, tuned, layers):
                    model = None
                    start_peaks(device)  # makes room
                    made, model = (mode, tuned, layers), make_model(config, mode, tuned, device, torch.bfloat16)
                done = train(model, processor, Path(folder), batch, length, rounds, device, saves)
                ours, plain, ratio = done.per_second(batch * length)
                plan = predicted(config, "cuda", mode, tuned, batch, length, torch.bfloat16, saves)
                figures = f"{plan.peak / GB:.1f} GB | {done.peak} | {ours:.0f} | {plain:.0f} | {ratio:.2f} |"
                print(f"{row} {figures}", flush=True)
            except (ImportError, torch.OutOfMemoryError) as error:
                made = model = None
                print(f"{row} {' '.join(str(error).split())[:150]} |", flush=True)
            finally:
                gc.collect()
    print(f"\n{time.perf_counter() - begun:.0f} s")


def small(length: int, rounds: int) -> None:
    """Prints tables of a reduced geometry on the CPU."""
    device, config = torch.device("cpu"), config_of(SMALL)
    with tempfile.TemporaryDirectory() as folder:
        processor = make_processor(config, Path(folder))
        print("| trained | batch | tokens/s | plain loop | ratio |\n" + "|---" * 5 + "|")
        for title, mode, tuned, batch in SMALL_CASES:
            model = make_model(config, mode, tuned, device, torch.float32)
            done = train(model, processor, Path(folder), batch, length, rounds, device, True)
            ours, plain, ratio = done.per_second(batch * length)
            print(f"| {title} | {batch} | {ours:.0f} | {plain:.0f} | {ratio:.2f} |", flush=True)
        print("\n| trained | batch | checkpointing | predicted | measured | ratio |\n" + "|---" * 6 + "|")
        repo = write_repo(config, processor, Path(folder, "repo"))
        for case in PEAKS:
            print(measure_peak(repo, config, *case, length), flush=True)


def write_repo(config, processor, folder: Path) -> Path:
    """A converted repository of random numbers in half precision."""
    model = make_model(config, "full", {}, torch.device("cpu"), torch.float32).half()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def measure_peak(repo: Path, config, mode: str, tuned: dict, batch: int, checkpointing: bool, length: int) -> str:
    """A row: a process that trains as `viscpm finetune chat` does."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for number, sample in enumerate(samples(2 * batch, length)):
            sample["image"].save(Path(folder, f"{number}.png"))
            rows.append(sample | {"image": f"{number}.png"})
        Path(folder, "data.json").write_text(json.dumps(rows), encoding="utf-8")
        command = ["finetune", "chat", "--model", repo, "--data", f"{folder}/data.json", "--output", f"{folder}/out"]
        command += ["--mode", mode, "--max_length", length, "--max_steps", 2, "--use_cpu", "--save_strategy", "no"]
        command += ["--per_device_train_batch_size", batch, "--gradient_checkpointing", str(checkpointing).lower()]
        command += [f"--{name.replace('_', '-')}" for name, value in tuned.items() if value]
        measured = run([sys.executable, "-m", "viscpm_hf", *command]).anonymous
    plan = predicted(config, "cpu", mode, tuned, batch, length, torch.float32, checkpointing)
    what = mode + "".join(f", {name.replace('_', ' ')}" for name in tuned)
    sizes = f"{plan.unmapped / 1e6:.0f} MB | {measured / 1e6:.0f} MB | {plan.unmapped / measured:.2f}"
    return f"| {what} | {batch} | {'yes' if checkpointing else 'no'} | {sizes} |"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--gpu", action="store_true", help="the release's geometry on a GPU")
    what.add_argument("--tiny", action="store_true", help="the same with a tiny geometry on the CPU")
    what.add_argument("--small", action="store_true", help="a reduced geometry on the CPU")
    parser.add_argument("--length", type=int, help="tokens of a sample (default: 512, on the CPU 256)")
    parser.add_argument("--rounds", type=int, help="of steps (default: 2, with --small 5)")
    args = parser.parse_args(argv)
    if args.gpu and not torch.cuda.is_available():
        print("There is no GPU here, so nothing was measured; --tiny tries the script on the CPU.")
        return 0
    if args.small:
        small(args.length or 256, args.rounds or 5)
    else:
        gpu(args.tiny, args.length or (512 if args.gpu else 256), args.rounds or (2 if args.gpu else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
