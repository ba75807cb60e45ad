"""VisCPM at full size on a GPU: speed and memory of the ways to run it, next to what the machine allows.

    python benchmarks/gpu.py [--models chat paint] [--cases resident stream …] [--folder DIR]

Repositories of random numbers, made on the GPU, are written with the sizes of the release in half precision (Chat
20.5 GB, Paint 21.1 GB, without checkers, one after the other, removed afterwards) and loaded as `viscpm fit` plans it.
Every case is a process of its own. Floors are bytes over the bandwidth measured just before: of weights read from GPU
memory, or brought to it. `tensors` is torch's peak, loading included; `card` adds what torch keeps and CUDA takes, so
nothing else should use the GPU. Without one there is nothing to measure; --tiny tries the script on a CPU.
"""

import argparse
import datetime
import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from full_size import SD_UNET, SD_VAE, SIZES, initial

LANGUAGE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY = {
    "language": {**LANGUAGE, "vocab_size": 22000},
    "vision": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
    "unet": {"sample_size": 4, "block_out_channels": [160] * 4, "cross_attention_dim": 32, "layers_per_block": 1},
    "vae": {"block_out_channels": [32] * 4},
}
GB = 10**9
# what is wanted of each way to run Chat
CHAT = {"resident": "floor ≥ 70 % compiled", "stream": "card ≤ 5 GB, floor ≥ 80 %", "4bit": "card ≤ 8 GB"}
# of each way to run Paint in half precision: GB of tensors worked out by hand
PAINT = {"resident": 21.5, "int8": 12.3, "4bit": 7.8, "stream": 3.5, "stream all": 1.3}
IMAGES, PROMPT = 4, "人闲桂花落，月静春山空"


def on_gpu(device: torch.device) -> bool:
    """Whatever only CUDA has asks here first."""
    return device.type == "cuda"


def now(device: torch.device) -> float:
    if on_gpu(device):
        torch.cuda.synchronize()
    return time.perf_counter()


def start_peaks(device: torch.device) -> None:
    gc.collect()
    if on_gpu(device):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peaks(device: torch.device) -> str:
    """Peaks of tensors and of the card since `start_peaks`."""
    if not on_gpu(device):
        return "– | –"
    free, total = torch.cuda.mem_get_info()
    outside = total - free - torch.cuda.memory_reserved()
    card = torch.cuda.max_memory_reserved() + outside
    return f"{torch.cuda.max_memory_allocated() / GB:.1f} GB | {card / GB:.1f} GB"


def write_weights(folder: Path, name: str, model: torch.nn.Module, device: torch.device) -> None:
    """A file of half-precision noise, made on the device, for a model on `meta`."""
    from viscpm_hf import CpmBeeModel
    from viscpm_hf.checkpoint.files.safetensors_file import layout

    state = model.state_dict()
    state.pop("lm_head.weight", None)  # the embedding once more
    header, places = layout({key: (torch.float16, tuple(tensor.shape)) for key, tensor in state.items()})
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "wb") as file:
        file.write(header)
        for key in places:  # in the order of the file
            shape = tuple(state[key].shape)
            prefix = "llm." if isinstance(model, CpmBeeModel) or "language_model." in key else ""
            noise = torch.randn(shape, device=device, dtype=torch.float16)
            initial(prefix + key, shape, noise).half().cpu().numpy().tofile(file)


def write_repo(kind: str, folder: Path, sizes: dict, device: torch.device) -> None:
    """A converted Chat or Paint of random numbers."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from tokenizer import made_up_vocabulary

    import viscpm_hf as v
    from viscpm_hf.checkpoint.pipeline_repo import write_pipeline

    language = v.CpmBeeConfig(**sizes["language"], dtype="float16")
    made_up_vocabulary(folder / "vocab.txt", language.vocab_size)
    tokenizer = v.CpmBeeTokenizer(str(folder / "vocab.txt"))
    if kind == "chat":
        config = v.VisCPMChatConfig(text_config=language.to_dict(), vision_config=sizes["vision"], dtype="float16")
        config.save_pretrained(folder)
        images = v.VisCPMChatImageProcessor(size=config.vision_config.image_size)
        v.VisCPMChatProcessor(images, tokenizer, config.vision_config.query_num).save_pretrained(folder)
        with torch.device("meta"):
            model = v.VisCPMChatForConditionalGeneration(config)
        return write_weights(folder, "model.safetensors", model, device)
    with torch.device("meta"):
        encoder, unet = v.CpmBeeModel(language), UNet2DConditionModel(**SD_UNET, **sizes["unet"])
        projection = v.VisCPMPaintTextProjection(language.hidden_size, unet.config.cross_attention_dim)
        parts = {"text_projection": projection, "unet": unet, "vae": AutoencoderKL(**SD_VAE, **sizes["vae"])}
    write_pipeline(folder, tokenizer, language, unet, set(), torch.float16)
    parts["vae"].save_config(folder / "vae")
    write_weights(folder / "text_encoder", "model.safetensors", encoder, device)
    for name, model in parts.items():
        write_weights(folder / name, "diffusion_pytorch_model.safetensors", model, device)


def plan_of(method: str, repo: Path, device: torch.device, dtype: torch.dtype | None = None, **workload):
    """The plan of a method as `viscpm fit` makes it, and the machine that it is for."""
    from viscpm_hf.memory.budget import choose
    from viscpm_hf.memory.machine import Machine, this_machine
    from viscpm_hf.memory.plans import Workload, list_plans
    from viscpm_hf.memory.sizes import read_model

    # on a CPU a GPU's plans are tried, too
    machine = this_machine(device, repo) if on_gpu(device) else Machine("cuda", 64 * GB)
    plans = list_plans(read_model(repo), machine, 5 * GB, dtype, Workload(**workload))
    start_peaks(device)  # measuring the machine took memory
    if method == "stream":  # whichever of them a budget of 5 GB leads to
        return choose([plan for plan in plans if "stream" in plan.method], machine, 5 * GB, False, str(repo)), machine
    return [plan for plan in plans if plan.method == method][-1], machine  # the last precision is the default


def run_chat(method: str, repo: Path, device: torch.device, few: int, many: int) -> str:
    """Rows of peaks, of tokens per second, and of how near the floor that is."""
    from PIL import Image
    from transformers import StoppingCriteria

    from viscpm_hf import VisCPMChatForConditionalGeneration, VisCPMChatProcessor
    from viscpm_hf.memory.placement import load_chat

    class Clock(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            times.append(now(device))
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    processor = VisCPMChatProcessor.from_pretrained(repo)
    picture = Image.effect_mandelbrot((224, 224), (-2, -1.5, 1, 1.5), 100)
    inputs = processor(images=[picture], text=["这张图片里有什么？" * 6])
    plan, machine = plan_of(method, repo, device, prompt_tokens=inputs["input_ids"].shape[1], new_tokens=many)
    model = load_chat(VisCPMChatForConditionalGeneration, repo, plan, device).eval()
    inputs = {name: value.to(device) for name, value in inputs.items() if torch.is_tensor(value)}
    blocks = sum(tensor.nbytes for tensor in model.model.language_model.layers.state_dict().values())
    floor = (blocks + model.lm_head.weight.nbytes) / machine.speed("gpu memory")
    if method == "stream":
        floor = blocks / machine.speed("link")
        few, many = few // 8 + 2, many // 16 + 2  # a token takes a second
    greedy = {"num_beams": 1, "length_penalty": 1.0}
    # way: options, tokens, times it is done; the first time compiles, or learns the order of blocks
    ways = {"greedy": (greedy, few, 2), "the original's 3 beams": ({}, many, 1)}
    if method == "resident":  # with this cache transformers compiles
        ways = {"greedy, compiled": ({**greedy, "cache_implementation": "static"}, few, 2)} | ways
    rows = []
    for way, (options, tokens, repetitions) in ways.items():
        for _ in range(repetitions):
            times, start = [], now(device)
            limits = {"max_new_tokens": tokens, "min_new_tokens": tokens}
            model.generate(**inputs, **options, **limits, stopping_criteria=[Clock()])
        each = (times[-1] - times[0]) / (len(times) - 1)
        speed = f"first token after {times[0] - start:.2f} s, then {1 / each:.1f}/s | {100 * floor / each:.0f} %"
        rows.append(
            f"| Chat, {plan.title}, {way} | {plan.peak / GB:.1f} GB | {peaks(device)} | {speed} | {CHAT[method]} |"
        )
    return "\n".join(rows)


def run_paint(method: str, repo: Path, device: torch.device, few: int, many: int) -> str:
    """A row of a plan's peaks, or rows of how long the original's recipe and ours take."""
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

    from viscpm_hf import VisCPMPaintPipeline
    from viscpm_hf.memory.placement import load_paint

    ddpm, dpm = (DDPMScheduler, many, {}), (DPMSolverMultistepScheduler, few, {"timestep_spacing": "trailing"})
    half = {"half precision": (torch.float16, *ddpm), "half precision, DPM++": (torch.float16, *dpm)}
    plain = {"two steps": (torch.float16, DDPMScheduler, 2, {})}
    recipes = plain if method in PAINT else {"the original's recipe": (None, *ddpm), **half}
    rows, seconds_of = [], {}
    for recipe, (dtype, scheduler, steps, options) in recipes.items():
        pipeline = None  # makes room
        plan, _ = plan_of(method if method in PAINT else "resident", repo, device, dtype, images=IMAGES, steps=steps)
        pipeline = load_paint(VisCPMPaintPipeline, repo, plan, device, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **options)
        pipeline(PROMPT, num_images_per_prompt=IMAGES, num_inference_steps=1)  # warms up
        start = now(device)
        pipeline(PROMPT, num_images_per_prompt=IMAGES, num_inference_steps=steps)
        seconds_of[recipe] = now(device) - start
        ratio = next(iter(seconds_of.values())) / seconds_of[recipe]
        speed = f"{IMAGES} images, {steps} steps: {seconds_of[recipe]:.2f} s, {ratio:.1f} × first | "
        wanted = f"tensors {PAINT[method]} GB" if method in PAINT else ""
        rows.append(
            f"| Paint, {plan.title}, {recipe} | {plan.peak / GB:.1f} GB | {peaks(device)} | {speed}| {wanted} |"
        )
    return "\n".join(rows)


# what is run, the cases, and how many tokens or steps: few, many
CASES = {"chat": (run_chat, list(CHAT), 64, 514), "paint": (run_paint, [*PAINT, "recipes"], 20, 50)}


def main(argv: list[str] | None = None) -> int:
    names = list(dict.fromkeys(case for _, cases, *_ in CASES.values() for case in cases))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--cases", nargs="+", choices=names, default=names, help="which of them; all by default")
    parser.add_argument("--folder", help="where to work; needs 22 GB (default: the system's)")
    parser.add_argument("--tiny", action="store_true", help="a tiny geometry on the CPU, to try the script")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)  # in a new process: kind, case, repository
    args = parser.parse_args(argv)
    if not args.tiny and not torch.cuda.is_available():
        print("There is no GPU here, so nothing was measured; --tiny tries the script on the CPU.")
        return 0
    device = torch.device("cpu" if args.tiny else "cuda")
    if args.case:
        kind, case, repo = args.case
        work, _, few, many = CASES[kind]
        if case == "write":
            write_repo(kind, Path(repo), TINY if args.tiny else SIZES["full"], device)
            name = torch.cuda.get_device_name() if on_gpu(device) else "CPU"
            print(f"\n{name}, {datetime.date.today()}, torch {torch.__version__}\n")
            print("| case | predicted | tensors | card | speed | of the floor | wanted |\n" + "|---" * 7 + "|")
        else:
            print(work(case, Path(repo), device, *((3, 4) if args.tiny else (few, many))))
        return 0
    code = 0
    for kind in args.models:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            for case in ("write", *(case for case in CASES[kind][1] if case in args.cases)):
                if args.tiny:
                    main(["--tiny", "--case", kind, case, folder])
                    continue
                # this process must take nothing of the GPU
                command = [sys.executable, __file__, "--case", kind, case, folder]
                done = subprocess.run(command, capture_output=True, text=True)
                last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
                print(f"| {kind}, {case} failed: {last} |" if done.returncode else done.stdout.rstrip(), flush=True)
                code = code or done.returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
