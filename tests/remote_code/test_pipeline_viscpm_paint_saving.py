"""Guards saving and loading of the Paint pipeline: by the package or without it, trusted, from a Hub, quantized."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, PipelineQuantizationConfig
from hub import LocalHub
from paint import EXACT, PROMPT, golden_pipeline, paint

import viscpm_hf
from viscpm_hf import VisCPMPaintPipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory, safety_checker, prompt_checker, ranker):
    """A pipeline with all parts, saved by the installed class."""
    folder = tmp_path_factory.mktemp("saved") / "paint"
    golden_pipeline(**safety_checker, **prompt_checker, **ranker).save_pretrained(folder)
    return folder


FILES = {
    "model_index.json",
    "pipeline_viscpm_paint.py",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/modeling_cpmbee.py",
    "text_projection/config.json",
    "text_projection/diffusion_pytorch_model.safetensors",
    "text_projection/modeling_viscpm_paint.py",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.txt",
    "tokenizer/tokenization_cpmbee.py",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
}


def check_folder(folder):
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert FILES <= found
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_viscpm_paint", "VisCPMPaintPipeline"]
    assert index["text_encoder"] == ["modeling_cpmbee", "CpmBeeModel"]
    assert index["text_projection"] == ["modeling_viscpm_paint", "VisCPMPaintTextProjection"]
    assert index["tokenizer"] == ["tokenization_cpmbee", "CpmBeeTokenizer"]
    source = Path(viscpm_hf.__file__).parent / "remote_code"
    for path in folder.rglob("*.py"):
        assert path.read_bytes() == (source / path.name).read_bytes()
    return index


def load(cls, folder, **options):
    pipe = cls.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_saved_pipeline_loads_without_trust(folder, pipe):
    index = check_folder(folder)
    assert index["feature_extractor"] == ["transformers", "CLIPImageProcessor"]
    assert index["ranker_processor"] == ["transformers", "ChineseCLIPProcessor"]
    loaded = load(VisCPMPaintPipeline, folder)
    assert type(loaded) is VisCPMPaintPipeline and type(loaded.text_encoder) is viscpm_hf.CpmBeeModel
    alone = {"num_candidates": 1, "num_images_per_prompt": 2}
    assert torch.equal(paint(loaded, **alone)[1], paint(pipe, num_images_per_prompt=2)[1])
    without = load(VisCPMPaintPipeline, folder, safety_checker=None, prompt_checker=None, ranker=None)
    assert torch.equal(paint(without), paint(pipe))
    given = load(VisCPMPaintPipeline, folder, text_encoder=loaded.text_encoder, tokenizer=loaded.tokenizer)
    assert given.text_encoder is loaded.text_encoder


def test_parts_are_switched_off_and_saved_so(folder, tmp_path, pipe):
    text = dict.fromkeys(("tokenizer", "text_encoder", "text_projection"))
    loaded = load(VisCPMPaintPipeline, folder, **text)
    assert loaded.text_encoder is None and loaded.unet is not None
    off = dict.fromkeys(("safety_checker", "feature_extractor", "ranker", "ranker_processor"))
    load(VisCPMPaintPipeline, folder, **off).save_pretrained(tmp_path)
    assert check_folder(tmp_path)["ranker"] == [None, None] and not (tmp_path / "ranker").exists()
    again = load(VisCPMPaintPipeline, tmp_path)
    assert again.ranker is None and again.prompt_checker is not None
    assert torch.equal(paint(again), paint(pipe))


def test_optional_parts_can_be_taken_out_later(folder, tmp_path, pipe):
    loaded = load(VisCPMPaintPipeline, folder)
    assert set(loaded.components) == set(pipe.components)
    for name in loaded._optional_components:
        setattr(loaded, name, None)
    assert torch.equal(paint(loaded), paint(pipe))
    loaded.save_pretrained(tmp_path)
    again = load(VisCPMPaintPipeline, tmp_path)
    assert all(getattr(again, name) is None for name in again._optional_components)


def test_a_variant_that_is_not_there_is_an_error(folder):
    with pytest.raises(ValueError, match="no such modeling files are available"):
        VisCPMPaintPipeline.from_pretrained(folder, variant="fp16")


def test_mixed_and_stored_precisions(folder, tmp_path):
    dtype = {"text_encoder": torch.float16, "default": torch.float32}
    faithful = load(VisCPMPaintPipeline, folder, dtype=dtype)
    assert faithful.text_encoder.dtype == torch.float16 and faithful.unet.dtype == torch.float32
    assert paint(faithful, num_candidates=2).isfinite().all()
    faithful.to(torch.bfloat16).save_pretrained(tmp_path, variant="bf16")
    loaded = load(VisCPMPaintPipeline, tmp_path, variant="bf16", dtype=torch.bfloat16)
    assert (tmp_path / "unet/diffusion_pytorch_model.bf16.safetensors").exists()
    assert paint(loaded, num_candidates=2).dtype == torch.bfloat16


REMOTE = """
import json, sys
sys.modules["viscpm_hf"] = None  # from here on every import of it is an ImportError
import torch
from diffusers import DiffusionPipeline

folder, again, prompt = sys.argv[1:]
found = []
for source in (folder, again, "local/paint"):
    pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True, ranker=None, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(prompt, num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)).images
    found.append({"image": image.flatten().tolist(), "class": type(pipe).__module__, "ranker": pipe.ranker is None})
    if source == folder:
        pipe.save_pretrained(again, push_to_hub=True, repo_id="local/paint")
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_process_without_the_package_loads_saves_and_uploads(folder, tmp_path, pipe):
    with LocalHub(tmp_path / "hub") as hub:
        env = hub.environment(tmp_path / "home")
        arguments = [sys.executable, "-c", REMOTE, str(folder), str(tmp_path / "again"), PROMPT]
        done = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for found in json.loads(done.stdout):
        assert found["class"] == "diffusers_modules.local.pipeline_viscpm_paint" and found["ranker"]
        torch.testing.assert_close(torch.tensor(found["image"]), paint(pipe).flatten(), **EXACT)
    for saved in (tmp_path / "again", tmp_path / "hub/local/paint"):
        assert check_folder(saved)["ranker"] == [None, None]


TWO = """
import sys
from pathlib import Path
from diffusers import DiffusionPipeline

a, b, out = map(Path, sys.argv[1:])

def load(folder):
    return DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)

first, second = load(a), load(b)
third = load(a)
mixed = type(first).from_pipe(third, text_projection=second.text_projection)
for name, pipe in {"a": first, "b": second, "a again": third, "mixed": mixed}.items():
    pipe.save_pretrained(out / name)
    assert load(out / name).MARK == pipe.MARK
"""


@pytest.mark.slow
def test_each_of_two_repositories_is_saved_with_its_own_code(folder, tmp_path):
    """diffusers runs the code of all repositories from one file, which holds the last one loaded."""
    sources, marked = {}, ("pipeline_viscpm_paint", "text_projection/modeling_viscpm_paint")
    marked += ("text_encoder/modeling_cpmbee", "tokenizer/tokenization_cpmbee")
    for mark in "ab":
        shutil.copytree(folder, tmp_path / mark, ignore=shutil.ignore_patterns("*checker*", "*ranker*", "*extractor*"))
        index = json.loads((tmp_path / mark / "model_index.json").read_text())
        index |= {name: [None, None] for name in index if any(word in name for word in ("checker", "ranker", "extr"))}
        index["prompt_checker_threshold"] = 0.5
        index["requires_safety_checker"] = False
        (tmp_path / mark / "model_index.json").write_text(json.dumps(index))
        for name in marked:
            path = tmp_path / mark / f"{name}.py"
            text = path.read_text().replace(
                "_callback_tensor_inputs =", f"MARK = {mark!r}\n    _callback_tensor_inputs =", 1
            )
            path.write_text(text + f"\n# the code of {mark}\n")
            sources[mark, name] = path.read_text()
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", TWO, *map(str, (tmp_path / "a", tmp_path / "b", out))]
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for saved in ("a", "b", "a again", "mixed"):
        for name in marked:
            mark = "b" if saved == "mixed" and "text_projection" in name else saved[0].replace("m", "a")
            assert (out / saved / f"{name}.py").read_text() == sources[mark, name], (saved, name)


def test_trust_is_asked_for_where_remote_code_runs(folder):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(folder)


def test_quantized_text_encoder(folder, pipe):
    torchao = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    config = PipelineQuantizationConfig(
        quant_mapping={"text_encoder": TorchAoConfig(torchao.Int8WeightOnlyConfig(version=2))}
    )
    off = dict.fromkeys(("safety_checker", "prompt_checker", "ranker"))
    loaded = load(VisCPMPaintPipeline, folder, quantization_config=config, dtype=torch.float32, **off)
    assert "Int8" in type(loaded.text_encoder.layers[0].mlp.up_proj.weight).__name__
    image = paint(loaded)
    assert 0 < (image - paint(pipe)).abs().mean() < 0.05
    assert torch.equal(paint(loaded), image)


def test_the_package_exports_it_lazily():
    script = "import sys, viscpm_hf as v; assert 'diffusers' not in sys.modules; print(v.VisCPMPaintPipeline.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "VisCPMPaintPipeline", done.stderr[-3000:]
