"""Guards the proof and the way back: every changed byte is found, an exported checkpoint is the original's."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from viscpm_hf.checkpoint import CheckpointError, export_original, verify
from viscpm_hf.cli import main


@pytest.fixture
def checkpoint(chat_checkpoint):
    return chat_checkpoint / "pytorch_model.plain.bin"


@pytest.fixture
def repo(chat_repo, tmp_path):
    """A copy to break."""
    return shutil.copytree(chat_repo, tmp_path / "repo")


def change(file, function):
    tensors = load_file(file)
    function(tensors)
    save_file(tensors, file)


def differences(checkpoint, repo):
    results = verify(checkpoint, repo, progress=False)
    return {part: result.differences for part, result in results.items() if result.differences}


def test_a_conversion_verifies(checkpoint, repo, weights):
    results = verify(checkpoint, repo, progress=False)
    assert sum(result.tensors for result in results.values()) == len(weights)
    assert sum(result.nbytes for result in results.values()) == sum(tensor.nbytes for tensor in weights.values())
    assert not differences(checkpoint, repo)


def test_one_changed_bit_is_found_wherever_it_is(checkpoint, repo):
    path = repo / "model.safetensors"
    sound = path.read_bytes()
    start = 8 + int.from_bytes(sound[:8], "little")
    for place in (start, (start + len(sound)) // 2, len(sound) - 1):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        (found,) = differences(checkpoint, repo).values()
        assert len(found) == 1 and found[0].endswith("has other values")


@pytest.mark.parametrize("part", ["", "text_encoder", "unet"])
def test_quantized_there_is_no_way_back(checkpoint, repo, paint_repo, tmp_path, part):
    """It is said so, where shapes of the quantized weights would be called wrong."""
    folder = shutil.copytree(paint_repo, tmp_path / "paint") if part else repo
    config = folder / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"load_in_8bit": True}}))
    with pytest.raises(CheckpointError, match="is quantized and .* neither exported nor verified"):
        export_original(folder, tmp_path / "back.bin", progress=False)
    with pytest.raises(CheckpointError, match="is quantized"):
        verify(checkpoint, folder, progress=False)
    assert not (tmp_path / "back.bin").exists()


def test_differences_are_told_in_the_language_of_the_locale(checkpoint, repo, capsys, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.delenv("LANGUAGE", raising=False)
    change(repo / "model.safetensors", lambda tensors: tensors["model.connector.linear_1.bias"].add_(1))
    assert main(["verify", "--checkpoint", str(checkpoint), "--repo", str(repo)]) == 1
    out = capsys.readouterr().out
    assert "1 个不同" in out and out.endswith("前几处不同：mapping.0.bias 的数值不同\n")


def test_missing_surplus_and_misshapen_tensors_are_named(checkpoint, repo):
    def spoil(tensors):
        tensors["extra"] = torch.zeros(1)
        del tensors["model.connector.linear_1.bias"]
        tensors["model.connector.linear_2.bias"] = tensors["model.connector.linear_2.bias"].half()

    change(repo / "model.safetensors", spoil)
    change(repo / "original_only.safetensors", lambda tensors: tensors.pop("vpm.mim_head.bias"))
    assert differences(checkpoint, repo) == {
        "connector": [
            "mapping.0.bias is missing",
            "mapping.2.bias is torch.float16 [40] instead of torch.float32 [40]",
        ],
        "unused": ["vpm.mim_head.bias is missing"],
        "surplus": ["extra is not in the checkpoint"],
    }


def test_another_checkpoint_does_not_verify(chat_checkpoint, repo):
    found = differences(chat_checkpoint / "pytorch_model.eos.bin", repo)
    assert found == {"language_model": ["llm.input_embedding.weight has other values"]}


@pytest.mark.parametrize("name", ["back.bin", "back.pt", "back.safetensors"])
@pytest.mark.parametrize("shard", ["5GB", "50KB"])
def test_export_gives_the_checkpoint_back(convert, checkpoint, tmp_path, name, shard):
    torch.save({k: v.half() if "ffn" in k else v for k, v in torch.load(checkpoint).items()}, tmp_path / "mixed.bin")
    out = convert(tmp_path / "mixed.bin", max_shard_size=shard)
    back = export_original(out, tmp_path / name, progress=False)
    ours = load_file(back) if name.endswith("safetensors") else torch.load(back, weights_only=True)
    theirs = torch.load(tmp_path / "mixed.bin", weights_only=True)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype and torch.equal(ours[key], tensor), key
    assert not differences(back, out)


def test_a_fine_tuned_and_resaved_model_is_exported(chat_repo, tmp_path, weights):
    model = AutoModelForImageTextToText.from_pretrained(chat_repo)
    with torch.no_grad():
        model.model.connector.linear_1.bias += 1
    model.save_pretrained(tmp_path / "tuned", max_shard_size="100KB")
    with pytest.warns(UserWarning, match="lacks tensors that the original's loader insists on"):
        export_original(tmp_path / "tuned", tmp_path / "a.bin", progress=False)
    shutil.copy(chat_repo / "original_only.safetensors", tmp_path / "tuned")
    back = torch.load(export_original(tmp_path / "tuned", tmp_path / "b.bin", progress=False), weights_only=True)
    assert back.keys() == weights.keys()
    changed = [name for name in weights if not torch.equal(back[name], weights[name])]
    assert changed == ["mapping.0.bias"]


def test_export_refuses_incomplete_repositories_and_existing_files(repo, tmp_path):
    (tmp_path / "there.bin").write_text("precious")
    with pytest.raises(CheckpointError, match="exists already"):
        export_original(repo, tmp_path / "there.bin")
    assert (tmp_path / "there.bin").read_text() == "precious"
    change(repo / "original_only.safetensors", lambda tensors: tensors.pop("vpm.mim_head.bias"))
    with pytest.raises(CheckpointError, match=r"lacks vpm.mim_head.bias; put its original_only.safetensors back"):
        export_original(repo, tmp_path / "a.bin")
    change(repo / "model.safetensors", lambda tensors: tensors.pop("model.connector.linear_1.bias"))
    with pytest.raises(CheckpointError, match="missing: model.connector.linear_1.bias"):
        export_original(repo, tmp_path / "a.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo", "there.bin"]


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda repo: shutil.rmtree(repo), "There is no folder"),
        (lambda repo: (repo / "config.json").unlink(), "not a converted repository"),
        (lambda repo: (repo / "config.json").write_text('{"model_type": "llama"}'), "not llama"),
        (lambda repo: (repo / "config.json").write_text("{"), "not valid JSON"),
        (lambda repo: (repo / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda repo: (repo / "model.safetensors.index.json").write_text('{"a": 1}'), "has no weight_map"),
        (
            lambda repo: (repo / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "../repo/model.safetensors"}})
            ),
            "lacks ../repo/model.safetensors",
        ),
        (
            lambda repo: (repo / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "model.safetensors"}})
            ),
            "in a file its index does not name",
        ),
        (lambda repo: subprocess.run(["truncate", "-s", "-1", repo / "model.safetensors"]), "ends before"),
        (lambda repo: pipe(repo / "model.safetensors"), "model.safetensors is a named pipe"),
        (lambda repo: pipe(repo / "original_only.safetensors"), "original_only.safetensors is a named pipe"),
        (lambda repo: pipe(repo / "model.safetensors.index.json"), "index.json is a named pipe"),
    ],
)  # fmt: skip
def test_broken_repositories_are_refused(checkpoint, repo, tmp_path, spoil, message):
    spoil(repo)
    with pytest.raises(CheckpointError, match=message):
        verify(checkpoint, repo, progress=False)
    with pytest.raises(CheckpointError, match=message):
        export_original(repo, tmp_path / "a.bin", progress=False)


def test_a_checkpoint_of_another_kind_is_not_to_be_converted(repo):
    """The folder and the file do not belong together, whichever was meant."""
    with pytest.raises(
        CheckpointError, match="is a VisCPM-Paint checkpoint, not VisCPM-Chat; .* converted from another"
    ):
        verify(Path(__file__).parents[1] / "golden" / "paint_weights.safetensors", repo, progress=False)
