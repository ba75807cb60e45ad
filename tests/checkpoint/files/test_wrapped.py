"""Guards checkpoints as people have them: what training programs put around one comes off, or is said."""

import argparse
import collections
import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from viscpm_hf.checkpoint import CheckpointError, verify
from viscpm_hf.checkpoint.files.source import open_checkpoint, open_source
from viscpm_hf.checkpoint.layout.prefixes import without_prefixes


@pytest.fixture
def same(convert, chat_repo, stored, tmp_path):
    """Checks that a checkpoint converts to the same weights and verifies; gives what conversion.json says of it."""

    def check(checkpoint):
        out = convert(checkpoint)
        ours, expected = stored(out), stored(chat_repo)
        assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in expected)
        assert not any(result.differences for result in verify(checkpoint, out, progress=False).values())
        return json.loads((out / "conversion.json").read_text())["source"]

    return check


def deepspeed(weights, **other):
    """As DeepSpeed's engine writes it for ZeRO stages 1 and 2."""
    shapes = collections.OrderedDict((name, tensor.shape) for name, tensor in weights.items())
    return {
        "module": collections.OrderedDict(weights),
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": [shapes],
        "shared_params": {},
        "lr_scheduler": {"last_batch_iteration": 5},
        "random_ltd": None,
        "skipped_steps": 0,
        "global_steps": 6,
        "dp_world_size": 2,
        "mp_world_size": 1,
        "ds_config": {"train_batch_size": 2},
        "ds_version": "0.15.0",
        **other,
    }


WRAPPED = {
    "state_dict": lambda weights: {"epoch": 3, "hooks": {}, "state_dict": weights, "loss": torch.tensor(0.5)},
    "model": lambda weights: {
        "model": weights,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(1)}}, "param_groups": [{"lr": 1}]},
        "args": argparse.Namespace(lr=1),
    },
    "module": deepspeed,
    "trainer.model": lambda weights: {"trainer": {"model": weights, "epoch": 2}, "rng": torch.get_rng_state()},
    "net": lambda weights: {"net": weights, "optim": {name: tensor.clone() for name, tensor in weights.items()}},
}


@pytest.mark.parametrize("under", WRAPPED)
def test_a_state_dict_in_other_things_is_taken(same, weights, tmp_path, under):
    torch.save(WRAPPED[under](weights), tmp_path / "a.bin")
    assert same(tmp_path / "a.bin")["under"] == under


@pytest.mark.parametrize(
    ("prefix", "parts"),
    [
        ("module.", ["module."]),
        ("_orig_mod.", ["_orig_mod."]),
        ("base_model.model.", ["base_model.model."]),
        ("model.", ["model."]),
        ("module._orig_mod.", ["_orig_mod.", "module."]),
        ("_forward_module.module.", ["_forward_module.module."]),
    ],
)
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_a_prefix_of_every_name_is_taken_off(same, weights, tmp_path, prefix, parts, suffix):
    wrapped = {prefix + name: tensor for name, tensor in weights.items()}
    save = save_file if suffix == "safetensors" else torch.save
    save(wrapped, tmp_path / f"a.{suffix}")
    assert same(tmp_path / f"a.{suffix}")["prefixes"] == parts


def test_wrappers_inside_of_names_are_taken_off(same, weights, tmp_path):
    """`torch.compile(model.llm)`, FSDP and activation checkpointing put modules into the tree."""
    inside = {"llm.": "llm._orig_mod.", "vpm.": "vpm._fsdp_wrapped_module._checkpoint_wrapped_module."}
    wrapped = {inside.get(name[:4], name[:4]) + name[4:]: tensor for name, tensor in weights.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "a.bin")
    assert len(same(tmp_path / "a.bin")["prefixes"]) == 3


def test_paint_in_a_wrapper(convert_paint_to, golden, tmp_path):
    """Also what it does not use is under its name without the prefix."""
    weights = {**golden("paint_weights.safetensors"), "loss.weight": torch.ones(3)}
    torch.save({"module": {f"module.{name}": tensor for name, tensor in weights.items()}}, tmp_path / "a.bin")
    out = convert_paint_to(tmp_path / "a.bin")
    assert list(open_checkpoint(out / "original_only.safetensors")) == ["loss.weight"]
    assert not any(result.differences for result in verify(tmp_path / "a.bin", out, progress=False).values())


def test_names_of_a_real_compiled_module_in_a_wrapper(tmp_path):
    module = torch.nn.Module()
    module.llm = torch.compile(torch.nn.Linear(2, 3))
    wrapped = torch.nn.DataParallel(module)
    torch.save(wrapped.state_dict(), tmp_path / "a.bin")
    tensors, prefixes = without_prefixes(open_checkpoint(tmp_path / "a.bin"))
    assert list(tensors) == ["llm.weight", "llm.bias"] and prefixes == ["_orig_mod.", "module."]


def test_no_prefix_is_taken_off_where_it_would_not_be_clear(tmp_path):
    for names in (
        ["llm.a", "_orig_mod.llm.a"],  # two would be one
        ["module.llm.a", "llm.a"],
        ["llm.encoder.a", "llm.input_embedding.weight"],  # the language model alone, not CPM-Bee with a prefix
        ["model.embed_tokens.weight", "model.position_bias.relative_attention_bias.weight"],  # converted
    ):
        torch.save(dict.fromkeys(names, torch.zeros(2)), tmp_path / "a.bin")
        tensors, prefixes = without_prefixes(open_checkpoint(tmp_path / "a.bin"))
        assert list(tensors) == names and not prefixes


@pytest.fixture(params=["bin", "safetensors"])
def sharded(request, weights, tmp_path):
    """A folder with a checkpoint in three files and the index that Hugging Face libraries write."""
    names, suffix = list(weights), request.param
    save = save_file if suffix == "safetensors" else torch.save
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for number in range(3):
        file = f"{stem}-{number + 1:05}-of-00003.{suffix}"
        save({name: weights[name] for name in names[number::3]}, tmp_path / file)
        weight_map |= dict.fromkeys(names[number::3], file)
    index = tmp_path / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def test_an_index_is_taken_with_its_files(same, sharded):
    about = same(sharded)
    assert about["file"] == sharded.name and len(about["shards"]) == 3
    for shard in about["shards"]:
        data = (sharded.parent / shard["file"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index, shards: shards[0].unlink(), "lacks .*-00001-of-00003"),
        (lambda index, shards: shards[0].write_bytes(b""), "is empty"),
        (lambda index, shards: shards[1].rename(shards[0]), "in a file its index does not name"),
        (lambda index, shards: index.write_text('{"weight_map": {}}'), "holds no tensors"),
        (lambda index, shards: index.write_text('{"weight_map": {"a": "/etc/passwd"}}'), "lacks /etc/passwd"),
        (lambda index, shards: index.write_text('{"weight_map": {"a": "x\\u0000"}}'), r"lacks 'x\\x00'"),
        (lambda index, shards: index.write_text('{"weight_map": {"a": "' + "x" * 300 + '"}}'), "lacks 'xxx"),
        (lambda index, shards: index.write_text('{"weight_map": [1]}'), "has no weight_map"),
        (lambda index, shards: index.write_text("{"), "not valid JSON"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(convert, sharded, tmp_path, change, message):
    shards = sorted(path for path in tmp_path.iterdir() if path != sharded)
    change(sharded, shards)
    with pytest.raises(CheckpointError, match=message):
        convert(sharded)


def test_one_of_several_files_is_not_the_checkpoint(convert, sharded):
    file = sorted(sharded.parent.iterdir())[0]
    with pytest.raises(CheckpointError, match=f"is one of 3 files of a checkpoint; give {sharded}"):
        convert(file)


REFUSED = {
    "two state dicts": (
        lambda weights: {"state_dict": weights, "state_dict_ema": {k: v.clone() for k, v in weights.items()}},
        r"several state dicts, 'state_dict' \(128 tensors\), 'state_dict_ema' \(128 .*python -c 'import sys, torch; .*"
        r"\[\"state_dict\"\]",
    ),
    "optimizer": (lambda weights: {"state": {}, "param_groups": []}, "an optimizer's state; give the file with"),
    "tensors beside the state dict": (
        lambda weights: {**dict.fromkeys("abcdefghijklmno", torch.ones(1)), "model": weights},
        "entries that are not named tensors: model",
    ),
    "ZeRO optimizer": (
        lambda weights: {"optimizer_state_dict": {"a": weights}, "ds_config": {}, "ds_version": "0.15.0"},
        "optimizer's part of a DeepSpeed checkpoint; give mp_rank_00_model_states.pt",
    ),
    "ZeRO-3": (
        lambda weights: deepspeed({name: torch.empty(0) for name in weights}),
        r"All tensors .* are empty, .* zero_to_fp32.py",
    ),
    "sliced": (lambda weights: deepspeed(weights, mp_world_size=4), "one of 4 parts of a DeepSpeed checkpoint"),
    "adapter": (
        lambda weights: {
            f"base_model.model.llm.encoder.layers.{i}.project_q.lora_A.weight": torch.ones(2) for i in (0, 1)
        },
        "is a LoRA adapter; make one for a converted model of it with `viscpm convert lora`",
    ),
    "unmerged": (
        lambda weights: (
            {f"base_model.model.{name}": tensor for name, tensor in weights.items()}
            | {"base_model.model.llm.encoder.layers.0.q.lora_A.default.weight": torch.ones(2)}
        ),
        "holds a LoRA adapter, such as llm.encoder.layers.0.q.lora_A.default.weight; merge it",
    ),
    "OpenDelta": (lambda weights: {**weights, "llm.encoder.x.lora.lora_A": torch.ones(2)}, "holds a LoRA adapter"),
    "another model": (
        lambda weights: {"module.conv1.weight": torch.ones(2), "module.fc.bias": torch.ones(2)},
        "is no VisCPM-Chat checkpoint: its tensors have names such as module.conv1.weight, module.fc.bias",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_is_said(convert, weights, tmp_path, case):
    make, message = REFUSED[case]
    torch.save(make(weights), tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["pytorch_model.bin", "optimizer.pt", "training_args.bin", "config.json"], r"give \S+/pytorch_model.bin\.$"),
        (["a.index.json", "a-1.bin", "a-2.bin"], r"give \S+/a.index.json\.$"),
        (["a.bin", "b.pt"], "give one of its files: a.bin, b.pt"),
        (["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"], "give .*mp_rank_00_model_sta"),
        (["latest", "zero_to_fp32.py"], "a DeepSpeed checkpoint; give the mp_rank_00_model_states.pt in"),
        (
            ["zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"],
            "a DeepSpeed ZeRO-3 checkpoint, each file with a slice of every tensor; join them",
        ),
        ([".metadata", "__0_0.distcp"], r"torch.distributed.checkpoint.format_utils dcp_to_torch"),
        (["conversion.json", "model.safetensors"], "is a converted repository already"),
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter alone"),
        ([], "give the .bin, .pt or .safetensors file itself"),
    ],
)  # fmt: skip
def test_a_folder_is_told_which_file_to_give(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=f"is a folder; .*{message}"):
        open_source(tmp_path)


def test_a_folder_of_folders_is_told_which_file_to_give(tmp_path):
    """As the original's fine-tuning leaves them: checkpoints of DeepSpeed, and what it exported."""
    for name in ("step/global_step2", "step/global_step10", "run/export/models", "run/log", "deep/a/b/c/d"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("global_step2", "global_step10"):
        for file in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
            (tmp_path / "step" / name / file).touch()
    with pytest.raises(
        CheckpointError, match=r"below it: \S+/global_step10/mp_rank_00\S+, \S+/global_step2/mp_rank_00"
    ):
        open_source(tmp_path / "step")
    (tmp_path / "step" / "latest").write_text("global_step2\n")
    with pytest.raises(CheckpointError, match=r"give \S+/step/global_step2/mp_rank_00_model_states.pt\.$"):
        open_source(tmp_path / "step")
    for text in ("../../etc", "global_step3", "", "\0", "global_step2/.."):
        (tmp_path / "step" / "latest").write_text(text)
        with pytest.raises(CheckpointError, match="a DeepSpeed checkpoint; give the mp_rank_00_model_states.pt in"):
            open_source(tmp_path / "step")
    (tmp_path / "run" / "export" / "models" / "step_500.pt").touch()
    with pytest.raises(CheckpointError, match=r"give \S+/run/export/models/step_500.pt\.$"):
        open_source(tmp_path / "run")
    (tmp_path / "deep" / "a" / "b" / "c" / "d" / "x.pt").touch()
    with pytest.raises(CheckpointError, match="give the .bin, .pt or .safetensors file itself"):
        open_source(tmp_path / "deep")


def test_what_was_frozen_lies_twice_in_a_checkpoint_of_deepspeed(convert, weights, stored, tmp_path):
    """As the original's recipe leaves it, which trains without --tune_llm."""
    frozen = {name: tensor.clone() for name, tensor in weights.items() if name.startswith("llm.")}
    shapes = {name: tensor.shape for name, tensor in frozen.items()}
    saved = deepspeed(weights, frozen_param_shapes=shapes, frozen_param_fragments=frozen, args={"lr": 1e-5})
    torch.save(saved, tmp_path / "mp_rank_00_model_states.pt")
    assert open_source(tmp_path / "mp_rank_00_model_states.pt").under == "module"
    folder = convert(tmp_path / "mp_rank_00_model_states.pt")
    assert len(stored(folder)) == len(weights)


def test_a_checkpoint_of_what_was_trained_alone_is_said_to_be_one(convert, weights, tmp_path):
    trained = {name: tensor for name, tensor in weights.items() if not name.startswith("llm.")}
    torch.save(deepspeed(trained), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="lacks all of language_model, as where only what was trained is saved"):
        convert(tmp_path / "a.pt")
