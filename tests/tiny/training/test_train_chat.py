"""Guards the training of the tiny Chat model: it learns, resumes, and writes an original checkpoint that converts."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from viscpm_hf.checkpoint import convert_chat
from viscpm_hf.tiny.training import train_chat
from viscpm_hf.tiny.training.batches import LAYOUTS, assembled, encode, fitting, tiny_processor
from viscpm_hf.tiny.training.export import write_original
from viscpm_hf.tiny.training.train_chat import ChatLearner, main, tiny_config
from viscpm_hf.tiny.world.pictures import draw
from viscpm_hf.tiny.world.questions import Question, training_question
from viscpm_hf.tiny.world.scenes import random_scene


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ChatLearner(tiny_config()).eval()


def test_the_checkpoint_is_small_and_converts_losslessly(model, tmp_path):
    checkpoint = write_original(model, tmp_path / "original")
    tensors = torch.load(checkpoint, weights_only=True)
    assert sum(tensor.numel() for tensor in tensors.values()) <= 4_000_000
    assert checkpoint.stat().st_size <= 8_000_000
    repo = convert_chat(
        checkpoint,
        checkpoint.with_name("vocab.txt"),
        tmp_path / "repo",
        llm_config=checkpoint.with_name("llm_config.json"),
        vision_config=checkpoint.with_name("vision_config.json"),
        progress=False,
    )
    converted = AutoModelForImageTextToText.from_pretrained(repo)
    trained = model.state_dict()
    for name, tensor in converted.state_dict().items():
        assert torch.equal(tensor, trained[name].half()), name
    for name in ("num_attention_heads", "position_bias_max_distance", "rms_norm_eps", "rotary_dtype", "eos_token_id"):
        assert getattr(converted.config.text_config, name) == getattr(model.config.text_config, name), name
    assert converted.config.vision_config.num_attention_heads == model.config.vision_config.num_attention_heads


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_trained_is_what_is_asked(model, layout, monkeypatch):
    """Logits of a padded row are those of the released model's own prompt, unknown words included."""
    rng, asked = random.Random(layout), []
    while len(asked) < 4:
        scene = random_scene(rng)
        question = training_question(scene, rng)
        if layout == "wide" and len(asked) == 3:
            question = Question("outside", "zh", "法国的首都是哪里？在饿着肚子的时候会怎么样？为了", question.answer)
        if fitting(encode(question)) == layout:
            asked.append((scene, question))
    rooms = (LAYOUTS[layout].context, LAYOUTS[layout].question, LAYOUTS[layout].answer)
    rows = torch.zeros(len(asked), sum(rooms), dtype=torch.long)
    for row, (_, question) in zip(rows, asked, strict=True):
        for start, ids in zip((0, rooms[0], rooms[0] + rooms[1]), encode(question), strict=True):
            row[start : start + len(ids)] = torch.tensor(ids)
    pixels = torch.stack([torch.from_numpy(np.array(draw(s))).permute(2, 0, 1) / 127.5 - 1 for s, _ in asked])
    inputs = assembled(rows, LAYOUTS[layout], torch.Generator().manual_seed(0))
    seen = []
    entropy = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        train_chat.nn.functional,
        "cross_entropy",
        lambda logits, *args, **kwargs: (seen.append(logits), entropy(logits, *args, **kwargs))[1],
    )
    zeros = torch.zeros(len(asked), 19, dtype=torch.long)
    pictures = pixels[:: LAYOUTS[layout].group]  # those of a group share one
    model(layout, **inputs, pixel_values=pictures, scene_labels=zeros[: len(pictures)], cells=zeros[:, 0])
    logits = seen[0].view(len(asked), rooms[2] + 1, -1)
    monkeypatch.undo()
    chat, size = model.chat(), tiny_processor().tokenizer.vocab_size
    for number, (_, question) in enumerate(asked):
        encoding = tiny_processor().encode_chat(True, question.question, question.context, question.answer)
        prompt = tiny_processor().pad([encoding])
        first = encoding["segment_ids"].index(8)
        names = ("unk_allowed", "ext_table_mask", "ext_table_words", "image_bounds")
        prompt = {name: value for name, value in prompt.items() if name not in names}
        picture = pictures[number // LAYOUTS[layout].group][None]
        expected = chat(**prompt, pixel_values=picture).logits[0, first:]
        trained = logits[number, : len(expected), : expected.shape[1]]
        torch.testing.assert_close(trained, expected, atol=2e-5, rtol=1e-4)
        assert expected.shape[1] == size or trained[:, size:].abs().max() > 0


def test_training_learns_resumes_and_writes(tmp_path, capsys):
    """A short run sees its loss fall, the same command goes on where it was, and both leave a checkpoint."""
    arguments = f"--output {tmp_path} --world {tmp_path}/prepared --device cpu --rows 60 --unknown 4 --workers 1"
    arguments += " --pictures 2 --logging-steps 3 --save-seconds 1 --questions 10 --vision-share 0.5"
    assert main([*arguments.split(), "--steps", "12"]) == 0
    first = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert main([*arguments.split(), "--steps", "15"]) == 0
    last = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert torch.equal(first["vpm.mim_head.weight"], last["vpm.mim_head.weight"])
    assert not torch.equal(first["llm.input_embedding.weight"], last["llm.input_embedding.weight"])
    printed = capsys.readouterr().out
    assert "going on after step 12" in printed
    assert printed.count("| exact answers, greedy |") == 2 and printed.count("| honest answers |") == 2
    for phase in ("vision", "chat"):
        losses = [
            float(line.split("loss ")[1].split(",")[0]) for line in printed.splitlines() if f", {phase}: " in line
        ]
        assert losses[-1] < losses[0]
