"""`make demo`: convert the shipped tiny checkpoints, load them as from the Hub, ask about two pictures, paint four."""

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, TextIteratorStreamer
from transformers import logging as transformers_logging

from ..checkpoint.layout.diffusers_classes import DiffusionPipeline, diffusers_logging
from ..language import say
from . import GUIDANCE_SCALE, PICTURES, convert_tiny_chat, convert_tiny_paint, use_one_thread
from .world.contact_sheet import contact_sheet

QUESTIONS = ("猫在哪里？", "它是什么颜色的？", "Describe the picture.")
PROMPTS = ("草地上有一只猫", "a rocket at night", "一个苹果在一根香蕉的左边", "a blue star in the bottom left")
IN_THE_OTHER_LANGUAGE = {
    "猫在哪里？": "Where is the cat?",
    "猫在左上角。": "The cat is in the top left.",
    "它是什么颜色的？": "What colour is it?",
    "它是黄色的。": "It is yellow.",
    "Describe the picture.": "描述一下这张图片。",
    "At night there is a large moon in the top right and a large rocket in the bottom left.": (
        "夜里，右上角有一个大月亮，左下角有一枚大火箭。"
    ),
    "草地上有一只猫": "a cat on the grass",
    "a rocket at night": "夜空中有一枚火箭",
    "一个苹果在一根香蕉的左边": "an apple to the left of a banana",
    "a blue star in the bottom left": "左下角有一个蓝色的五角星",
}
Q, A, PAINTED = say("  Q  ", "  问 "), say("  A  ", "  答 "), say("  painted  ", "  画 ")


def show(path: Path, columns: int = 32) -> None:
    """Print a picture in a terminal's colours, two pixels per character; elsewhere only its path."""
    print(f"\n{path}")
    if not sys.stdout.isatty():
        return
    pixels = Image.open(path).convert("RGB").resize((columns, columns)).load()
    for y in range(0, columns, 2):
        line = ""
        for x in range(columns):
            top, bottom = pixels[x, y], pixels[x, y + 1]
            line += "\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀".format(*top, *bottom)
        print(f"  {line}\x1b[0m")


def gloss(text: str) -> str:
    """What a text is in the other language, in brackets."""
    return f"  ({IN_THE_OTHER_LANGUAGE[text]})" if text in IN_THE_OTHER_LANGUAGE else ""


def question(path: Path, text: str) -> dict:
    """A first message: a picture and a question about it."""
    return {"role": "user", "content": [{"type": "image", "path": str(path)}, {"type": "text", "text": text}]}


def convert(what: str, converter: Callable[[Path], Path], output: Path) -> Path:
    """Convert into a fresh folder and say how long it took."""
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    converter(output)
    seconds = f"{time.perf_counter() - started:.1f}"
    print(
        say(
            f"Converted the original-layout {what} checkpoint to {output} in {seconds} s.",
            f"已把原版格式的 {what} 检查点转换到 {output}，用时 {seconds} 秒。",
        )
    )
    return output


def talk_about_pictures(repo: Path) -> None:
    """Ask three questions about the two shipped pictures."""
    processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(repo, trust_remote_code=True)

    def prepare(messages):
        return processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
        )

    def answer(messages):
        inputs = prepare(messages)
        ids = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        return processor.post_process_image_text_to_text(ids, ext_tables=inputs.ext_tables)[0]

    first, second = sorted(PICTURES.glob("*.png"))[:2]

    show(first)
    talk = [question(first, QUESTIONS[0])]
    reply = answer(talk)
    print(f"{Q}{QUESTIONS[0]}{gloss(QUESTIONS[0])}\n{A}{reply}{gloss(reply)}")

    talk += [{"role": "assistant", "content": reply}, {"role": "user", "content": QUESTIONS[1]}]
    remark = say("second turn: only the context says what is meant", "第二轮：只有上文能说明“它”指什么")
    reply = answer(talk)
    print(f"{Q}{QUESTIONS[1]}{gloss(QUESTIONS[1])}  {remark}\n{A}{reply}{gloss(reply)}")

    show(second)
    print(f"{Q}{QUESTIONS[2]}{gloss(QUESTIONS[2])}  {say('streamed', '流式输出')}\n{A}", end="")
    # without a time limit a failure in the thread would leave the loop below waiting
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    arguments = {
        **prepare([question(second, QUESTIONS[2])]),
        "streamer": streamer,
        "num_beams": 1,
        "length_penalty": None,
    }
    thread = Thread(target=model.generate, kwargs=arguments)
    thread.start()
    reply = ""
    for piece in streamer:
        reply += piece
        print(piece, end="", flush=True)
    thread.join()
    print(f"{gloss(reply)}\n\n{say('The converted folder is', '转换后的文件夹：')} {repo.resolve()}\n")


def paint(repo: Path, sheet: Path) -> None:
    """Paint four prompts and save them side by side."""
    pipeline = DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)
    pipeline.set_progress_bar_config(desc=say("painting", "作画"), disable=not sys.stderr.isatty())
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    pictures = pipeline(list(PROMPTS), generator=generators, guidance_scale=GUIDANCE_SCALE).images
    contact_sheet(pictures, list(PROMPTS), scale=2).save(sheet)
    for prompt in PROMPTS:
        print(f"{PAINTED}{prompt}{gloss(prompt)}")
    print(f"\n{say('The converted folder is', '转换后的文件夹：')} {repo.resolve()}")
    print(f"{say('The pictures are', '画好的图片：')} {sheet.resolve()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for what the demo makes")
    output = parser.parse_args().output
    use_one_thread()
    for logging in (transformers_logging, diffusers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    talk_about_pictures(convert("Chat", convert_tiny_chat, output / "VisCPM-Chat-tiny"))
    paint(convert("Paint", convert_tiny_paint, output / "VisCPM-Paint-tiny"), output / "painted.png")
    command = Path(sys.executable).with_name("viscpm")
    viscpm = shlex.quote(os.path.relpath(command)) if command.exists() else "viscpm"
    print(f"\n{say('Now yourself:', '接下来可以自己试：')}\n  {viscpm} chat --examples\n  {viscpm} paint --examples")


if __name__ == "__main__":
    main()
