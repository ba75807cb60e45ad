"""Guards `viscpm push`: who can see what is uploaded, that it arrives whole and once, what is said if it does not."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from hub import HubError
from safetensors.torch import load_file, save_file

from viscpm_hf.checkpoint import refresh
from viscpm_hf.checkpoint.publishing import read_contents
from viscpm_hf.tiny import CHAT_CHECKPOINT, VOCABULARY


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def posts(hub, since):
    return [path for method, path, _ in hub.log[since:] if method in ("POST", "PUT") and "validate" not in path]


def test_all_of_it_arrives_private_and_once(hub, viscpm, chat):
    """The folder stays as it was, what is there is not sent again, and its card loads it by its name."""
    before = contents(chat)
    code, out, err = viscpm("push", chat, "me/all")
    assert (code, err) == (0, "") and out.startswith(f"Uploaded: {hub.url}/me/all/commit/")
    assert "me/all" in hub.private and contents(chat) == before
    there = contents(hub.uploads / "me/all")
    assert there.keys() == before.keys()
    assert {name for name in there if there[name] != before[name]} == {"README.md"}
    assert b'repo = "me/all"\n' in there["README.md"] and b"path/or/name" not in there["README.md"]
    since = len(hub.log)
    assert viscpm("push", chat, "me/all")[0] == 0
    assert not [path for path in posts(hub, since) if "/commit/" in path or path.startswith("/objects/")]
    assert not refresh(hub.uploads / "me/all").changed


def test_a_dry_run_says_what_would_happen_and_does_nothing(hub, viscpm, chat):
    (chat / "checkpoint-3").mkdir()
    (chat / "checkpoint-3" / "optimizer.pt").touch()
    for name in (".env", "training_args.bin", "trainer_state.json", "left_out.jsonl", "finetune.json"):
        (chat / name).touch()
    for name in ("cache/latents-0/000000.safetensors", "pictures/step-000003.png", "pictures/prompts.txt"):
        (chat / name).parent.mkdir(parents=True, exist_ok=True)
        (chat / name).touch()
    before, since = contents(chat), len(hub.log)
    code, out, err = viscpm("push", chat, "me/dry", "--dry-run")
    assert (code, err) == (0, "") and not posts(hub, since) and contents(chat) == before
    listed, _, left_out = out.partition("Not uploaded: ")
    assert "model.safetensors" in listed and "README.md" in listed and "optimizer" not in listed
    of_a_run = "cache/, checkpoint-3/, finetune.json, left_out.jsonl, pictures/, trainer_state.json, training_args.bin"
    assert left_out.splitlines()[0] == f".env, {of_a_run}"
    assert "me/dry" in out and "would be created, private" in out
    assert "would be created, public" in viscpm("push", chat, "me/dry", "--dry-run", "--public")[1]
    code, out, err = viscpm("push", chat, "me/dry", "--dry-run", HF_TOKEN="")
    assert code == 0 and "model.safetensors" in out and "there is no access token" in err


def test_what_is_public_is_filled_only_if_that_is_said(hub, viscpm, chat, tmp_path):
    (hub.uploads / "me/open").mkdir(parents=True)
    hub.add("me/open", hub.uploads / "me/open")
    conversion = ["--checkpoint", CHAT_CHECKPOINT / "pytorch_model.bin", "--vocab", VOCABULARY]
    conversion += ["--llm-config", CHAT_CHECKPOINT / "llm_config.json"]
    conversion += ["--vision-config", CHAT_CHECKPOINT / "vision_config.json", "--output", tmp_path / "new"]
    since = len(hub.log)
    for command in (["push", chat, "me/open"], ["convert", "chat", *conversion, "--push-to-hub", "me/open"]):
        code, out, err = viscpm(*command)
        assert code == 1 and "is public" in err and "--public" in err and not out
        assert not posts(hub, since) and not contents(hub.uploads / "me/open") and not (tmp_path / "new").exists()
    assert viscpm("push", chat, "me/open", "--public", "--private")[0] == 1
    assert viscpm("push", chat, "me/open", "--public")[0] == 0
    assert "me/open" not in hub.private and contents(hub.uploads / "me/open").keys() == contents(chat).keys()
    code, out, _ = viscpm("convert", "chat", *conversion, "--push-to-hub", "me/new")
    assert code == 0 and "/me/new/commit/" in out and "me/new" in hub.private
    assert contents(hub.uploads / "me/new") == contents(tmp_path / "new")


def test_a_hub_that_creates_it_public_gets_nothing(hub, viscpm, chat, monkeypatch):
    monkeypatch.setattr(hub, "private", frozenset())
    monkeypatch.setattr(type(hub), "create", lambda hub, name, **_: made_public(hub, name))
    code, _, err = viscpm("push", chat, "me/betrayed")
    assert code == 1 and "public" in err and not contents(hub.uploads / "me/betrayed")


def made_public(hub, name):
    (hub.uploads / f"me/{name}").mkdir(parents=True)
    hub.add(f"me/{name}", hub.uploads / f"me/{name}")
    return {"url": f"{hub.url}/me/{name}", "name": f"me/{name}", "id": f"me/{name}"}


@pytest.mark.parametrize(
    ("where", "status", "says"),
    [
        ("GET /api/models/me/refused", 401, "hf auth login"),
        ("POST /api/repos/create", 403, "write permission for me"),
        ("POST /api/repos/create", 402, "billing"),
        ("POST /api/repos/create", 409, "wait until that is done"),
        ("preupload", 404, "look at the name"),
        ("commit/main", 400, "refuses (400"),
        ("commit/main", 412, "has changed it meanwhile"),
        ("GET /api/models/me/refused", 429, "wait some minutes"),
        ("POST /api/repos/create", 500, "wait some minutes"),
    ],
)
def test_a_refusal_is_one_sentence_with_the_command_to_repeat(hub, viscpm, chat, where, status, says):
    folder = chat.rename(chat.with_name("$(touch PWNED) '`"))
    hub.faults.append((where, HubError(status, "Fault", f"it will not, not for Bearer {hub.token}")))
    shutil.rmtree(hub.uploads / "me/refused", ignore_errors=True)
    hub.repositories.pop("me/refused", None)
    command = ["push", str(folder), "me/refused", "--private"]
    code, out, err = viscpm(*command)
    assert (code, out, hub.faults) == (1, "", []) and err.count("\n") == 1 and says in err and str(status) in err
    assert shlex.split(err.partition("repeat with ")[2]) == ["viscpm", *command]


def test_no_token_a_wrong_one_and_no_network(viscpm, chat, tmp_path):
    for token, says in {"": "there is no access token", "hf_wrong": "401", "hf_ä b": "has characters"}.items():
        code, out, err = viscpm("push", chat, "me/none", "--public", HF_TOKEN=token)
        assert (code, out) == (1, "") and err.count("\n") == 1 and says in err and "--public" in err
    environment = {**os.environ, "HF_TOKEN": "hf_any", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "viscpm_hf", "push", chat, "me/none"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "127.0.0.1:9 cannot be reached" in done.stderr and "hf_any" not in done.stderr


@pytest.mark.slow
def test_an_upload_that_was_killed_goes_on(hub, viscpm, chat, tmp_path):
    """What has arrived is not sent again: the Hub is asked for it by its hash."""
    tensors = load_file(chat / "model.safetensors")
    names, index = sorted(tensors), {}
    for number in range(3):
        part = {name: tensors[name] for name in names[number::3]}
        file = f"model-{number + 1:05}-of-00003.safetensors"
        save_file(part, chat / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    (chat / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": index}
    (chat / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.objects.clear()
    process, seen = None, []

    def kill_at_the_second(oid):
        seen.append(oid)
        if len(hub.objects) == 1 and process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise HubError(500, "Gone", "The client is gone")

    hub.on_object = kill_at_the_second
    environment = {**hub.environment(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "viscpm_hf", "push", str(chat), "me/killed"]
    process = subprocess.Popen(command, env=environment)
    assert process.wait(120) == -signal.SIGKILL and len(hub.objects) < 3
    there, hub.on_object = set(hub.objects), seen.append
    seen.clear()
    assert there and viscpm("push", chat, "me/killed")[0] == 0
    assert not there & set(seen) and there | set(seen) == set(hub.objects) and len(hub.objects) == 3
    hub.on_object = None
    for name, data in contents(chat).items():
        assert contents(hub.uploads / "me/killed")[name] == data or name == "README.md"


def test_weights_of_another_upload_do_not_stay(hub, viscpm, chat):
    """from_pretrained would take them instead: model.safetensors goes before shards."""
    assert viscpm("push", chat, "me/again")[0] == 0
    weights = (chat / "model.safetensors").rename(chat / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), weights.name)}
    (chat / "model.safetensors.index.json").write_text(json.dumps(index))
    (hub.uploads / "me/again/of mine.txt").write_text("stays")
    assert viscpm("push", chat, "me/again")[0] == 0
    assert contents(hub.uploads / "me/again").keys() == {*contents(chat), "of mine.txt"}


def test_results_of_benchmarks_are_uploaded(hub, viscpm, chat):
    """They lie in a hidden folder, and other hidden things stay here."""
    (chat / ".eval_results").mkdir()
    entry = "- dataset:\n    id: lmms-lab/LLaVA-Bench-COCO\n    task_id: default\n  value: 81.5\n"
    (chat / ".eval_results" / "llava.yaml").write_text(entry)
    (chat / ".cache").mkdir()
    (chat / ".cache" / "secret").touch()
    assert viscpm("push", chat, "me/scores")[0] == 0
    there = contents(hub.uploads / "me/scores")
    assert there[".eval_results/llava.yaml"] == entry.encode() and ".cache/secret" not in there
    (chat / ".eval_results" / "llava.yaml").write_text("value: 3")
    code, _, err = viscpm("push", chat, "me/scores")
    assert code == 1 and "llava.yaml" in err and "dataset" in err


def test_the_original_can_be_compared_with_first(hub, viscpm, chat):
    checkpoint = CHAT_CHECKPOINT / "pytorch_model.bin"
    assert viscpm("push", chat, "me/compared", "--checkpoint", checkpoint, "--dry-run")[0] == 0
    data = bytearray((chat / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (chat / "model.safetensors").write_bytes(data)
    code, _, err = viscpm("push", chat, "me/compared", "--checkpoint", checkpoint)
    assert code == 1 and "differs from" in err and "me/compared" not in hub.repositories


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def lose_a_tensor(path):
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path)


def secret(path):
    path.write_text(path.read_text() + "\nhf_" + "x" * 34)


BREAKS = {
    "weights cut off": ("model.safetensors", cut),
    "a tensor less": ("model.safetensors", lose_a_tensor),
    "no weights": ("model.safetensors", os.unlink),
    "no vocabulary": ("vocab.txt", os.unlink),
    "no code": ("modeling_beit3.py", os.unlink),
    "no settings": ("config.json", os.unlink),
    "no JSON": ("generation_config.json", cut),
    "without code in its settings": ("config.json", lambda path: change(path, auto_map=None)),
    "settings of another size": (
        "config.json",
        lambda path: change(path, text_config={**json.loads(path.read_text())["text_config"], "hidden_size": 32}),
    ),
    "a shard that is not there": (
        "model.safetensors.index.json",
        lambda path: path.write_text('{"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}'),
    ),
    "a secret": ("README.md", secret),
    "a pipe": ("pipe.json", os.mkfifo),
    "a link to a folder": ("linked", lambda path: path.symlink_to(path.parent.parent)),
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_is_not_whole_is_not_uploaded(chat, what):
    name, destroy = BREAKS[what]
    read_contents(chat)
    destroy(chat / name)
    with pytest.raises(ValueError) as error:
        read_contents(chat)
    assert str(error.value).isprintable() and str(chat) in str(error.value)


@pytest.mark.parametrize("name", ["vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_a_paint_that_is_not_whole_is_not_uploaded(paint, name):
    read_contents(paint)
    before = (paint / name).read_bytes()
    for destroy in (cut, os.unlink):
        destroy(paint / name)
        with pytest.raises(ValueError, match=re.escape(name.partition("/")[0])):
            read_contents(paint)
        (paint / name).write_bytes(before)
    change(paint / "text_projection" / "config.json", cross_attention_dim=3)
    with pytest.raises(ValueError, match="text_projection"):
        read_contents(paint)


def test_adapters_that_are_of_something_else(chat_adapter, tmp_path):
    folder = shutil.copytree(chat_adapter, tmp_path / "adapter")
    read_contents(folder)
    change(folder / "adapter_config.json", peft_type="PREFIX_TUNING")
    with pytest.raises(ValueError, match="PREFIX_TUNING"):
        read_contents(folder)
    change(folder / "adapter_config.json", peft_type="LORA")
    layer = {f"base_model.model.bert.lora_{side}.weight": torch.zeros(1, 1) for side in "AB"}
    save_file(layer, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="no VisCPM has: bert"):
        read_contents(folder)


def test_nothing_ever_says_the_token(said, hub, viscpm, chat):
    """All that was printed until now, and all that lies on the Hub."""
    assert viscpm("push", chat, "me/said")[0] == 0
    assert said and not [text for text in said if hub.token in text]
    assert not [name for name, data in contents(hub.uploads).items() if hub.token.encode() in data]


def test_a_card_in_another_encoding_is_refused_before_anything_is_created(hub, viscpm, chat, tmp_path):
    folder = shutil.copytree(chat, tmp_path / "odd")
    (folder / "README.md").write_bytes("卡片".encode("gbk"))
    for more in (["--dry-run"], []):
        code, _, err = viscpm("push", folder, "me/odd", *more)
        assert code == 1 and "README.md is no UTF-8 text" in err
    assert "would be created" in viscpm("push", chat, "me/odd", "--dry-run")[1]
