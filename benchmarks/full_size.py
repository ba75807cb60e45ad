"""VisCPM at full size: a random checkpoint is written, copied, converted, verified, loaded and used.

    python benchmarks/full_size.py [--models chat paint] [--scale small]
    python benchmarks/full_size.py --method stored int8 4bit [--scale small]

The checkpoint has the names and shapes of the release in half precision (Chat 20.6 GB, Paint 21.0 GB) and the
original's layout. Chat answers a question about a picture with a few tokens, Paint takes one step of denoising. Every
step is a process of its own; a table tells its seconds and its peaks of memory, resident (VmHWM, with the pages of
mapped files) and anonymous (RssAnon, without). Before each step all files are put out of the page cache. It needs 45
GB of disk while it works, and leaves nothing behind however it ends.

With --method, Chat answers on a CPU in each of these ways: seconds to load, for the picture, for a prompt of 128
tokens, and for a token with one beam and with three. Then come the copies that `viscpm quantize` writes, loaded once
from the disk and once more from the page cache, and whether they answer the same. The model is written without a
checkpoint and goes while it is rounded, so that 25 GB of disk are enough.
"""

import argparse
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import full_size_methods
from processes import out_of_cache, run

SCRIPTS = Path(__file__).parents[1] / "conversion"
DISK = {"full": 45e9, "small": 1e9}
DISK_OF_METHODS = {"full": 25e9, "small": 1e9}
BUDGET = "5GiB"
NEW_TOKENS = 3
# Paint's painting part is Stable Diffusion 2.1 base; all other sizes of the release are the classes' defaults
SIZES = {
    "full": {
        "language": {},
        "vision": {},
        "unet": {"sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 1024},
        "vae": {"block_out_channels": [128, 256, 512, 512]},
    },
    "small": {
        "language": {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3, "num_attention_heads": 4},
        "vision": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2},
        "unet": {"sample_size": 8, "block_out_channels": [320, 320, 320, 320], "cross_attention_dim": 64},
        "vae": {"block_out_channels": [32, 32, 32, 32]},
    },
}
SD_UNET = {"use_linear_projection": True, "attention_head_dim": [5, 10, 20, 20]}
SD_VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
# stored with Chat but never used
DEAD_WEIGHT = {
    "vpm.beit3.text_embed.weight": (64010, 1024),
    "vpm.beit3.vision_embed.mask_token": (1, 1, 1024),
    "vpm.mim_head.weight": (8192, 1024),
    "vpm.mim_head.bias": (8192,),
}


def chat_shapes(sizes: dict) -> dict[str, tuple[int, ...]]:
    """Original names and shapes."""
    import torch

    from viscpm_hf import VisCPMChatConfig, VisCPMChatForConditionalGeneration
    from viscpm_hf.checkpoint.layout.keys import CHAT

    config = VisCPMChatConfig(text_config=sizes["language"], vision_config=sizes["vision"])
    with torch.device("meta"):
        state = VisCPMChatForConditionalGeneration(config).state_dict()
    del state["lm_head.weight"]  # the embedding once more
    return original_names(CHAT, state) | DEAD_WEIGHT


def paint_shapes(sizes: dict) -> dict[str, tuple[int, ...]]:
    """Original names and shapes."""
    import torch
    from diffusers import UNet2DConditionModel

    from viscpm_hf import CpmBeeConfig, CpmBeeModel, VisCPMPaintTextProjection
    from viscpm_hf.checkpoint.layout.keys import with_unet

    config = CpmBeeConfig(**sizes["language"])
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD_UNET, **sizes["unet"])
        parts = {
            "text_encoder": CpmBeeModel(config),
            "text_projection": VisCPMPaintTextProjection(config.hidden_size, unet.config.cross_attention_dim),
            "unet": unet,
        }
    family = with_unet({name: tensor.shape for name, tensor in unet.state_dict().items()})
    state = {f"{part}/{name}": t for part, model in parts.items() for name, t in model.state_dict().items()}
    return original_names(family, state)


def original_names(family, state: dict) -> dict[str, tuple[int, ...]]:
    """Shapes of a converted model's tensors by their names in the checkpoint."""
    from viscpm_hf.checkpoint.layout.keys import inverted, match

    names = match(inverted(family), state, "the model").names
    return {names[name]: tuple(tensor.shape) for name, tensor in state.items()}


def write(kind: str, folder: Path, sizes: dict) -> None:
    """Checkpoint and vocabulary, for Paint also a Stable Diffusion."""
    import torch
    from tokenizer import made_up_vocabulary

    from viscpm_hf import CpmBeeConfig
    from viscpm_hf.checkpoint.files.stored import StoredTensor
    from viscpm_hf.checkpoint.files.torch_file import TorchWriter
    from viscpm_hf.checkpoint.files.weights import progress_bar

    made_up_vocabulary(folder / "vocab.txt", CpmBeeConfig(**sizes["language"]).vocab_size)
    if kind == "paint":
        write_stable_diffusion(folder / "sd", sizes)
    shapes = {"chat": chat_shapes, "paint": paint_shapes}[kind](sizes)
    path = folder / "checkpoint.bin"
    tensors = {name: StoredTensor(path, torch.float16, shape, 0) for name, shape in shapes.items()}
    # a prime number of them, so that no two rows of a matrix and no two matrices are alike
    noise, start = torch.randn(2**21 - 9), 0
    total = sum(tensor.nbytes for tensor in tensors.values())
    with progress_bar(total, True) as bar, TorchWriter(path, tensors) as writer:
        for name, tensor in tensors.items():
            numbers = initial(name, tensor.shape, noise).half()
            block = memoryview(numbers.view(torch.uint8).numpy())
            writer.write_tensor(name, repeated(block, start % len(block), tensor.nbytes))
            start += tensor.nbytes
            bar.update(tensor.nbytes)
    print(f"{total / 1e9:.2f} GB, {len(tensors)} tensors")


def initial(name: str, shape: tuple[int, ...], noise):
    """Numbers to fill a tensor with, such that states neither grow nor vanish from layer to layer."""
    import torch

    if len(shape) == 1:
        return torch.full(shape, float(name.endswith("weight")))
    # CPM-Bee divides by the square root itself
    return noise if name.startswith(("llm.", "model.language_model.")) else noise / math.sqrt(math.prod(shape[1:]))


def repeated(block: memoryview, start: int, nbytes: int):
    """Pieces of a block repeated again and again, beginning somewhere in it."""
    while nbytes:
        piece = block[start : start + nbytes]
        yield piece
        start, nbytes = 0, nbytes - len(piece)


def write_stable_diffusion(folder, sizes):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    AutoencoderKL(**SD_VAE, **sizes["vae"]).save_pretrained(folder / "vae")
    with torch.device("meta"):
        UNet2DConditionModel(**SD_UNET, **sizes["unet"]).save_config(folder / "unet")


def use_chat(repo: Path) -> None:
    from PIL import Image

    from viscpm_hf import VisCPMChat

    start = time.perf_counter()
    chat = VisCPMChat(repo, image_safety_checker=False, device="cpu", memory=BUDGET)
    loaded = time.perf_counter()
    chat.model.lm_head.register_forward_hook(lambda module, args, logits: require_finite(logits))
    picture = Image.effect_mandelbrot((224, 224), (-2, -1.5, 1, 1.5), 100)
    chat.chat(picture, "这是什么？", max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    end = time.perf_counter()
    print(f"loaded in {loaded - start:.1f} s, {NEW_TOKENS} tokens with 3 beams in {end - loaded:.1f} s")


def use_paint(repo: Path) -> None:
    from viscpm_hf import VisCPMPaint

    start = time.perf_counter()
    painter = VisCPMPaint(repo, False, False, False, device="cpu", memory=BUDGET)
    loaded = time.perf_counter()
    painter.pipeline.unet.register_forward_hook(lambda module, args, noise: require_finite(noise[0]))
    picture = painter.generate("人闲桂花落，月静春山空", num_inference_steps=1)
    end = time.perf_counter()
    print(f"loaded in {loaded - start:.1f} s, {picture.width}x{picture.height} in one step in {end - loaded:.1f} s")


def require_finite(numbers):
    if not numbers.isfinite().all():
        raise RuntimeError("The model computes numbers that are not finite.")


def steps(kind: str, folder: Path, scale: str):
    """Runs one step after the other and removes what is no longer needed; gives rows of the table."""
    checkpoint, copy, repo = folder / "checkpoint.bin", folder / "copy.bin", folder / "converted"
    own = [sys.executable, __file__, "--folder", folder, "--models", kind, "--scale", scale, "--step"]
    convert = ["--checkpoint", checkpoint, "--vocab", folder / "vocab.txt", "--output", repo]
    convert += ["--sd-base", folder / "sd"] if kind == "paint" else []
    commands = {
        "write": [*own, "write"],
        "cp": ["cp", checkpoint, copy],
        "convert": [sys.executable, SCRIPTS / f"convert_{kind}.py", *convert],
        "verify": [sys.executable, SCRIPTS / "verify.py", "--checkpoint", checkpoint, "--repo", repo],
        "load and use": [*own, "use"],
    }
    seconds = {}
    for step, command in commands.items():
        print(f"{kind}: {step} …", file=sys.stderr, flush=True)
        for path in folder.rglob("*"):
            if path.is_file():
                out_of_cache(path)
        os.sync()
        done = run(command)
        seconds[step] = done.seconds
        notes = {
            "cp": "",
            "convert": f"{done.seconds / seconds['cp']:.2f} × cp" if "cp" in seconds else "",
            "verify": "every byte the same",
        }
        note = notes.get(step, done.output.strip())
        yield f"| {kind}: {step} | {done.seconds:.1f} | {shown(done.resident)} | {shown(done.anonymous)} | {note} |"
        if step == "cp":
            copy.unlink()
        elif step == "verify":
            checkpoint.unlink()


def shown(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["chat", "paint"], default=["chat", "paint"])
    parser.add_argument("--folder", help="where to work (default: the system's for temporary files)")
    parser.add_argument("--scale", choices=list(SIZES), default="full", help="small tries it out")
    parser.add_argument("--method", nargs="+", choices=["stored", "int8", "4bit"], help="ways to answer with Chat")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    work, (method, *_) = Path(args.folder or ""), args.method or [None]
    match args.step:
        case "write converted":
            return full_size_methods.write_converted(work / "converted", SIZES[args.scale])
        case "ask":
            return full_size_methods.ask(work / "converted", method, 1)
        case "quantize":
            return full_size_methods.quantize(work / "converted", work / method, method)
        case "ask quantized":
            return full_size_methods.ask(work / method, method, 2)
    if args.step == "write":
        return write(args.models[0], Path(args.folder), SIZES[args.scale])
    if args.step == "use":
        return {"chat": use_chat, "paint": use_paint}[args.models[0]](Path(args.folder, "converted"))

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _: sys.exit(128 + number))  # unwinds, so that it cleans up
    folder = args.folder or tempfile.gettempdir()
    free, needed = shutil.disk_usage(folder).free, (DISK_OF_METHODS if args.method else DISK)[args.scale]
    if free < needed:
        sys.exit(f"error: {needed / 1e9:.0f} GB of disk are needed, but {folder} has {free / 1e9:.1f} GB free.")
    rows = [] if args.method else ["| step | seconds | resident | anonymous | |", "|---|---|---|---|---|"]
    try:
        if args.method:
            with tempfile.TemporaryDirectory(dir=folder, prefix="full_size_") as work:
                own = [sys.executable, __file__, "--folder", work, "--scale", args.scale]
                for row in full_size_methods.rows(Path(work), args.method, own):
                    rows.append(row)
            return
        for kind in args.models:
            with tempfile.TemporaryDirectory(dir=folder, prefix="full_size_") as work:
                rows += steps(kind, Path(work), args.scale)
    except KeyboardInterrupt:
        sys.exit("error: interrupted; all files were removed")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error}; all files were removed")
    finally:
        print(*rows, sep="\n")


if __name__ == "__main__":
    main()
