"""Shared fixtures: the recorded numbers of the original, and its tiny checkpoint converted once per session."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell, and programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["LC_ALL"] = "C.UTF-8"  # what is printed is compared in English
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any Hugging Face import: nothing is fetched in tests
if not os.environ.get("VISCPM_GPU_TESTS"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the recorded numbers are a CPU's, also where there is a GPU

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import viscpm_hf  # noqa: F401  registers the Auto classes
from viscpm_hf.checkpoint import convert_chat

GOLDEN = Path(__file__).parent / "golden"

# Before the first test starts a process: each would import torch for seconds. Forked from one that has it, they behave
# the same.
multiprocessing.set_forkserver_preload(["viscpm_hf.serving.batch.workers"])


@pytest.fixture(scope="session")
def golden():
    """Loader of recorded files: `.json` → parsed, `.safetensors` → dict of tensors."""

    def load(name):
        path = GOLDEN / name
        return json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else load_file(path)

    return load


@pytest.fixture(scope="session")
def chat_checkpoint(tmp_path_factory, golden):
    """Folder with the golden checkpoint as the original would hold it: `pytorch_model.<variant>.bin` and its configs.

    The variants differ in the embedding of `</s>`, which decides how soon answers end.
    """
    folder = tmp_path_factory.mktemp("original")
    config, weights = golden("chat_config.json"), golden("chat_weights.safetensors")
    end = golden("tokenizer.json")["ids"]["eos"]
    for variant, factor in config["eos_variants"].items():
        embedding = weights["llm.input_embedding.weight"].clone()
        embedding[end] *= factor
        torch.save({**weights, "llm.input_embedding.weight": embedding}, folder / f"pytorch_model.{variant}.bin")
    (folder / "llm_config.json").write_text(json.dumps(config["llm"]))
    vision = {**config["beit3_encoder_config"], "query_num": config["query_num"]}
    (folder / "vision_config.json").write_text(json.dumps(vision))
    return folder


@pytest.fixture(scope="session")
def chat_repos(chat_checkpoint, tmp_path_factory):
    """Converted repositories of the golden checkpoint by variant: `plain`, `eos`, `eos_strong`."""
    root = tmp_path_factory.mktemp("repos")
    return {
        variant: convert_chat(
            chat_checkpoint / f"pytorch_model.{variant}.bin",
            GOLDEN / "vocab.txt",
            root / variant,
            llm_config=chat_checkpoint / "llm_config.json",
            vision_config=chat_checkpoint / "vision_config.json",
            progress=False,
        )
        for variant in ("plain", "eos", "eos_strong")
    }


@pytest.fixture(scope="session")
def chat_repo(chat_repos):
    return chat_repos["plain"]


@pytest.fixture(scope="session")
def chat_repo_eos(chat_repos):
    return chat_repos["eos"]


@pytest.fixture(scope="session")
def chat_models(chat_repos):
    return {name: AutoModelForImageTextToText.from_pretrained(folder).eval() for name, folder in chat_repos.items()}


@pytest.fixture(scope="session")
def chat_model(chat_models):
    """The golden model; shared, so tests leave it as it was."""
    return chat_models["plain"]


@pytest.fixture(scope="session")
def chat_processor(chat_repo):
    return AutoProcessor.from_pretrained(chat_repo)


@pytest.fixture(scope="session")
def paint_repo(tmp_path_factory):
    """The golden Paint without checkers and ranker; shared, so tests leave it as it was."""
    from paint import golden_pipeline  # diffusers takes long to import

    folder = tmp_path_factory.mktemp("paint") / "repo"
    golden_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures():
    from PIL import Image

    return [Image.open(GOLDEN / f"image_{i}.png").convert("RGB") for i in range(2)]


@pytest.fixture(scope="session")
def chat_inputs(chat_processor, pictures):
    """Model inputs for (picture index or None, question, context="") triples, batched."""

    def build(*items):
        samples = [(item + ("",))[:3] for item in items]
        return chat_processor(
            text=[question for _, question, _ in samples],
            images=[None if index is None else pictures[index] for index, _, _ in samples],
            context=[context for _, _, context in samples],
            return_tensors="pt",
        )

    return build
