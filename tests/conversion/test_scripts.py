"""Guards the scripts as users run them: from any folder, with the safety checker, to the Hub and back."""

import json
import os
import shutil
import sys

import pytest
import torch
from hub import LocalHub
from rich.cells import cell_len
from safetensors.torch import save_file


@pytest.fixture
def checker(tmp_path):
    """A folder that looks like a safety checker."""
    folder = tmp_path / "checker"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "preprocessor_config.json").write_text('{"size": 224}')
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"not wanted")
    return folder


def test_convert_verify_export_verify(script, verified, chat_checkpoint, chat_options, checker, tmp_path):
    checkpoint, repo, back = chat_checkpoint / "pytorch_model.plain.bin", tmp_path / "repo", tmp_path / "back.bin"
    options = ("--variant", "v1.1", "--max-shard-size", "0.1MB", "--safety-checker", checker)
    result = script("convert_chat.py", "--checkpoint", checkpoint, "--output", repo, *chat_options, *options)
    assert result.code == 0 and result.err == "" and str(repo) in result.out and "safety checker" not in result.out
    copied = sorted(path.name for path in (repo / "safety_checker").iterdir())
    assert copied == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert json.loads((repo / "conversion.json").read_text())["variant"] == "v1.1"
    assert script("export_original.py", "--repo", repo, "--checkpoint", back).code == 0
    for file in (checkpoint, back):
        assert verified(file, repo) == {
            "language_model": (30, "OK"),
            "vision_tower": (90, "OK"),
            "connector": (4, "OK"),
            "unused": (4, "OK"),
        }


def test_convert_cpmbee_and_the_note_about_the_safety_checker(script, chat_checkpoint, chat_options, golden, tmp_path):
    weights = golden("chat_weights.safetensors")
    plain = {name[4:]: tensor for name, tensor in weights.items() if name.startswith("llm.")}
    torch.save(plain, tmp_path / "a.bin")
    config = ("--llm-config", chat_checkpoint / "llm_config.json", "--dtype", "bfloat16")
    arguments = ("--checkpoint", tmp_path / "a.bin", *chat_options[:2], "--output", tmp_path / "bee", *config)
    assert script("convert_cpmbee.py", *arguments).code == 0
    assert script("verify.py", "--checkpoint", tmp_path / "a.bin", "--repo", tmp_path / "bee").code == 0
    checkpoint = chat_checkpoint / "pytorch_model.plain.bin"
    result = script("convert_chat.py", "--checkpoint", checkpoint, "--output", tmp_path / "out", *chat_options)
    assert "no image safety checker" in result.out


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_a_terminal(
    script, chat_checkpoint, chat_options, chat_repo, tmp_path, monkeypatch, capsys, terminal
):
    """Of conversion, verification and the way back; nothing of it on stdout."""
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda stream: stream is sys.stderr and terminal)
    checkpoint = ("--checkpoint", chat_checkpoint / "pytorch_model.plain.bin")
    for name, *arguments in (
        ("convert_chat.py", *checkpoint, "--output", tmp_path / "out", *chat_options),
        ("verify.py", *checkpoint, "--repo", chat_repo),
        ("export_original.py", "--repo", chat_repo, "--checkpoint", tmp_path / "back.bin"),
    ):
        result = script(name, *arguments)
        assert result.code == 0 and "%|" not in result.out
        assert ("100%|" in result.err) == terminal and (terminal or not result.err)


def test_a_warning_is_one_line(script, chat_repo, tmp_path):
    repo = shutil.copytree(chat_repo, tmp_path / "repo")
    (repo / "original_only.safetensors").unlink()
    (repo / "conversion.json").unlink()
    result = script("export_original.py", "--repo", repo, "--checkpoint", tmp_path / "back.bin")
    assert result.code == 0 and result.err.startswith("warning: ") and result.err.count("\n") == 1


def test_success_is_told_in_the_language_of_the_locale(
    script, chat_checkpoint, chat_options, chat_repo, tmp_path, monkeypatch
):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.setenv("LANGUAGE", "")
    checkpoint = ("--checkpoint", chat_checkpoint / "pytorch_model.plain.bin")
    result = script("convert_chat.py", *checkpoint, "--output", tmp_path / "out", *chat_options)
    assert result.code == 0 and result.out.startswith("已将 ") and "图像安全检查器" in result.out
    result = script("export_original.py", "--repo", chat_repo, "--checkpoint", tmp_path / "back.bin")
    assert result.code == 0 and result.out == f"已写入 {tmp_path / 'back.bin'}\n"
    head, *rows = script("verify.py", *checkpoint, "--repo", chat_repo).out.splitlines()
    assert head.split() == ["部件", "张量", "字节", "结果"]
    assert cell_len(head.partition("结果")[0]) == rows[0].index("OK")
    assert script("verify.py", *checkpoint, "--repo", tmp_path / "nowhere").is_error("There is no folder")


NAMES = ["$(touch PWNED)'.bin", "图 片.bin", "\udcff\udcfe.bin", "\x1b[2J`x`\n# Title.bin", "-x.bin"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_file(script, chat_checkpoint, chat_options, tmp_path, monkeypatch, name):
    """It is printed, and written into conversion.json and the model card, without what a terminal would act on."""
    monkeypatch.chdir(tmp_path)
    os.symlink(chat_checkpoint / "pytorch_model.plain.bin", name)
    folder = name.removesuffix(".bin")
    result = script("convert_chat.py", f"--checkpoint={name}", f"--output={folder}", *chat_options)
    assert (result.code, result.err) == (0, "")
    assert all(line.isprintable() for line in result.out.splitlines()) and len(result.out.splitlines()) == 2
    report = json.loads(open(os.path.join(folder, "conversion.json"), encoding="utf-8").read())
    assert report["source"]["file"].endswith(".bin")
    card = open(os.path.join(folder, "README.md"), encoding="utf-8").read()
    assert not [line for line in card.splitlines() if not line.isprintable() or line == "# Title.bin"]
    assert script("verify.py", f"--checkpoint={name}", f"--repo={folder}").code == 0
    assert script("export_original.py", f"--repo={folder}", f"--checkpoint={name}.back").code == 0
    assert sorted(os.listdir()) == sorted([name, folder, f"{name}.back"])


def test_a_failed_upload_leaves_the_converted_folder(script, chat_checkpoint, chat_options, tmp_path):
    """The tests run offline, so every upload fails."""
    checkpoint = chat_checkpoint / "pytorch_model.plain.bin"
    arguments = ("--checkpoint", checkpoint, "--output", tmp_path / "out", *chat_options, "--push-to-hub", "me/chat")
    assert script("convert_chat.py", *arguments).is_error("Could not upload", "repeat with viscpm push ", "me/chat")
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert script("push_to_hub.py", tmp_path / "out", "not/a/name").is_error("Could not upload")


def test_conversion_from_elsewhere_to_the_hub(process, chat_checkpoint, chat_options, chat_repo, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(chat_checkpoint / "pytorch_model.plain.bin", tmp_path / "elsewhere" / "linked.bin")
    with LocalHub(tmp_path / "hub") as hub:
        arguments = ("--checkpoint", "linked.bin", "--output", "out", "--push-to-hub", "me/chat", "--private")
        options = {"cwd": tmp_path / "elsewhere", "env": hub.environment(tmp_path / "home")}
        result = process("convert_chat.py", *arguments, *chat_options, **options)
        assert result.code == 0, result.err
        assert f"{hub.url}/me/chat/commit/" in result.out and hub.private == {"me/chat"}
    local, remote = tmp_path / "elsewhere" / "out", tmp_path / "hub" / "me" / "chat"
    files = {path.relative_to(local) for path in local.rglob("*") if path.is_file()}
    assert {path.name for path in files} >= {path.name for path in chat_repo.iterdir()}
    for file in files:
        assert (remote / file).read_bytes() == (local / file).read_bytes()


def test_one_sentence_in_a_process_of_its_own(process, tmp_path):
    result = process("convert_chat.py", "--checkpoint", "a.bin", "--vocab", "b", "--output", "c", cwd=tmp_path)
    assert result.is_error("There is no file a.bin") and result.out == ""
