"""Guards whatever reads JSON of others: one odd value in a file is taken or refused in a sentence."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from json_mutations import mutated, mutations
from paint_original import GOLDEN, converted_paint, write_original

from viscpm_hf.checkpoint import CheckpointError, convert_chat, verify
from viscpm_hf.checkpoint.files.source import open_checkpoint
from viscpm_hf.checkpoint.job import Job
from viscpm_hf.checkpoint.layout import configs, stable_diffusion
from viscpm_hf.checkpoint.layout.keys import CHAT
from viscpm_hf.checkpoint.layout.unet import unet_for
from viscpm_hf.checkpoint.pipeline_repo import SCHEDULER
from viscpm_hf.checkpoint.repo import family_of, read_repo
from viscpm_hf.memory.budget import find_plan
from viscpm_hf.memory.machine import Machine
from viscpm_hf.memory.plans import list_plans
from viscpm_hf.memory.sizes import read_model

hypothesis = pytest.importorskip("hypothesis")
MACHINES = Machine("cuda", ram=64 * 10**9), Machine("cpu", ram=64 * 10**9)


def planned(repo):
    """What `viscpm fit` and `memory=` do before anything is loaded."""
    model = read_model(repo)
    for machine in MACHINES:
        for plan in list_plans(model, machine, 10**9):
            assert 0 < plan.peak < 2**80 and math.isfinite(plan.seconds)
    find_plan(repo, torch.device("cpu"), memory="900TB")
    family_of(repo)


@pytest.fixture(scope="module")
def documents(chat_checkpoint, chat_repo, tmp_path_factory):
    """Files by name, each with what reads it."""
    root = tmp_path_factory.mktemp("hostile")
    original, chat = write_original(root), shutil.copytree(chat_repo, root / "chat")
    configurations = {f"{kind}_config": chat_checkpoint / f"{kind}_config.json" for kind in ("llm", "vision")}
    checkpoint = chat_checkpoint / "pytorch_model.plain.bin"
    shards = convert_chat(
        checkpoint, GOLDEN / "vocab.txt", root / "shards", max_shard_size="200kB", progress=False, **configurations
    )
    paint, base = converted_paint(original, output=root / "paint"), original / "sd_base"
    tensors = open_checkpoint(original / "pytorch_model.bin")
    (base / "unet").mkdir()
    shutil.copy(original / "unet_config.json", base / "unet" / "config.json")
    (base / "scheduler").mkdir()
    (base / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    job = Job(checkpoint, GOLDEN / "vocab.txt", root / "no", "keep", "5GB")
    job.fit(CHAT)
    declared = {kind: Path(shutil.copy(path, root)) for kind, path in configurations.items()}
    sizes = job.match.sizes
    return {
        "chat": (chat / "config.json", lambda: planned(chat)),
        "report": (chat / "conversion.json", lambda: verify(checkpoint, chat, progress=False)),
        "shards": (shards / "model.safetensors.index.json", lambda: (read_model(shards), read_repo(shards, CHAT))),
        "pipeline": (paint / "model_index.json", lambda: planned(paint)),
        "text encoder": (paint / "text_encoder" / "config.json", lambda: planned(paint)),
        "unet": (paint / "unet" / "config.json", lambda: planned(paint)),
        "vae": (paint / "vae" / "config.json", lambda: planned(paint)),
        "--llm-config": (
            declared["llm_config"],
            lambda: configs.llm_config(sizes, job.tokenizer, declared["llm_config"], True),
        ),
        "--vision-config": (
            declared["vision_config"],
            lambda: configs.vision_config(sizes, declared["vision_config"]),
        ),
        "base's vae": (base / "vae" / "config.json", lambda: stable_diffusion.vae(str(base))),
        "base's unet": (
            base / "unet" / "config.json",
            lambda: unet_for(tensors, "it", stable_diffusion.unet_config(str(base)), "--sd-base"),
        ),
        "base's scheduler": (
            base / "scheduler" / "scheduler_config.json",
            lambda: stable_diffusion.require_epsilon(str(base)),
        ),
    }


NAMES = (
    *("chat", "report", "shards", "pipeline", "text encoder", "unet", "vae"),
    *("--llm-config", "--vision-config", "base's vae", "base's unet", "base's scheduler"),
)


@pytest.mark.parametrize("name", NAMES)
def test_one_odd_value_is_taken_or_refused_in_a_sentence(documents, name):
    path, read = documents[name]
    sound = path.read_bytes()
    read()

    @hypothesis.settings(max_examples=40, derandomize=True, deadline=None, database=None)
    @hypothesis.given(hypothesis.strategies.sampled_from(mutations(json.loads(sound))))
    def check(change):
        path.write_bytes(mutated(json.loads(sound), *change))
        try:
            read()
        except CheckpointError as error:
            assert str(error).isprintable() and len(str(error)) < 900

    try:
        check()
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize(
    ("name", "place", "change", "message"),
    [
        ("chat", ("text_config",), "null", "config.json has text_config=None, expected an object"),
        (
            "chat",
            ("text_config", "num_hidden_layers"),
            "10000000",
            "asks for 10000000 blocks of layers, the weights have 3",
        ),
        ("chat", ("text_config", "vocab_size"), "9" * 30, "vocab_size=9+, expected a whole number"),
        ("chat", ("text_config", "num_attention_heads"), "[1]", r"num_attention_heads=\[1\], expected"),
        ("chat", ("vision_config", "patch_size"), "0", "vision_config has patch_size=0"),
        ("chat", ("vision_config",), '"x"', "vision_config='x', expected an object"),
        ("chat", ("model_type",), "[]", "There is no converted model in"),
        ("chat", (), "[1]", "a JSON list"),
        ("report", ("dropped",), "null", "has dropped=None, expected a list of names"),
        ("report", ("dtype",), "[[1]]", r"has dtype=\[\[1\]\], expected one of keep, float16"),
        ("shards", ("weight_map",), "[]", "has no weight_map"),
        ("pipeline", ("tokenizer",), "null", "has tokenizer=None, expected a library and a class"),
        ("pipeline", ("unet",), "[null, null]", "names no unet"),
        ("pipeline", ("ranker",), "3.5", "has ranker=3.5"),
        ("pipeline", ("vae",), "gone", "has no vae/config.json"),
        ("text encoder", ("head_dim",), "true", "has head_dim=True"),
        ("unet", ("layers_per_block",), "10000000", "layers_per_block is 10000000 but the tensors say"),
        ("unet", ("sample_size",), "4294967296", "has sample_size=4294967296"),
        ("vae", ("block_out_channels",), '"x"', "has block_out_channels='x'"),
        ("--llm-config", ("eps",), "9" * 400, "a number of 400 digits"),
        ("--llm-config", ("position_bias_max_distance",), "9" * 30, "expected a positive int up to 1048576"),
        ("--vision-config", ("encoder_attention_heads",), "-1", "expected a positive int"),
        (
            "base's vae",
            ("layers_per_block",),
            "10000000",
            "layers_per_block=10000000, expected a whole number from 1 to 64",
        ),
        ("base's vae", ("scaling_factor",), "null", "scaling_factor=None, expected a positive number"),
        ("base's vae", ("latents_mean",), "[1]", "latents_mean=.1., expected 4 numbers or null"),
        ("base's vae", ("use_quant_conv",), '"x"', "use_quant_conv='x', expected true or false"),
        ("base's unet", ("sample_size",), "3.5", "sample_size=3.5, expected a positive int"),
        ("base's scheduler", ("prediction_type",), "[null, null]", "prediction_type=.None, None., so this is not"),
    ],
)
def test_found_cases(documents, name, place, change, message):
    path, read = documents[name]
    sound = path.read_bytes()
    path.write_bytes(mutated(json.loads(sound), place, change))
    try:
        with pytest.raises(CheckpointError, match=message):
            read()
    finally:
        path.write_bytes(sound)
