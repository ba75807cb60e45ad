"""Guards VisCPMPaint(lora=…) and `viscpm paint --lora`: as a pipeline with it, and a sentence for what is none."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from viscpm_hf import VisCPMPaint, VisCPMPaintPipeline
from viscpm_hf.cli import main
from viscpm_hf.finetuning.paint import _write_lora
from viscpm_hf.finetuning.paint_model import load_learner
from viscpm_hf.tiny import tiny_paint_repo

WEIGHTS = "pytorch_lora_weights.safetensors"
FEW = {"num_inference_steps": 2, "generator": 0}
PROMPT = "一个红色的圆形"
peft = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """As a run writes it, of random numbers."""
    folder = tmp_path_factory.mktemp("lora")
    learner = load_learner(tiny_paint_repo(), "lora", torch.float32, r=2, alpha=32.0)
    torch.manual_seed(0)
    for parameter in learner.trained().values():
        parameter.data.normal_(0, 0.3)
    _write_lora(folder, learner, "VisCPM-Paint")
    return folder


def painter(**options):
    return VisCPMPaint(tiny_paint_repo(), False, False, False, **options)


def test_it_paints_what_a_pipeline_with_it_paints(lora, tmp_path, capsys):
    pipe = VisCPMPaintPipeline.from_pretrained(tiny_paint_repo())
    pipe.load_lora_weights(lora)
    expected = pipe(PROMPT, negative_prompt="", **FEW).images[0]
    assert painter(lora=lora).generate(PROMPT, negative_prompt="", **FEW).tobytes() == expected.tobytes()
    assert painter().generate(PROMPT, negative_prompt="", **FEW).tobytes() != expected.tobytes()
    options = ["--seed", "0", "--steps", "2", "--guidance", "7.5", "--output", str(tmp_path / "out")]
    assert main(["paint", PROMPT, *options, "--lora", str(lora)]) == 0
    picture = Image.open(capsys.readouterr().out.strip())
    assert picture.tobytes() == expected.tobytes() and picture.text["lora"] == str(lora)


def without_b(tensors):
    return {name: tensor for name, tensor in tensors.items() if "lora_B" not in name}


def narrower(tensors):
    return {name: tensor[:, :-1].contiguous() if "lora_A" in name else tensor for name, tensor in tensors.items()}


def of_something_else(tensors):
    return {f"transformer.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (None, "holds no pytorch_lora_weights.safetensors"),
        (lambda folder, _: (folder / "model_index.json").write_text("{}"), "holds a whole model"),
        (lambda folder, _: (folder / "adapter_config.json").write_text("{}"), "holds an adapter of VisCPM-Chat"),
        (lambda folder, _: (folder / WEIGHTS).write_bytes(b"hello"), "is no LoRA that"),
        (lambda folder, found: save_file(without_b(found), folder / WEIGHTS), "is no LoRA that"),
        (lambda folder, found: save_file(narrower(found), folder / WEIGHTS), "is no LoRA that"),
        (lambda folder, found: save_file(of_something_else(found), folder / WEIGHTS), "is (no|a) LoRA"),
    ],
)
def test_what_is_none_is_a_sentence(lora, tmp_path, make, sentence):
    if make is not None:
        make(tmp_path, load_file(lora / WEIGHTS))
    with pytest.raises(ValueError, match=sentence) as error:
        painter(lora=tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_what_is_nowhere_and_a_limit_of_memory(lora, tmp_path):
    with pytest.raises(ValueError, match="/nowhere/at/all is no LoRA that"):
        painter(lora="/nowhere/at/all")
    with pytest.raises(ValueError, match="A LoRA and a limit of memory do not go together"):
        painter(lora=lora, memory="1GB")
    assert "unet" in painter(lora=str(lora / WEIGHTS)).pipeline.get_list_adapters()
