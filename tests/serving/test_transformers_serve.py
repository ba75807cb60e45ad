"""Guards what docs/serving.md says of `transformers serve`: it answers with a converted Chat, but does not stream."""

import base64
import os
import re
import subprocess
import sys
import time

import pytest
from PIL import Image
from transformers import AutoProcessor
from transformers.models.auto import modeling_auto

from viscpm_hf import VisCPMChat
from viscpm_hf.tiny import PICTURES, tiny_chat_repo

PICTURE = PICTURES / "3_two_fish.png"
# docs/serving.md has this line
COMMAND = "import viscpm_hf; from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def repo():
    return tiny_chat_repo()


@pytest.fixture(scope="module")
def client(repo, tmp_path_factory):
    """OpenAI's client of a `transformers serve` that runs as a process of its own, on a free port of this machine."""
    for name in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(name, reason=f"transformers serve needs {name}")
    if not hasattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"):
        pytest.skip("transformers no longer has the table by which `transformers serve` knows Chat")
    from openai import OpenAI

    log = tmp_path_factory.mktemp("transformers_serve") / "log.txt"
    command = [sys.executable, "-c", COMMAND, "serve", str(repo), "--host", "127.0.0.1", "--port", "0"]
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while not (address := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"transformers serve did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        # a connection per request, as the server closes it after an error
        options = {"api_key": "none", "max_retries": 0, "default_headers": {"Connection": "close"}}
        with OpenAI(base_url=f"{address[1]}/v1", **options) as client:
            yield client
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()


def user(text, picture=None):
    content = [{"type": "text", "text": text}]
    if picture:
        url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return {"role": "user", "content": content}


def test_transformers_serve_answers_as_chat_does(client, repo):
    """A picture or none, Chinese, words that the vocabulary lacks, second turns: the answers of VisCPMChat.chat."""
    chat, picture = VisCPMChat(repo, image_safety_checker=False), Image.open(PICTURE)

    def ask(*messages):
        return client.chat.completions.create(model=str(repo), messages=messages).choices[0].message.content

    for question in ("What is in the picture?", "图中有什么？", "Is there a 龘 beside the fish?"):
        answer, context, _ = chat.chat(picture, question)
        turns = [user(question, PICTURE), {"role": "assistant", "content": answer}, user("How many are there?")]
        assert ask(turns[0]) == answer
        assert ask(*turns) == chat.chat(picture, turns[2]["content"][0]["text"], context)[0]
    assert ask(turns[2]) == chat.chat(None, turns[2]["content"][0]["text"])[0]


def test_transformers_serve_does_not_stream(client, repo):
    """It wants a tokenizer of the tokenizers library under a private name: 500, and it goes on serving others."""
    from openai import InternalServerError

    question = {"model": str(repo), "messages": [user("What is in the picture?", PICTURE)]}
    before = client.chat.completions.create(**question).choices[0].message.content
    for options in ({}, {"extra_body": {"generation_config": '{"num_beams": 1, "eos_token_id": 7}'}}):
        with pytest.raises(InternalServerError):
            client.chat.completions.create(**question, **options, stream=True)
    assert client.chat.completions.create(**question).choices[0].message.content == before


@pytest.mark.parametrize(
    "option", ["return_assistant_tokens_mask", "load_audio_from_video", "sanitize_control_tokens"]
)
def test_what_is_switched_off_is_not_asked_for(repo, option):
    """transformers' own apply_chat_template has these arguments, as False; True is refused by name."""
    processor = AutoProcessor.from_pretrained(repo)
    messages = [user("What is in the picture?")]
    asked = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    plain = processor.apply_chat_template(messages, **asked)
    same = processor.apply_chat_template(messages, **asked, **{option: False})
    assert same.keys() == plain.keys() and same["input_ids"].equal(plain["input_ids"])
    with pytest.raises(ValueError, match=option):
        processor.apply_chat_template(messages, **asked, **{option: True})
