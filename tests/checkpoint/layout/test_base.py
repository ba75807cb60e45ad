"""Guards what Paint takes from a Stable Diffusion folder: of the right release, whatever its files are called."""

import json
import os
import shutil

import pytest
import torch
from paint_original import stored
from safetensors.torch import load_file, save_file

from viscpm_hf.checkpoint import CheckpointError, verify

VAE = "diffusion_pytorch_model"


@pytest.fixture
def base(paint_original, tmp_path):
    """A copy of the golden Stable Diffusion folder that may be changed, with the UNet's configuration in it."""
    folder = shutil.copytree(paint_original / "sd_base", tmp_path / "base")
    (folder / "unet").mkdir()
    shutil.copy(paint_original / "unet_config.json", folder / "unet" / "config.json")
    return folder


def with_scheduler(base, **values):
    (base / "scheduler").mkdir()
    (base / "scheduler" / "scheduler_config.json").write_text(json.dumps(values))


def test_a_base_that_predicts_something_else_is_refused(convert_paint_to, base, tmp_path):
    """Stable Diffusion 2.1 instead of 2.1 base would convert, and paint wrongly."""
    with_scheduler(base, prediction_type="v_prediction")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        CheckpointError, match=r"prediction_type='v_prediction', so this is not .* 2.1 base.*--sd-base"
    ):
        convert_paint_to(sd_base=base)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("values", [{"prediction_type": "epsilon"}, {"_class_name": "PNDMScheduler"}])
def test_a_base_that_predicts_noise_is_taken(convert_paint_to, base, values):
    with_scheduler(base, **values)
    convert_paint_to(sd_base=base, unet_config=None)


def test_a_base_for_larger_pictures_is_refused_unless_its_unet_is_not_looked_at(convert_paint_to, base, tmp_path):
    config = base / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 96}))
    with pytest.raises(CheckpointError, match=r"sample_size=96, that of Stable Diffusion 2.1 for 768 pixels"):
        convert_paint_to(sd_base=base, unet_config=None)
    assert not (tmp_path / "out").exists()
    convert_paint_to(sd_base=base)


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_weights_in_half_precision_only_are_taken(convert_paint_to, base, paint_original, kind):
    (base / "vae" / f"{VAE}.safetensors").unlink()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[kind]
    halves = {
        name: t.to(dtype) for name, t in load_file(paint_original / "sd_base" / "vae" / f"{VAE}.safetensors").items()
    }
    save_file(halves, base / "vae" / f"{VAE}.{kind}.safetensors")
    with pytest.warns(UserWarning, match=f"in half precision only: {VAE}.{kind}.safetensors is taken"):
        out = convert_paint_to(sd_base=base)
    tensors = stored(out)
    assert all(torch.equal(tensors[f"vae/{name}"], tensor) for name, tensor in halves.items())
    results = verify(paint_original / "pytorch_model.bin", out, progress=False)
    assert not any(result.differences for result in results.values())


def test_other_files_are_named(convert_paint_to, base):
    weights = base / "vae" / f"{VAE}.safetensors"
    weights.rename(base / "vae" / f"{VAE}.non_ema.safetensors")
    with pytest.raises(CheckpointError, match=rf"expected vae/config.json .* found '{VAE}.non_ema.safetensors'; give"):
        convert_paint_to(sd_base=base)
    with pytest.raises(CheckpointError, match="is no folder; give --sd-base"):
        convert_paint_to(sd_base=base / "vae" / "config.json")


@pytest.mark.parametrize("name", [f"{VAE}.safetensors", f"{VAE}.bin", "config.json"])
def test_nothing_waits_for_a_pipe(convert_paint_to, base, name):
    shutil.rmtree(base / "vae") if name.endswith(".bin") else (base / "vae" / name).unlink()
    (base / "vae").mkdir(exist_ok=True)
    if name.endswith(".bin"):
        (base / "vae" / "config.json").write_text("{}")
    os.mkfifo(base / "vae" / name)
    with pytest.raises(CheckpointError, match=f"{name} is not a file|is not a Stable Diffusion repository"):
        convert_paint_to(sd_base=base)


def test_eight_bit_floats_are_named(convert_paint_to, base, paint_original, tmp_path):
    tensors = load_file(base / "vae" / f"{VAE}.safetensors")
    eight_bits = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}
    save_file(eight_bits, base / "vae" / f"{VAE}.safetensors")
    with pytest.raises(CheckpointError, match="as F8_E4M3, expected"):
        convert_paint_to(sd_base=base)
    checkpoint = torch.load(paint_original / "pytorch_model.bin", weights_only=True)
    torch.save({name: t.to(torch.float8_e5m2) for name, t in checkpoint.items()}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match="numbers in a type that no release has, such as float8"):
        convert_paint_to(tmp_path / "a.bin")
