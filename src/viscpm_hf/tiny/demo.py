"""`make demo`: convert the shipped tiny checkpoint, load it as from the Hub, and ask about two pictures."""

import argparse
import shutil
import sys
import time
from pathlib import Path
from threading import Thread

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, TextIteratorStreamer
from transformers import logging as transformers_logging

from . import PICTURES, convert_tiny_chat


def show(path: Path, columns: int = 32):
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


def question(path: Path, text: str) -> dict:
    """A first message: a picture and a question about it."""
    return {"role": "user", "content": [{"type": "image", "path": str(path)}, {"type": "text", "text": text}]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo") / "VisCPM-Chat-tiny", help="converted folder")
    output = parser.parse_args().output
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    convert_tiny_chat(output)
    print(f"Converted the original-layout checkpoint to {output} in {time.perf_counter() - started:.1f} s.")

    processor = AutoProcessor.from_pretrained(output, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(output, trust_remote_code=True)

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
    print(f"  问 {QUESTIONS[0]}\n  答 {reply}")

    talk += [{"role": "assistant", "content": reply}, {"role": "user", "content": QUESTIONS[1]}]
    print(f"  问 {QUESTIONS[1]}  (second turn: only the context says which one is meant)\n  答 {answer(talk)}")

    show(second)
    print(f"  Q  {QUESTIONS[2]}  (streaming)\n  A  ", end="")
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    arguments = {
        **prepare([question(second, QUESTIONS[2])]),
        "streamer": streamer,
        "num_beams": 1,
        "length_penalty": None,
    }
    thread = Thread(target=model.generate, kwargs=arguments)
    thread.start()
    for piece in streamer:
        print(piece, end="", flush=True)
    thread.join()
    print(f"\n\nThe converted folder is {output.resolve()}")


QUESTIONS = ("红色的图形在哪里？", "它是什么形状？", "Describe the picture.")

if __name__ == "__main__":
    main()
