"""Guards settings and data that make no sense: one sentence before anything is loaded, for both models."""

import json
import shutil

import pytest
import torch
from PIL import Image

from viscpm_hf.checkpoint.merge import copy_rest
from viscpm_hf.finetuning.chat import finetune_chat
from viscpm_hf.finetuning.dataset import ChatDataset, ChatStream
from viscpm_hf.finetuning.model import load_lora
from viscpm_hf.finetuning.paint import finetune_paint
from viscpm_hf.finetuning.paint_settings import read_paint_settings
from viscpm_hf.finetuning.pictures import load_picture
from viscpm_hf.finetuning.settings import SettingsError, read_settings
from viscpm_hf.tiny import tiny_chat_repo, tiny_paint_repo

OPTIONS = [
    *("--learning_rate inf", "--learning_rate nan", "--learning_rate -1", "--weight_decay -1", "--max_grad_norm -1"),
    *("--per_device_train_batch_size 0", "--per_device_eval_batch_size -1", "--gradient_accumulation_steps 0"),
    *("--save_steps 0", "--save_steps -1", "--logging_steps -1", "--max_steps 0", "--max_steps -5", "--data_seed -3"),
    *("--num_train_epochs 0", "--num_train_epochs nan", "--label_smoothing_factor 2", "--seed -1", "--adam_beta1 2"),
]
OWN = [
    *({"lora_r": 0}, {"lora_alpha": 0.0}, {"lora_alpha": float("nan")}, {"lora_alpha": float("inf")}),
    *({"lora_dropout": 2.0}, {"lora_dropout": float("nan")}, {"lora_targets": "("}, {"min_side": -1}),
    *({"mode": "full", "lora_r": 4}, {"mode": "full", "lora_targets": "x"}, {"mode": "full", "lora_alpha": 2.0}),
    *({"learning_rates": '{"": Infinity}'}, {"learning_rates": '{"": NaN}'}, {"learning_rates": '{"(": 1}'}),
]
GIVEN = {"model": "model", "data": ["data"], "output": "output"}


@pytest.mark.parametrize("read", [read_settings, read_paint_settings])
def test_numbers_that_mean_nothing(read):
    """transformers takes many of them, and divides by zero later, or trains nothing."""
    for option in OPTIONS:
        with pytest.raises(ValueError, match=r"(Got|Invalid) .*") as caught:
            read(GIVEN, ["--use_cpu", *option.split()])
        assert "\n" not in str(caught.value)
    for own in OWN:
        with pytest.raises(SettingsError, match=f"{'|'.join(own)}|full"):
            read({**GIVEN, **own}, ["--use_cpu"])
    read({**GIVEN, "mode": "full"}, ["--use_cpu", "--save_strategy", "no", "--save_steps", "0"])


def test_infinity_in_a_file(tmp_path):
    """YAML's .inf for a whole number was an OverflowError."""
    (tmp_path / "a.yaml").write_text("lora_r: .inf\n")
    with pytest.raises(SettingsError, match="lora_r"):
        read_settings(GIVEN, ["--use_cpu"], tmp_path / "a.yaml")


def test_the_language_model_of_a_lora_is_not_tuned():
    with pytest.raises(SettingsError, match="tune_llm"):
        read_settings({**GIVEN, "tune_llm": True}, ["--use_cpu"])


def test_what_a_run_left_is_not_copied_into_the_next(tmp_path):
    """The second stage of the paper has the first as its model, maybe inside of its folder."""
    model, output = tmp_path / "model", tmp_path / "model" / "next"
    for folder in ("checkpoint-2", "runs", "safety_checker", "next"):
        (model / folder).mkdir(parents=True)
        (model / folder / "file").touch()
    for name in ("finetune.json", "trainer_state.json", "left_out.jsonl", "vocab.txt", "model.safetensors"):
        (model / name).touch()
    copy_rest(model, output)
    assert sorted(path.name for path in output.iterdir()) == ["file", "safety_checker", "vocab.txt"]


def test_pictures_stand_upright(tmp_path):
    """As `viscpm chat` and the server turn them; a camera's notes that are damaged do not damage the picture."""
    exif = Image.Exif()
    for orientation, size in ((6, (30, 20)), (99, (20, 30))):
        exif[0x112] = orientation
        Image.new("RGB", (20, 30)).save(tmp_path / "a.jpg", exif=exif)
        assert load_picture("a.jpg", tmp_path).size == size
        assert load_picture((tmp_path / "a.jpg").read_bytes()).size == size


def test_a_line_in_another_encoding_is_a_broken_row(tmp_path):
    """It made the whole file unreadable, unless that was streamed."""
    rows = [{"question": "a", "answer": text} for text in ("é", "b")]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "a.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    data = ChatDataset(tmp_path / "a.jsonl", strict=False)
    stream = ChatStream(tmp_path / "a.jsonl")
    assert len(data) == len(list(stream)) == 1
    assert [each.reason for each in data.left_out] == [each.reason for each in stream.left_out]


def test_a_table_without_rows(tmp_path):
    """pyarrow's own words for it were shown, which name no file."""
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("datasets")
    from pyarrow import parquet

    table = pa.table({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())})
    parquet.write_table(table, tmp_path / "a.parquet")
    for read in (ChatDataset, lambda place: list(ChatStream(place))):
        with pytest.raises(ValueError, match=r"a\.parquet"):
            read(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    "targets", [".*embed_tokens", ".*patch_embedding", ".*relative_attention_bias", ".*(q_proj|lm_head)"]
)
def test_layers_that_cannot_be_merged_are_refused_before_training(chat_repo, targets):
    """They were trained, and refused by `viscpm merge` and VisCPMChat(adapter=…) afterwards."""
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match=r"lora_targets .* names .*, a \w+ that a LoRA cannot be merged into"):
        load_lora(chat_repo, torch.float32, targets=targets)


@pytest.mark.parametrize(("make", "part"), [(tiny_chat_repo, "."), (tiny_paint_repo, "text_encoder")])
def test_a_quantized_model_is_refused_before_anything_is_read(tmp_path, make, part):
    model = shutil.copytree(make(), tmp_path / "model")
    config = json.loads((model / part / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (model / part / "config.json").write_text(json.dumps(config))
    verb = finetune_chat if part == "." else finetune_paint
    read = read_settings if part == "." else read_paint_settings
    with pytest.raises(ValueError, match="model is quantized.*give what it was made of"):
        verb(*read({**GIVEN, "model": str(model), "output": str(tmp_path / "out")}, ["--use_cpu"]))
    assert not (tmp_path / "out").exists()
