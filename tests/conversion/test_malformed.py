"""Guards every malformed input: exit code 1, one sentence, nothing executed, nothing left behind."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

VOCAB = Path(__file__).parents[1] / "golden" / "vocab.txt"
MALFORMED = {}


def malformed(*phrases, **options):
    """Registers a function that makes a malformed input.

    It gets a folder, the golden weights and the sound checkpoint, and returns the checkpoint to convert; `options`
    replace those of convert_chat.py, as functions of the folder.
    """

    def register(function):
        MALFORMED[function.__name__.replace("_", " ")] = (function, phrases, options)
        return function

    return register


def saved(folder, state_dict):
    torch.save(state_dict, folder / "a.bin")
    return folder / "a.bin"


def rezipped(folder, sound, change):
    """The sound checkpoint with its zip members changed: name and data in, name and data or None out."""
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(folder / "a.bin", "w") as new:
        for name in old.namelist():
            if (member := change(name, old.read(name))) is not None:
                new.writestr(*member)
    return folder / "a.bin"


class Evil:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@malformed("missing: llm.encoder.layers.1.ffn.layernorm_before_ffn.weight, mapping.0.bias.")
def missing_keys(folder, weights, sound):
    gone = ("llm.encoder.layers.1.ffn.layernorm_before_ffn.weight", "mapping.0.bias")
    return saved(folder, {name: tensor for name, tensor in weights.items() if name not in gone})


@malformed("unknown: vpm.beit3.extra.weight.")
def unknown_key_in_the_vision_tower(folder, weights, sound):
    return saved(folder, {**weights, "vpm.beit3.extra.weight": torch.zeros(2)})


@malformed("unknown: llm.lm_head.weight.")
def unknown_key_in_the_language_model(folder, weights, sound):
    return saved(folder, {**weights, "llm.lm_head.weight": torch.zeros(410, 40)})


@malformed("unknown: optimizer.step.")
def unknown_key_elsewhere(folder, weights, sound):
    return saved(folder, {**weights, "optimizer.step": torch.zeros(1)})


@malformed("wrong shape: mapping.2.weight is [40, 41] instead of [40, 40].")
def misshapen_key(folder, weights, sound):
    return saved(folder, {**weights, "mapping.2.weight": torch.zeros(40, 41)})


@malformed("not floating-point: query (int64).")
def integer_tensor(folder, weights, sound):
    return saved(folder, {**weights, "query": torch.zeros(6, 24, dtype=torch.long)})


@malformed("not floating-point: ", "and 118 more.")
def quantized_to_bytes(folder, weights, sound):
    return saved(folder, {name: tensor.to(torch.uint8) for name, tensor in weights.items()})


@malformed("come twice: query.")
def duplicated_key_in_safetensors(folder, weights, sound):
    path = folder / "a.safetensors"
    save_file({**weights, "quern": weights["query"].clone()}, path)
    path.write_bytes(path.read_bytes().replace(b'"quern"', b'"query"', 1))
    return path


@malformed("gives several tensors one name")
def duplicated_key_in_a_pickle(folder, weights, sound):
    checkpoint = saved(folder, {**weights, "quern": weights["query"].clone()})
    shutil.move(checkpoint, folder / "b.bin")

    def rename(name, data):
        return name, data.replace(b"X\5\0\0\0quern", b"X\5\0\0\0query")

    checkpoint = rezipped(folder, folder / "b.bin", rename)
    (folder / "b.bin").unlink()
    return checkpoint


@malformed("is damaged or incomplete", "download it again")
def truncated(folder, weights, sound):
    (folder / "a.bin").write_bytes(sound.read_bytes()[:-1000])
    return folder / "a.bin"


@malformed("is incomplete: it ends before")
def truncated_safetensors(folder, weights, sound):
    save_file(weights, folder / "a.safetensors")
    os.truncate(folder / "a.safetensors", 300_000)
    return folder / "a.safetensors"


@malformed("it lacks data/7")
def without_a_zip_member(folder, weights, sound):
    return rezipped(folder, sound, lambda name, data: None if name.endswith("data/7") else (name, data))


@malformed("has a wrong size")
def with_a_short_zip_member(folder, weights, sound):
    return rezipped(folder, sound, lambda name, data: (name, data[:-4] if name.endswith("data/7") else data))


@malformed("has no data.pkl in it")
def another_zip_file(folder, weights, sound):
    return rezipped(
        folder, sound, lambda name, data: ("archive/other", b"") if name.endswith(".pkl") else (name, data)
    )


@malformed("has compressed members")
def compressed_zip(folder, weights, sound):
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(folder / "a.bin", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return folder / "a.bin"


@malformed("big-endian")
def big_endian(folder, weights, sound):
    return rezipped(folder, sound, lambda name, data: (name, b"big" if name.endswith("byteorder") else data))


@malformed("neither a PyTorch checkpoint nor a safetensors file")
def not_a_checkpoint(folder, weights, sound):
    (folder / "a.bin").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    return folder / "a.bin"


@malformed("is empty")
def empty_file(folder, weights, sound):
    (folder / "a.bin").touch()
    return folder / "a.bin"


@malformed("is a web page")
def web_page(folder, weights, sound):
    (folder / "a.bin").write_text("<!DOCTYPE html><html>404</html>")
    return folder / "a.bin"


@malformed("pointer of Git LFS", "git lfs pull")
def lfs_pointer(folder, weights, sound):
    (folder / "a.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    return folder / "a.bin"


@malformed("is a folder")
def folder_instead_of_a_file(folder, weights, sound):
    return folder


@malformed("There is no file")
def file_that_is_not_there(folder, weights, sound):
    return folder / "nowhere.bin"


@malformed("system; nothing was executed")
def code_in_the_pickle(folder, weights, sound):
    return saved(folder, {**weights, "evil": Evil(folder / "executed")})


@malformed("system; nothing was executed")
def code_in_the_pickle_of_an_old_protocol(folder, weights, sound):
    torch.save({**weights, "evil": Evil(folder / "executed")}, folder / "a.bin", pickle_protocol=4)
    return folder / "a.bin"


@malformed("bare Python pickle", "not executed")
def bare_pickle_with_code(folder, weights, sound):
    (folder / "a.bin").write_bytes(pickle.dumps(Evil(folder / "executed")))
    return folder / "a.bin"


@malformed("old format", "python -c 'import sys, torch; torch.save(torch.load(", '"new.bin")', "a.bin.")
def old_format_with_code(folder, weights, sound):
    state_dict = {**weights, "evil": Evil(folder / "executed")}
    torch.save(state_dict, folder / "a.bin", _use_new_zipfile_serialization=False)
    return folder / "a.bin"


@malformed("loading it would need torch.nn.modules", "nothing was executed")
def whole_module(folder, weights, sound):
    return saved(folder, torch.nn.Linear(2, 2))


@malformed("not named tensors: epoch.")
def entry_that_is_no_tensor(folder, weights, sound):
    return saved(folder, {**weights, "epoch": 3})


@malformed("holds a list, expected a state dict")
def list_of_tensors(folder, weights, sound):
    return saved(folder, list(weights.values()))


@malformed("holds no tensors")
def no_tensors(folder, weights, sound):
    return saved(folder, {})


@malformed("is a VisCPM-Paint checkpoint, not VisCPM-Chat; convert it with `viscpm convert paint`")
def paint(folder, weights, sound):
    language = {name: tensor for name, tensor in weights.items() if name.startswith("llm.")}
    return saved(folder, {**language, "unet.conv_in.weight": torch.zeros(1), "trans_block.0.weight": torch.zeros(1)})


@malformed("is a CPM-Bee checkpoint, not VisCPM-Chat; convert it with `viscpm convert cpmbee`")
def plain_cpmbee(folder, weights, sound):
    return saved(folder, {name[4:]: tensor for name, tensor in weights.items() if name.startswith("llm.")})


@malformed("begin with 'model.'", "a converted repository")
def a_converted_repository(folder, weights, sound):
    return saved(folder, {"model.language_model.norm.weight": torch.zeros(2)})


@malformed("has 409 entries", "has 410 rows", **{"--vocab": lambda folder: vocabulary(folder, slice(409))})
def short_vocabulary(folder, weights, sound):
    return sound


@malformed(
    "has 411 entries", "has 410 rows", **{"--vocab": lambda folder: vocabulary(folder, slice(None), "one more")}
)
def long_vocabulary(folder, weights, sound):
    return sound


@malformed("has no <ans>", **{"--vocab": lambda folder: vocabulary(folder, slice(9))})
def vocabulary_without_a_special_token(folder, weights, sound):
    return sound


@malformed("is not a UTF-8 text file", **{"--vocab": lambda folder: written(folder, "vocab.txt", b"\xff\xfe<\0s\0")})
def vocabulary_in_another_encoding(folder, weights, sound):
    return sound


@malformed("There is no file", "--vocab", **{"--vocab": lambda folder: folder / "nowhere.txt"})
def vocabulary_that_is_not_there(folder, weights, sound):
    return sound


@malformed(
    "contradicts", "dim_ff is 1", **{"--llm-config": lambda folder: written(folder, "c.json", b'{"dim_ff": 1}')}
)
def contradicting_configuration(folder, weights, sound):
    return sound


@malformed("not valid JSON", **{"--vision-config": lambda folder: written(folder, "c.json", b"{,}")})
def configuration_that_is_not_json(folder, weights, sound):
    return sound


@malformed("as the size of a shard", **{"--max-shard-size": lambda folder: "big"})
def nonsense_shard_size(folder, weights, sound):
    return sound


@malformed("is not a safety checker", **{"--safety-checker": lambda folder: folder})
def safety_checker_without_weights(folder, weights, sound):
    return sound


@malformed("could not be fetched", "--safety-checker", **{"--safety-checker": lambda folder: "nobody/nothing"})
def safety_checker_that_is_not_there(folder, weights, sound):
    return sound


def vocabulary(folder, kept, *more):
    entries = VOCAB.read_text(encoding="utf-8").split("\n")[kept]
    return written(folder, "vocab.txt", "\n".join([*entries, *more]).encode())


def written_long(path):
    path.touch()
    os.truncate(path, 1 << 40)
    return path


def written(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


@malformed("is a named pipe, expected a regular file")
def named_pipe(folder, weights, sound):
    os.mkfifo(folder / "a.bin")
    return folder / "a.bin"


@malformed("is a device, expected a regular file")
def device(folder, weights, sound):
    return Path("/dev/zero")


@malformed("is a named pipe", **{"--vocab": lambda folder: os.mkfifo(folder / "v.txt") or folder / "v.txt"})
def vocabulary_from_a_pipe(folder, weights, sound):
    return sound


@malformed("far more than a file of its kind", **{"--vocab": lambda folder: written_long(folder / "v.txt")})
def vocabulary_without_end(folder, weights, sound):
    return sound


@malformed("is a named pipe", **{"--llm-config": lambda folder: os.mkfifo(folder / "c.json") or folder / "c.json"})
def configuration_from_a_pipe(folder, weights, sound):
    return sound


@malformed("There is no file")
def name_with_escapes(folder, weights, sound):
    return folder / "\x1b[2J\n\udcff"


@malformed("old format", "python -c ", "'\"'\"'")
def old_format_in_a_file_whose_name_is_a_command(folder, weights, sound):
    torch.save(weights, folder / "$(touch PWNED)'.bin", _use_new_zipfile_serialization=False)
    return folder / "$(touch PWNED)'.bin"


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_input(case, script, chat_checkpoint, chat_options, golden, tmp_path):
    make, phrases, options = MALFORMED[case]
    (tmp_path / "input").mkdir()
    checkpoint = make(
        tmp_path / "input", golden("chat_weights.safetensors"), chat_checkpoint / "pytorch_model.plain.bin"
    )
    arguments = [*chat_options, "--checkpoint", checkpoint, "--output", tmp_path / "out"]
    for option, value in options.items():
        arguments += [option, value(tmp_path / "input")]
    before = sorted(tmp_path.rglob("*"))
    assert script("convert_chat.py", *arguments).is_error(*phrases)
    assert sorted(tmp_path.rglob("*")) == before and not (tmp_path / "input" / "executed").exists()


def test_chat_given_to_the_script_for_cpmbee(script, chat_checkpoint, tmp_path):
    checkpoint = chat_checkpoint / "pytorch_model.plain.bin"
    arguments = ("--checkpoint", checkpoint, "--vocab", VOCAB, "--output", tmp_path / "out")
    assert script("convert_cpmbee.py", *arguments).is_error("convert it with `viscpm convert chat`")
    assert not list(tmp_path.iterdir())


def test_unreadable_file(script, chat_options, tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"PK\3\4")
    real = open

    def denied(file, *arguments, **options):
        if str(file).endswith("a.bin"):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", denied)
    arguments = ("--checkpoint", tmp_path / "a.bin", "--output", tmp_path / "out")
    assert script("convert_chat.py", *chat_options, *arguments).is_error("Permission denied: ", "a.bin")


@pytest.mark.parametrize("arguments", [[], ["--dtype", "int8"], ["--variant", "v2"], ["--unknown"]])
def test_usage_errors_have_exit_code_2(script, arguments):
    result = script("convert_chat.py", *arguments)
    assert result.code == 2 and result.out == "" and result.err.startswith("error: ")
    assert result.err.endswith("; see `viscpm convert chat --help`.\n") and result.err.count("\n") == 1


def test_verify_reports_what_differs(script, chat_checkpoint, chat_repo, tmp_path):
    repo = shutil.copytree(chat_repo, tmp_path / "repo")
    data = bytearray((repo / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (repo / "model.safetensors").write_bytes(data)
    result = script("verify.py", "--checkpoint", chat_checkpoint / "pytorch_model.plain.bin", "--repo", repo)
    assert result.code == 1 and "1 DIFFER" in result.out and "has other values" in result.out
    (repo / "config.json").write_text(json.dumps({"model_type": "other"}))
    options = ("--checkpoint", chat_checkpoint / "pytorch_model.plain.bin", "--repo", repo)
    assert script("verify.py", *options).is_error("not a converted repository")
    assert script("export_original.py", "--repo", repo, "--checkpoint", tmp_path / "a.bin").is_error("not a converted")
    assert script("push_to_hub.py", tmp_path / "nowhere", "a/b").is_error("There is no folder")
