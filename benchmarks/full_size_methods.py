"""What `full_size.py --method` runs: Chat stored, in 8 and in 4 bits on a CPU; each answer in a process of its own."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

from processes import out_of_cache, run

PROMPT, NEW_TOKENS = 128, 16
BEAMS = (1, 3)
SHARD = int(2e9)  # bytes of a weight file: as much more than the model is on the disk while one is rounded
HEADER = (
    "| Chat | load | again | picture | first prompt | prompt | 1 beam | 3 beams | resident | anonymous | answer |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


def write_converted(folder: Path, sizes: dict) -> None:
    """A converted Chat of random weights in half precision; a checkpoint of it would take as much room again."""
    import torch
    from full_size import initial, repeated
    from tokenizer import made_up_vocabulary

    from viscpm_hf import (
        CpmBeeTokenizer,
        VisCPMChatConfig,
        VisCPMChatForConditionalGeneration,
        VisCPMChatImageProcessor,
        VisCPMChatProcessor,
    )
    from viscpm_hf.checkpoint import repo
    from viscpm_hf.checkpoint.files.stored import StoredTensor
    from viscpm_hf.checkpoint.files.weights import shards, write_index, write_weights

    folder.mkdir()
    config = VisCPMChatConfig(text_config=sizes["language"], vision_config=sizes["vision"])
    made_up_vocabulary(folder / "vocab.txt", config.text_config.vocab_size)
    tokenizer = CpmBeeTokenizer(vocab_file=str(folder / "vocab.txt"))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        setattr(config.text_config, name, getattr(tokenizer, name))
    config.image_token_id = tokenizer.unk_token_id
    pictures = VisCPMChatImageProcessor(size=config.vision_config.image_size)
    VisCPMChatProcessor(pictures, tokenizer, query_num=config.vision_config.query_num).save_pretrained(folder)
    repo.write_config(folder, config, repo.CHAT_AUTO_MAP, torch.float16)
    repo.write_generation_config(folder, config.text_config, repo.CHAT_GENERATION)
    repo.copy_code(folder, repo.CHAT_CODE)

    with torch.device("meta"):
        state = VisCPMChatForConditionalGeneration(config).state_dict()
    del state["lm_head.weight"]  # the embedding once more
    tensors, names, start = {}, {}, 0
    for name, tensor in state.items():
        tensors[name] = StoredTensor(Path("random"), torch.float16, tuple(tensor.shape), start)
        names[start], start = name, start + tensors[name].nbytes
    torch.manual_seed(0)
    noise = torch.randn(2**21 - 9)

    def read(tensor):
        numbers = initial(names[tensor.offset], tensor.shape, noise).half()
        block = memoryview(numbers.view(torch.uint8).flatten().numpy())
        return repeated(block, tensor.offset % len(block), tensor.nbytes)

    files = shards(tensors, "model", None, SHARD)
    write_weights(folder, files, True, read)
    if len(files) > 1:
        write_index(folder, "model", files)


def quantize(source: Path, output: Path, method: str) -> None:
    """As `viscpm quantize`, but that weight files of the source go as soon as they were read, for want of room."""
    from viscpm_hf.memory import rounded_repository

    load, last = rounded_repository.load, None

    def consuming(tensor):
        nonlocal last
        if last is not None and last != tensor.path:
            last.unlink()
        last = tensor.path
        return load(tensor)

    rounded_repository.load, rounded_repository.require_space = consuming, lambda *_: None
    rounded_repository.quantize_to_nearest(source, output, method)
    last.unlink()


def ask(repo: Path, method: str, times: int) -> None:
    """Prints as JSON what it takes to load a model and to answer, and the answer."""
    import gc

    import torch
    from full_size import require_finite
    from PIL import Image

    from viscpm_hf import VisCPMChat

    if method != "stored":  # not a part of loading
        import bitsandbytes  # noqa: F401
        import torchao.quantization  # noqa: F401
    found, options = {}, {"quantization": method} if times == 1 and method != "stored" else {}
    for which in ("load", "again")[:times]:
        chat = None
        gc.collect()
        found[which], chat = timed(lambda: VisCPMChat(repo, image_safety_checker=False, device="cpu", **options))
    chat.model.lm_head.register_forward_hook(lambda module, args, logits: require_finite(logits))
    picture = Image.effect_mandelbrot((224, 224), (-2, -1.5, 1, 1.5), 100)
    found["picture"], states = timed(lambda: chat.encode_image(picture))

    def answer(length, tokens, beams):
        item = {"image": None, "question": "月" * length, "vision_hidden_states": states}
        return chat.answers([item], max_new_tokens=tokens, min_new_tokens=tokens, num_beams=beams)[0][0]

    content = [{"type": "image", "image": picture}, {"type": "text", "text": ""}]
    empty = chat.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    length = PROMPT - len(empty["input_ids"][0])
    found["first prompt"], one = timed(lambda: answer(length, 1, 1))
    assert one.prompt_tokens == PROMPT, one.prompt_tokens
    found["prompt"], _ = timed(lambda: answer(length, 1, 1))
    for beams in BEAMS:
        seconds, several = timed(lambda beams=beams: answer(length, 1 + NEW_TOKENS, beams))
        first, _ = timed(lambda beams=beams: answer(length, 1, beams))
        found[f"beams {beams}"] = (seconds - first) / NEW_TOKENS
    print("\n" + json.dumps({**found, "answer": several.text, "threads": torch.get_num_threads()}))


def timed(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def rows(folder: Path, methods: list[str], own: list):
    """Answers with a model by each method, then writes, loads and asks its quantized copies; gives rows of the table.

    Args:
        folder: to work in.
        methods: `"stored"`, `"int8"`, `"4bit"`.
        own: command of full_size.py, to which a step is added.
    """
    converted, answers = folder / "converted", {}
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as `viscpm` does

    def step(what, *arguments):
        print(f"chat: {what} …", file=sys.stderr, flush=True)
        for path in folder.rglob("*.safetensors"):
            out_of_cache(path)
        os.sync()
        return run([*own, *arguments])

    def row(name, done):
        found = json.loads(done.output.strip().rpartition("\n")[2])
        text = answers.setdefault(name.removeprefix("quantized to "), found["answer"])
        numbers = [
            found.get(key) for key in ("load", "again", "picture", "first prompt", "prompt", "beams 1", "beams 3")
        ]
        shown = " | ".join("–" if number is None else f"{number:.2f}" for number in numbers)
        memory = " | ".join(f"{nbytes / 2**30:.2f} GiB" for nbytes in (done.resident, done.anonymous))
        same = "as above" if found["answer"] == text else "ANOTHER"
        return f"| {name} | {shown} | {memory} | {same if name.startswith('quantized') else ''} |"

    yield from HEADER
    step("write", "--step", "write converted")
    for method in methods:
        yield row(method, step(method, "--step", "ask", "--method", method))
    for method in methods:
        if method == "stored":
            continue
        if not any(converted.glob("*.safetensors")):  # the last method took them
            shutil.rmtree(converted)
            step("write again", "--step", "write converted")
        done = step(f"quantize to {method}", "--step", "quantize", "--method", method)
        nbytes = sum(path.stat().st_size for path in (folder / method).iterdir())
        memory = " | ".join(f"{each / 2**30:.2f} GiB" for each in (done.resident, done.anonymous))
        yield f"| quantize to {method}: {done.seconds:.0f} s, {nbytes / 1e9:.1f} GB | | | | | | | | {memory} | |"
        yield row(f"quantized to {method}", step(f"{method} as stored", "--step", "ask quantized", "--method", method))
        shutil.rmtree(folder / method)
