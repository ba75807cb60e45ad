"""Guards `viscpm quantize` for Chat, and int8 for Paint: what rounding while loading gives, or refused."""

import json
import os
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

from viscpm_hf import VisCPMChat, VisCPMPaint
from viscpm_hf.checkpoint import refresh
from viscpm_hf.checkpoint.errors import CheckpointError
from viscpm_hf.checkpoint.publishing.card import card_of
from viscpm_hf.checkpoint.publishing.contents import read_contents
from viscpm_hf.cli import main
from viscpm_hf.memory import rounded_repository
from viscpm_hf.memory.packing import PackedInt8Linear
from viscpm_hf.memory.rounded_repository import quantize_to_nearest
from viscpm_hf.memory.sizes import read_model
from viscpm_hf.tiny import tiny_chat_repo, tiny_paint_repo

pytest.importorskip("bitsandbytes"), pytest.importorskip("torchao")
CPU = {"image_safety_checker": False, "device": "cpu"}
PAINT = {**CPU, "prompt_safety_checker": False, "add_ranker": False}
BY = {"int8": "torchao", "4bit": "bitsandbytes"}
QUESTIONS = ("这张图片里有什么？", "What is in the picture?")


@pytest.fixture(scope="module")
def repos(tmp_path_factory):
    """The tiny Chat in 8 and 4 bits by the command, from a folder with notes and what a training run leaves."""
    folder, found = tmp_path_factory.mktemp("rounded"), {}
    source = shutil.copytree(tiny_chat_repo(), folder / "source")
    for name in ("notes/of_mine.txt", "checkpoint-4/model.safetensors", "runs/events", "optimizer.pt"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("{}")
    for method in BY:
        found[method] = folder / method
        given = ["quantize", "--model", str(source), "--method", method, "--output", str(found[method])]
        assert main(given) == 0
    return found


def asked(chat, pictures):
    return [chat.chat(picture, question, max_new_tokens=12) for picture in pictures for question in QUESTIONS]


def same(found, expected):
    return all(
        a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(found, expected, strict=True)
    )  # answers, contexts and pictures' states


@pytest.mark.parametrize("method", BY)
def test_answers_and_weights_are_those_of_rounding_while_loading(method, repos, pictures, tmp_path):
    loaded = VisCPMChat(tiny_chat_repo(), **CPU, quantization=method)
    loaded.model.save_pretrained(tmp_path)  # before its first use, which repacks 4 bits
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (repos[method], tmp_path))
    assert ours.keys() == theirs.keys()
    assert [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])] == []
    configs = [json.loads((folder / "config.json").read_text()) for folder in (repos[method], tmp_path)]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]

    chat = VisCPMChat(repos[method], **CPU)
    packed = [module for module in chat.model.modules() if isinstance(module, PackedInt8Linear)]
    those = {"int8": 4 * 7 + 1, "4bit": 1}[method]  # every matrix of the blocks, and the head; or that
    assert len(packed) == (those if torch.cpu._is_vnni_supported() else 0)
    assert same(asked(chat, pictures), asked(loaded, pictures))


@pytest.mark.parametrize("method", ["int8"])  # the golden model's widths are no multiples of 64
def test_the_golden_model_answers_as_when_it_is_rounded_while_loading(method, chat_repo_eos, pictures, tmp_path):
    chat = VisCPMChat(quantize_to_nearest(chat_repo_eos, tmp_path / "repo", method, progress=False), **CPU)
    assert same(asked(chat, pictures), asked(VisCPMChat(chat_repo_eos, **CPU, quantization=method), pictures))


@pytest.mark.parametrize("method", BY)
def test_auto_classes_load_what_is_in_several_files(method, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(rounded_repository, "MOST_PENDING", 500_000)
    output = quantize_to_nearest(tiny_chat_repo(), tmp_path / "repo", method, progress=False)
    files = sorted(output.glob("*.safetensors"))
    assert [path.name for path in files] == [
        f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)
    ]
    assert len(files) > 3 and {path.stat().st_mode for path in files} == {(output / "config.json").stat().st_mode}
    model = AutoModelForImageTextToText.from_pretrained(output, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(output, trust_remote_code=True)
    content = [{"type": "image", "image": pictures[0]}, {"type": "text", "text": QUESTIONS[0]}]
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    tokens = model.generate(**inputs, max_new_tokens=12)[:, inputs["input_ids"].shape[1] :]
    answer = processor.post_process_image_text_to_text(tokens)[0]
    assert (
        answer
        == VisCPMChat(output, **CPU)
        .answers([{"image": pictures[0], "question": QUESTIONS[0]}], max_new_tokens=12)[0][0]
        .text
    )


@pytest.mark.parametrize("method", BY)
def test_the_copy_is_a_whole_repository_that_says_what_it_is(method, repos, capsys):
    repo = repos[method]
    inside = {path.relative_to(repo).as_posix() for path in repo.rglob("*") if path.is_file()}
    source = {path.name for path in tiny_chat_repo().iterdir()} - {"original_only.safetensors"}
    assert inside == source | {"notes/of_mine.txt"}
    blocks = [read_model(folder).parts["blocks"].nbytes() for folder in (repo, tiny_chat_repo())]
    assert blocks[0] < {"int8": 0.55, "4bit": 0.3}[method] * blocks[1]
    bits = {"int8": "8", "4bit": "4"}[method]
    report = json.loads((repo / "conversion.json").read_text())
    assert report["quantized"]["language_model"].startswith(f"{bits} bits (") and report["dropped_to"] is None
    card = (repo / "README.md").read_text(encoding="utf-8")
    assert f"were quantized to {bits} bits" in card and f"量化为 {bits} 比特" in card and f"{BY[method]}>=" in card


@pytest.mark.parametrize("method", BY)
def test_other_verbs_know_what_it_is(method, repos, tmp_path, capsys):
    repo = shutil.copytree(repos[method], tmp_path / "repo")
    assert read_model(repo).quantized == BY[method]
    assert refresh(repo).changed == []
    contents = read_contents(repo)
    assert "model.safetensors" in contents.files
    card = card_of(contents, "someone/VisCPM-Chat-small").decode()
    assert "base_model_relation: quantized" in card and card.count("## Quantized weights") == 1
    assert main(["fit", "--model", str(repo), "--device", "cpu"]) == 0
    assert "all in RAM" in capsys.readouterr().out
    for given in (
        ["merge", "--model", repo, "--adapter", tmp_path, "--output", tmp_path / "x"],
        ["export", "--repo", repo, "--checkpoint", tmp_path / "x"],
        ["verify", "--repo", repo, "--checkpoint", tmp_path / "x"],
        ["quantize", "--model", repo, "--method", "int8", "--output", tmp_path / "x"],
        ["finetune", "chat", "--model", repo, "--data", tmp_path, "--output", tmp_path / "x", "--mode", "lora"],
    ):
        assert main([str(part) for part in given]) == 1
        error = capsys.readouterr().err
        assert "is quantized" in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo"]


def test_paint_in_8_bits_keeps_its_states(tmp_path):
    """They are those of rounding while loading."""
    given = ["quantize", "--model", str(tiny_paint_repo()), "--method", "int8", "--output", str(tmp_path / "repo")]
    assert main(given) == 0
    pipelines = [
        VisCPMPaint(tiny_paint_repo(), **PAINT, quantization="int8").pipeline,
        VisCPMPaint(tmp_path / "repo", **PAINT).pipeline,
    ]
    states = [pipeline.encode_prompt("草地上有一只猫")[0] for pipeline in pipelines]
    assert torch.equal(*states)
    assert read_model(tmp_path / "repo").quantized == "torchao"
    with safe_open(tmp_path / "repo" / "text_encoder" / "model.safetensors", "pt") as file:
        assert file.get_slice("layers.0.mlp.up_proj._weight_qdata").get_dtype() == "I8"
    others = {path.relative_to(tiny_paint_repo()): path for path in (tiny_paint_repo() / "unet").iterdir()}
    assert all((tmp_path / "repo" / name).read_bytes() == path.read_bytes() for name, path in others.items())


@pytest.mark.parametrize("method", BY)
def test_what_was_loaded_from_a_quantized_repository_is_saved_again(method, repos, pictures, tmp_path):
    """Before and after it answered, which may repack weights."""
    chat = VisCPMChat(repos[method], **CPU)
    for folder in (tmp_path / "before", tmp_path / "after"):
        for part in (chat.model, chat.processor):
            part.save_pretrained(folder)
        assert same(asked(VisCPMChat(folder, **CPU), pictures[:1]), asked(chat, pictures[:1]))


def test_a_folder_without_a_processor_says_so(repos, tmp_path):
    VisCPMChat(repos["int8"], **CPU).model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a model and no processor, .* `processor.save_pretrained`"):
        VisCPMChat(tmp_path, **CPU)


def test_a_quantized_paint_is_saved_again(tmp_path):
    first = tmp_path / "first"
    assert main(["quantize", "--model", str(tiny_paint_repo()), "--method", "int8", "--output", str(first)]) == 0
    pipeline = DiffusionPipeline.from_pretrained(first, trust_remote_code=True)
    pipeline.save_pretrained(tmp_path / "second")
    again = DiffusionPipeline.from_pretrained(tmp_path / "second", trust_remote_code=True)
    states = [each.encode_prompt("草地上有一只猫")[0] for each in (pipeline, again)]
    assert torch.equal(*states)


def test_8_bits_of_a_gpu_load_on_a_cpu(pictures, tmp_path):
    """bitsandbytes' format, which is what `quantization="int8"` has where there is CUDA."""
    chat = VisCPMChat(tiny_chat_repo(), **CPU, quantization=BitsAndBytesConfig(load_in_8bit=True))
    for model in (chat.model, chat.processor):
        model.save_pretrained(tmp_path)
    assert same(asked(VisCPMChat(tmp_path, **CPU), pictures), asked(chat, pictures))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--model", "CHAT"], "say --method int8 or --method 4bit"),
        (["--model", "CHAT", "--method", "4bit", "--prompts", "x"], "Got --prompts, which only Paint's 4 bits take"),
        (["--model", "CHAT", "--method", "int8", "--samples", "3"], "Got --samples, which only Paint's 4 bits take"),
        (["--model", "CHAT", "--method", "int8", "--device", "cuda"], "Got --device, which only Paint's 4 bits take"),
        (["--model", "PAINT", "--method", "int8", "--prompts", "x"], "Got --prompts, which only Paint's 4 bits take"),
        (["--model", "PAINT"], "give them with --prompts"),
        (["--model", "PAINT", "--method", "4bit"], "give them with --prompts"),
        (["--model", "GOLDEN", "--method", "4bit"], "4 bits need multiples of 64"),
        (["--model", "nowhere", "--method", "4bit"], "There is no folder nowhere"),
        (["--model", "CHAT", "--method", "int8", "--output", "CHAT"], "exists already"),
        (["--model", "CHAT", "--method", "int8", "--output", "CHAT/copy"], "is inside of"),
        (["--model", "PAINT", "--prompts", "PROMPTS", "--output", "PAINT/unet/copy"], "is inside of"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(given, message, chat_repo, tmp_path, tmp_path_factory, capsys):
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("a cat\n")
    folders = {"CHAT": tiny_chat_repo(), "PAINT": tiny_paint_repo(), "GOLDEN": chat_repo, "PROMPTS": prompts}
    for name, folder in folders.items():
        given = [each.replace(name, str(folder)) for each in given]
    assert main(["quantize", "--output", str(tmp_path / "output"), *given]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_method_that_there_is_not():
    assert main(["quantize", "--model", "x", "--output", "y", "--method", "2bit"]) == 2
    with pytest.raises(CheckpointError, match="Got '2bit' as a method, expected one of int8, 4bit"):
        quantize_to_nearest(tiny_chat_repo(), "y", "2bit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lacking", "missing: model.language_model.layers.3.mlp.up_proj.weight"),
        ("not finite", "holds numbers that are not finite"),
        ("short", "is incomplete|does not fit|damaged"),
        ("no room", r"The output needs \d MB but only 1 kB are free"),
        ("changing", "model.safetensors was changed or replaced"),
    ],
)
def test_nothing_is_left_where_it_fails(change, message, tmp_path, monkeypatch):
    repo = shutil.copytree(tiny_chat_repo(), tmp_path / "repo")
    file = repo / "model.safetensors"
    tensors, name = load_file(file), "model.language_model.layers.3.mlp.up_proj.weight"
    if change == "lacking":
        del tensors[name]
    elif change == "not finite":
        tensors[name][3, 3] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    if change == "short":
        os.truncate(file, 10_000)
    elif change == "no room":
        monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1000))
    elif change == "changing":
        configure = rounded_repository.read_weights
        monkeypatch.setattr(
            rounded_repository, "read_weights", lambda *given: (configure(*given), os.truncate(file, 10_000))[0]
        )
    for method in BY:
        with pytest.raises(CheckpointError, match=message):
            quantize_to_nearest(repo, tmp_path / "output", method, progress=False)
        assert sorted(tmp_path.iterdir()) == [repo]
        if change == "changing":
            break  # it is short now


def test_weights_in_several_types_are_rounded_from_that_of_the_blocks(pictures, tmp_path):
    """As loading does, which gives all parts one type; the others stay as they are stored."""
    repo = shutil.copytree(tiny_chat_repo(), tmp_path / "repo")
    tensors = load_file(repo / "model.safetensors")
    for name in tensors:
        if "layers.1." in name or "vision_tower" in name:
            tensors[name] = tensors[name].float()
    tensors["model.language_model.layers.1.mlp.up_proj.weight"] *= 1.0001
    save_file(tensors, repo / "model.safetensors", {"format": "pt"})
    for method in BY:
        output = quantize_to_nearest(repo, tmp_path / method, method, progress=False)
        assert same(
            asked(VisCPMChat(output, **CPU), pictures), asked(VisCPMChat(repo, **CPU, quantization=method), pictures)
        )


def test_beside_quantized_weights_is_a_type_the_processor_is_fast_in(repos, pictures, monkeypatch):
    """The tiny Chat is stored in float16, which most processors have no instructions for."""
    for slow, wanted in (((), torch.float16), ((torch.float16,), torch.bfloat16)):
        monkeypatch.setattr("viscpm_hf.memory.budget.is_multiplied_in", lambda dtype, slow=slow: dtype not in slow)
        for method in BY:
            chat = VisCPMChat(repos[method], **CPU)
            assert {each.dtype for each in chat.model.parameters() if each.is_floating_point()} == {wanted}
            assert chat.chat(pictures[0], QUESTIONS[0], max_new_tokens=4)[0]


@pytest.mark.parametrize("method", BY)
def test_asking_for_what_is_stored_is_no_contradiction(method, repos, pictures):
    chat = VisCPMChat(repos[method], **CPU, quantization=method)
    assert same(asked(chat, pictures), asked(VisCPMChat(repos[method], **CPU), pictures))
    other = {"int8": "4bit", "4bit": "int8"}[method]
    with pytest.raises(ValueError, match="is stored quantized otherwise, and stays as it is"):
        VisCPMChat(repos[method], **CPU, quantization=other)


def test_refreshing_keeps_what_the_card_says_of_quantized_weights(repos, tmp_path):
    for options in ({}, {"card": True}):
        repo = shutil.copytree(repos["int8"], tmp_path / str(len(options)))
        before = (repo / "README.md").read_text(encoding="utf-8")
        assert not any("README.md" in kept for kept in refresh(repo, **options).kept)
        assert (repo / "README.md").read_text(encoding="utf-8") == before
    (repo / "README.md").write_text(before.replace("## ", "## My ", 1), encoding="utf-8")
    assert any("README.md" in kept for kept in refresh(repo).kept)
    refresh(repo, card=True)
    assert (repo / "README.md").read_text(encoding="utf-8") == before
