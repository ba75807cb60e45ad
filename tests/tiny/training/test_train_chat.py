"""Guards the training of the tiny Chat model: it learns, resumes, and writes an original checkpoint that converts."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from viscpm_hf.checkpoint import convert_chat
from viscpm_hf.tiny.training.batches import WorldBatches, prepare_world
from viscpm_hf.tiny.training.export import write_original
from viscpm_hf.tiny.training.train_chat import ChatLearner, main, tiny_config


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ChatLearner(tiny_config()).eval()


@pytest.fixture(scope="module")
def batch():
    return WorldBatches(prepare_world(scenes=8, questions=1))(list(range(8)))


def test_the_checkpoint_is_small_and_converts_losslessly(model, tmp_path):
    checkpoint = write_original(model, tmp_path / "original")
    tensors = torch.load(checkpoint, weights_only=True)
    assert sum(tensor.numel() for tensor in tensors.values()) <= 3_900_000
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


def test_the_loss_is_the_models_own_plus_those_of_the_heads(model, batch):
    scenes = model.reader()(batch["pixel_values"], batch["scene_labels"])["loss"]
    heads = ("scene_labels", "picture_of", "meant_cells")
    inputs = {name: tensor for name, tensor in batch.items() if name not in heads}
    inputs["pixel_values"] = batch["pixel_values"][batch["picture_of"]]
    plain = model.chat()(**inputs, output_hidden_states=True)
    # tokens 1 to 16 of the image segment are the picture's
    starts = batch["mm_token_type_ids"].int().argmax(1)
    picture = torch.stack([plain.hidden_states[2][i, s : s + 16] for i, s in enumerate(starts)])
    meant = model.meant_loss(picture, batch["meant_cells"])
    torch.testing.assert_close(model(**batch)["loss"], plain.loss + 0.3 * scenes + 0.3 * meant)
    assert 3 < scenes < 10 and 1 < meant < 5  # near the entropy of an untrained guess


def test_questions_about_the_whole_picture_mean_no_cell(model):
    tokens = torch.randn(4, 16, 192, generator=torch.Generator().manual_seed(0))
    cells = torch.tensor([-1, 3, -1, 8])
    expected = torch.nn.functional.cross_entropy(model.meant_head(tokens[[1, 3], :9])[..., 0], cells[[1, 3]])
    torch.testing.assert_close(model.meant_loss(tokens, cells), expected)
    assert model.meant_loss(tokens, torch.full((4,), -1)) == 0


def test_training_learns_resumes_and_writes(tmp_path, capsys):
    arguments = f"--output {tmp_path} --vision-steps 2 --batch-size 8 --scenes 64 --questions-per-scene 2 --workers 1"
    arguments += " --save-steps 3 --logging-steps 1 --eval-steps 5 --questions 10"
    assert main([*arguments.split(), "--steps", "3"]) == 0
    first = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert main([*arguments.split(), "--steps", "6"]) == 0
    last = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert [folder.name for folder in (tmp_path / "checkpoints" / "chat").iterdir()] == ["checkpoint-6"]
    assert torch.equal(first["vpm.mim_head.weight"], last["vpm.mim_head.weight"])
    assert not torch.equal(first["llm.input_embedding.weight"], last["llm.input_embedding.weight"])
    printed = capsys.readouterr().out
    assert "| step 5 |" in printed and printed.count("| held-out questions, greedy, float32 |") == 2
    assert "{'train_runtime" in printed
