"""A Hub on this machine, and a process that runs commands against it: what uploads must not be offline."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub import LocalHub
from safetensors.torch import save_file

from viscpm_hf.tiny import tiny_chat_repo, tiny_paint_repo

TOKEN = "hf_" + "SecretOfTheTests" * 2 + "1234"
COMMANDS = """
import contextlib, io, json, os, sys
from viscpm_hf.cli import main

for line in sys.stdin:
    arguments, environment = json.loads(line)
    before = dict(os.environ)
    os.environ.update(environment)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    os.environ.clear()
    os.environ.update(before)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    with LocalHub(tmp_path_factory.mktemp("hub"), large=100_000) as hub:
        hub.token = TOKEN
        yield hub


@pytest.fixture(scope="session")
def said():
    """Everything that commands printed."""
    return []


@pytest.fixture(scope="session")
def viscpm(hub, said, tmp_path_factory):
    """Runs a command in one process for all tests; gives exit code, output, errors. Nothing says the token."""
    environment = {**hub.environment(tmp_path_factory.mktemp("home")), "HF_HUB_DISABLE_XET": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", COMMANDS], env=environment, **pipes)

    def run(*arguments, **environment):
        process.stdin.write(json.dumps([[str(each) for each in arguments], environment]) + "\n")
        process.stdin.flush()
        code, out, err = json.loads(process.stdout.readline())
        said.append(out + err)
        assert (environment.get("HF_TOKEN") or TOKEN) not in out + err
        assert code == 0 or err.splitlines()[-1].startswith("error: "), err
        return code, out, err

    yield run
    process.stdin.close()
    process.wait(30)


@pytest.fixture
def chat(tmp_path):
    return Path(shutil.copytree(tiny_chat_repo(), tmp_path / "chat"))


@pytest.fixture
def paint(tmp_path):
    return Path(shutil.copytree(tiny_paint_repo(), tmp_path / "paint"))


@pytest.fixture(scope="session")
def chat_adapter(tmp_path_factory):
    """A LoRA as peft saves it: with a card that nobody wrote, and the path of a model on this machine."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForImageTextToText

    folder = tmp_path_factory.mktemp("adapters") / "chat"
    model = AutoModelForImageTextToText.from_pretrained(tiny_chat_repo())
    targets = r".*language_model\.layers\.\d+\.(self_attn\.v_proj|mlp\.down_proj)"
    config = peft.LoraConfig(r=2, lora_alpha=60, target_modules=targets)
    model = peft.get_peft_model(model, config)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def paint_adapter(tmp_path_factory):
    """A LoRA of the UNet as diffusers saves it."""
    from diffusers import UNet2DConditionModel

    folder = tmp_path_factory.mktemp("adapters") / "paint"
    folder.mkdir()
    torch.manual_seed(0)
    tensors = {}
    for name, module in UNet2DConditionModel.from_pretrained(tiny_paint_repo() / "unet").named_modules():
        if name.endswith("attn2.to_q"):
            tensors[f"unet.{name}.lora_A.weight"] = torch.randn(2, module.in_features)
            tensors[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, 2)
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder
