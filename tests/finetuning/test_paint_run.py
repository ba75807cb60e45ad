"""Guards a whole run of `finetune paint` on the tiny model: modes, killed and resumed, two processes, its refusals."""

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from killed import kill
from PIL import Image
from safetensors.torch import load_file

import viscpm_hf
from viscpm_hf import VisCPMPaintPipeline
from viscpm_hf.checkpoint import export_original, verify
from viscpm_hf.finetuning import paint, paint_data
from viscpm_hf.finetuning.paint_settings import read_paint_settings
from viscpm_hf.tiny import tiny_paint_repo

SHORT = ["--use_cpu", "--logging_steps", "1", "--save_steps", "2", "--per_device_train_batch_size", "2"]
FEW = {"num_inference_steps": 2, "output_type": "pt", "generator": 0}
PROMPT = "一个红色的圆形"
SIZE = 96  # of the tiny Paint's pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve pictures with captions in both languages, and a row without a picture."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(12):
        Image.new("RGB", (64, 64), (20 * number, 90, 90)).save(folder / f"{number}.png")
        texts = {"text": f"a circle in the {'left' if number % 2 else 'right'}"}
        rows.append({"image": f"{number}.png", **texts, **({"zh_text": PROMPT} if number % 3 else {})})
    rows.append({**rows[0], "image": "none.png"})
    (folder / "data.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder / "data.json"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(data, cache, tmp_path):
    """Runs settings; gives the folder and the losses of all steps."""

    def start(*options, output="out", **own):
        given = {
            "model": str(tiny_paint_repo()),
            "data": [str(data)],
            "output": str(tmp_path / output),
            "cache": str(cache),
            **own,
        }
        folder = paint.finetune_paint(*read_paint_settings(given, [*SHORT, *options]))
        return folder, losses(folder)

    return start


def losses(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def load(folder=None, cls=VisCPMPaintPipeline, **options):
    pipe = cls.from_pretrained(folder or tiny_paint_repo(), dtype=torch.float32, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def painted(pipe, **options):
    return pipe(PROMPT, **FEW, **options).images


def test_a_lora_loads_into_a_plain_pipeline(run, capfd, tmp_path):
    options = ("--max_steps", "6", "--learning_rate", "1e-2", "--gradient_checkpointing", "--bf16")
    folder, found = run(*options, lora_alpha=8.0, dtype="float32", cache=str(tmp_path / "cache"))
    assert list(found) == list(range(1, 7))
    said = capfd.readouterr().err
    trained = sum(tensor.numel() for tensor in load_file(folder / "pytorch_lora_weights.safetensors").values())
    assert f"training {trained:,} of " in said and "looking at 13 samples" in said
    assert "encoding the pictures of 12 samples" in said
    assert "captions with the language model, on cpu in float32" in said
    (left_out,) = map(json.loads, (folder / "left_out.jsonl").read_text().splitlines())
    assert (left_out["row"], left_out["reason"]) == (12, "the picture is missing")
    assert "load_lora_weights" in (folder / "README.md").read_text()
    pipe = load()
    plain = painted(pipe)
    pipe.load_lora_weights(folder, adapter_name="mine")
    assert pipe.get_list_adapters() == {"unet": ["mine"], "text_projection": ["mine"]}
    adapted = painted(pipe)
    assert (adapted - plain).abs().max() > 1e-2
    pipe.set_adapters("mine", {"unet": 0.0, "text_projection": 1.0})
    assert 0 < (painted(pipe) - plain).abs().max() < (adapted - plain).abs().max() * 2
    pipe.load_lora_weights(folder, adapter_name="again")
    pipe.set_adapters(["mine", "again"], [0.5, 0.5])
    torch.testing.assert_close(painted(pipe), adapted, atol=1e-4, rtol=0)
    pipe.delete_adapters("again")
    pipe.set_adapters("mine")
    pipe.fuse_lora()
    torch.testing.assert_close(painted(pipe), adapted, atol=1e-4, rtol=0)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(painted(pipe), plain, atol=1e-4, rtol=0)
    remote = load(cls=DiffusionPipeline, trust_remote_code=True)
    remote.load_lora_weights(str(folder))
    torch.testing.assert_close(painted(remote), adapted, atol=1e-5, rtol=0)


def test_a_full_model_is_a_repository_like_the_one_before(run, tmp_path):
    base = tiny_paint_repo()
    folder, _ = run("--max_steps", "4", "--learning_rate", "1e-3", mode="full", ema=0.5)
    for path in base.rglob("*"):
        there = folder / path.relative_to(base)
        if path.is_file() and path.name != "README.md":
            changed = path.parent.name in ("unet", "text_projection") and path.suffix == ".safetensors"
            assert (there.read_bytes() == path.read_bytes()) == (not changed), path
    assert (folder / "README.md").read_text().count("## Fine-tuned") == 1 and not (folder / ".result").exists()
    for name in ("unet", "text_projection"):
        before, after = (load_file(next((path / name).glob("*.safetensors"))) for path in (base, folder))
        assert {key: (t.dtype, t.shape) for key, t in before.items()} == {
            k: (t.dtype, t.shape) for k, t in after.items()
        }
    checkpoint = export_original(folder, tmp_path / "out.bin", progress=False)
    assert not any(result.differences for result in verify(checkpoint, folder, progress=False).values())
    assert (painted(load(folder)) - painted(load())).abs().max() > 1e-2
    # the moving average is what was saved
    average, last = (load_file(folder / "checkpoint-4" / f"{name}.safetensors") for name in ("average", "model"))
    saved = load_file(next((folder / "unet").glob("*.safetensors")))["conv_in.weight"]
    assert torch.equal(saved, average["unet.conv_in.weight"].to(saved.dtype))
    assert not torch.equal(saved, last["unet.conv_in.weight"].to(saved.dtype))
    # what a run wrote can be trained further
    again, found = run("--max_steps", "1", output="again", mode="full", model=str(folder))
    assert not (again / "checkpoint-4").exists() and len(found) == 1 and painted(load(again)).isfinite().all()


@pytest.mark.slow
def test_a_run_killed_while_it_saves_goes_on_exactly(run, data, cache, tmp_path):
    """kill -9 within a checkpoint, another half written, and the same command again: the same losses and weights."""
    settings = [
        "--max_steps",
        "6",
        "--lora_dropout",
        "0.1",
        "--random_crop",
        "--ema",
        "0.8",
        "--learning_rate",
        "1e-3",
    ]
    settings += ["--resolution", "48", "--min_side", "1"]
    _, expected = run(*settings, output="straight")
    folder = tmp_path / "killed"
    given = ["--model", str(tiny_paint_repo()), "--data", str(data), "--output", str(folder), "--cache", str(cache)]
    kill(["finetune", "paint", *given, *SHORT, *settings], lambda: (folder / "checkpoint-4").exists())
    (folder / "checkpoint-98").mkdir()
    (folder / "checkpoint-98" / "trainer_state.json").write_text('{"global_step": 9')
    assert not (folder / "pytorch_lora_weights.safetensors").exists()
    _, found = run(*settings, output="killed")
    assert found == expected and len(found) == 6
    names = [tmp_path / name / "pytorch_lora_weights.safetensors" for name in ("straight", "killed")]
    one, other = map(load_file, names)
    assert one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(viscpm_hf.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_processes_learn_as_one(run, data, tmp_path):
    """Of the same global batch; they share what is computed once."""
    settings = ["--max_steps", "3", "--learning_rate", "1e-3", "--logging_steps", "1", "--use_cpu"]
    settings += ["--resolution", "48", "--min_side", "1", "--ema", "0.5", "--offset_noise", "0.1", "--snr_gamma", "5"]
    given = ["--model", str(tiny_paint_repo()), "--data", str(data), "--output", str(tmp_path / "two")]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "viscpm_hf"]
    command = [*launcher, "finetune", "paint", *given, *settings, "--per_device_train_batch_size", "1"]
    done = subprocess.run([sys.executable, *command], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"Written: {tmp_path / 'two'}" and done.stderr.count("step 3/3") == 1
    folder, expected = run(*settings)
    assert losses(tmp_path / "two") == pytest.approx(expected, rel=1e-4)
    one, two = (load_file(path / "pytorch_lora_weights.safetensors") for path in (folder, tmp_path / "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=0)


def test_accumulated_batches_are_one(run):
    whole = run("--max_steps", "2", "--learning_rate", "1e-3", "--per_device_train_batch_size", "4")[1]
    parts = run("--max_steps", "2", "--learning_rate", "1e-3", "--gradient_accumulation_steps", "2", output="parts")[1]
    assert parts == pytest.approx(whole, rel=1e-4)


def test_pictures_at_every_evaluation(run):
    pytest.importorskip("tensorboard")
    prompts = [PROMPT, "a circle", "a left circle", "红", "blue"]
    options = ("--max_steps", "4", "--load_best_model_at_end", "--report_to", "tensorboard", "--learning_rate", "1e-2")
    own = {"validation_prompts": prompts, "validation_steps": 2, "ema": 0.5, "eval_rows": 3, "mode": "full"}
    folder, _ = run(*options, **own)
    state = json.loads((folder / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == [2, 4]
    sheets = sorted((folder / "pictures").glob("*.png"))
    assert [path.name for path in sheets] == [f"step-{step:06}.png" for step in (0, 2, 4)]
    before, _, after = map(Image.open, sheets)
    assert before.size == (4 * SIZE, 2 * SIZE + 20) and before.text["prompts"].splitlines() == prompts
    assert before.tobytes() != after.tobytes()
    pipe = load()
    picture = pipe(PROMPT, negative_prompt="", num_inference_steps=2, generator=0).images[0]
    shown = torch.tensor(list(before.crop((0, 20, SIZE, SIZE + 20)).tobytes()))
    assert (shown - torch.tensor(list(picture.tobytes()))).abs().max() <= 1
    assert list(folder.rglob("events.out.tfevents*"))
    best = load_file(Path(state["best_model_checkpoint"]) / "average.safetensors")["unet.conv_in.weight"]
    saved = load_file(next((folder / "unet").glob("*.safetensors")))["conv_in.weight"]
    assert torch.equal(saved, best.to(saved.dtype))


def test_the_language_model_is_gone_before_the_unet_comes(run, monkeypatch, tmp_path):
    """And a second run does not need it at all."""
    seen, load_part, load_learner = [], paint.load_part, paint.load_learner

    def watched(name, folder, **options):
        part = load_part(name, folder, **options)
        if name == "text_encoder":
            part.register_forward_hook(lambda *_: seen.append("read"))
            seen.append(weakref.ref(part))
        return part

    def learner(*arguments, **options):
        assert all(each() is None for each in seen if callable(each))
        return load_learner(*arguments, **options)

    monkeypatch.setattr(paint, "load_part", watched)
    monkeypatch.setattr(paint, "load_learner", learner)
    run("--max_steps", "1", cache=str(tmp_path / "cache"))
    assert "read" in seen
    seen.clear()
    run("--max_steps", "1", cache=str(tmp_path / "cache"), output="second")
    assert not seen


def test_reading_goes_on_where_it_was_broken_off(run, monkeypatch, tmp_path):
    monkeypatch.setattr("viscpm_hf.finetuning.paint_cache._SHARD", 1)
    states, read = paint_data._states, []

    def broken(model, tokenizer, encodings, device, more=0):
        read.extend(encodings)
        if len(read) > 2:
            raise KeyboardInterrupt
        return states(model, tokenizer, encodings, device, more)

    monkeypatch.setattr(paint_data, "_states", broken)
    prepare = paint.prepare_states
    monkeypatch.setattr(paint, "prepare_states", lambda *a, **k: prepare(*a, **k, tokens=1))
    with pytest.raises(KeyboardInterrupt):
        run("--max_steps", "1", cache=str(tmp_path / "cache"))
    del read[:]
    monkeypatch.setattr(paint_data, "_states", lambda *a, **k: read.extend(a[2]) or states(*a, **k))
    with pytest.raises(FileNotFoundError):  # no losses: it stops before the first step
        run("--prepare_only", cache=str(tmp_path / "cache"))
    assert len(read) == 3  # of four texts; the padding had been read, too
    assert not (tmp_path / "out" / "pytorch_lora_weights.safetensors").exists()
    assert len(run("--max_steps", "1", cache=str(tmp_path / "cache"))[1]) == 1


@pytest.mark.parametrize(
    ("options", "own", "sentence"),
    [
        ((), {"model": "/nowhere"}, "does not exist"),
        ((), {"data": ["/nowhere.json"]}, "There is no '/nowhere.json'"),
        (("--strict",), {}, "Record 12 of .*the picture is missing"),
        (("--min_side", "999"), {}, "No sample is left.*12 × a picture that is too small"),
        ((), {"resolution": 60}, "Got 60 as resolution, expected a multiple of 16"),
        ((), {"validation_guidance": -1.0}, "Got -1.0 as validation_guidance"),
        ((), {"caption_dropout": 2.0}, "Got 2.0 as caption_dropout, expected a number from 0 to 1"),
        ((), {"cache_latents": True, "random_flip": True}, "Got cache_latents with random_crop or random_flip"),
        ((), {"mode": "qlora"}, "Got 'qlora' as mode, expected one of lora, full"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence_and_leaves_nothing(run, tmp_path, options, own, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        run(*options, **own)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_rows_are_left_out_by_reason(run, data, tmp_path):
    rows = json.loads(data.read_text())[:2]
    talk = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    rows += [{"image": "0.png", "conversations": talk}, {"image": "0.png", "text": " "}, {"text": "alone"}, 7]
    rows += [{"image": "0.png", "text": "x" * 5000}, {"image": "0.png", "text": "\ud800"}]
    file = data.parent / "odd.json"
    file.write_text(json.dumps(rows))
    folder, found = run("--max_steps", "1", data=[str(file)])
    reasons = [json.loads(line)["reason"] for line in (folder / "left_out.jsonl").read_text().splitlines()]
    assert len(found) == 1 and sorted(reasons) == sorted(
        [
            "a conversation where a caption is wanted",
            "an empty caption",
            "the picture is missing",
            "not a record",
            "a sample that is too long",
            "a text that is not Unicode",
        ]
    )


def test_out_of_memory_is_a_sentence_with_what_to_try(run, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(paint.PaintTrainer, "training_step", fail)
    for options, own, advice in (
        ((), {}, "--per_device_train_batch_size 1 --gradient_accumulation_steps 2"),
        (("--per_device_train_batch_size", "1"), {}, "--gradient_checkpointing"),
        (("--per_device_train_batch_size", "1", "--gradient_checkpointing"), {}, "--bf16"),
        (
            ("--per_device_train_batch_size", "1", "--gradient_checkpointing", "--bf16"),
            {},
            f"--resolution {SIZE // 2}",
        ),
        (("--per_device_train_batch_size", "1", "--gradient_checkpointing", "--bf16"), {"ema": 0.9}, "without --ema"),
    ):
        with pytest.raises(ValueError, match=f"Out of memory: .*{advice}"):
            run(*options, **own)
    monkeypatch.setattr(paint, "prepare_states", fail)
    with pytest.raises(ValueError, match="Out of memory: .*--states_device cpu"):
        run()


def test_a_folder_holds_one_run(run, tmp_path):
    run("--max_steps", "1", "--save_strategy", "no", mode="full")
    with pytest.raises(ValueError, match="holds a run with mode='full', and this one has 'lora'"):
        run("--max_steps", "1")
    run("--max_steps", "2", mode="full", validation_prompts=["red"], validation_steps=1)  # more of the same
    assert painted(load(tmp_path / "out")).isfinite().all()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty"):
        run("--max_steps", "1", output="other")
