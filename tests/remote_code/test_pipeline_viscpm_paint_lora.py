"""Guards LoRA in the Paint pipeline, of the UNet and its own text encoder: saved, loaded, weighed, fused, refused."""

import logging

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from paint import EXACT, add_lora, golden_pipeline, paint

from viscpm_hf import VisCPMPaintPipeline

OF = {"text_projection": {"target_modules": ["linear"]}}


@pytest.fixture
def said(caplog):
    """What diffusers logs."""
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    "parts",
    [
        ["unet"],
        ["text_encoder"],
        ["text_projection"],
        ["unet", "text_encoder"],
        ["unet", "text_projection", "text_encoder"],
    ],
)
def test_a_lora_is_saved_loaded_weighed_and_fused(pipe, tmp_path, said, parts):
    plain, trained = paint(pipe), golden_pipeline()
    layers = {f"{part}_lora_layers": add_lora(getattr(trained, part), **OF.get(part, {})) for part in parts}
    adapted = paint(trained)
    assert (adapted - plain).abs().max() > 1e-3
    VisCPMPaintPipeline.save_lora_weights(tmp_path, **layers)

    fresh = golden_pipeline()
    fresh.load_lora_weights(tmp_path)
    assert not [record for record in said.records if "unet" not in parts or record.levelno >= logging.WARNING] or (
        "unet" not in parts
    )
    assert fresh.get_list_adapters() == {part: ["default_0"] for part in parts}
    torch.testing.assert_close(paint(fresh), adapted, **EXACT)
    torch.testing.assert_close(paint(fresh, cross_attention_kwargs={"scale": 0.0}), plain, **EXACT)
    fresh.set_adapters("default_0", 0.0)
    torch.testing.assert_close(paint(fresh), plain, **EXACT)
    fresh.set_adapters("default_0", dict.fromkeys(parts, 0.5))
    half = paint(fresh)
    fresh.set_adapters("default_0")
    torch.testing.assert_close(paint(fresh, cross_attention_kwargs={"scale": 0.5}), half, **EXACT)
    fresh.fuse_lora()
    torch.testing.assert_close(paint(fresh), adapted, **EXACT)
    fresh.unfuse_lora()
    fresh.unload_lora_weights()
    torch.testing.assert_close(paint(fresh), plain, **EXACT)


@pytest.mark.parametrize("names", [["up_proj"], ["o_proj", "gate_proj", "down_proj"], "all-linear"])
@pytest.mark.parametrize("convert", [dict, convert_state_dict_to_diffusers])
def test_every_layer_of_the_text_encoder_takes_part(tmp_path, names, convert):
    trained, fresh = golden_pipeline(), golden_pipeline()
    layers = convert(add_lora(trained.text_encoder, target_modules=names))
    VisCPMPaintPipeline.save_lora_weights(tmp_path, text_encoder_lora_layers=layers, safe_serialization=False)
    fresh.load_lora_weights(tmp_path)
    assert torch.equal(paint(fresh), paint(trained))


def test_ranks_that_differ_and_factors_in_the_files_metadata(tmp_path):
    trained, fresh, again = golden_pipeline(), golden_pipeline(), golden_pipeline()
    pattern = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 2}}
    layers = add_lora(trained.text_encoder, **pattern)
    fresh.load_lora_weights({f"text_encoder.{name}": tensor for name, tensor in layers.items()})
    assert torch.equal(paint(fresh), paint(trained))
    layers = add_lora(again.text_encoder, lora_alpha=32)
    metadata = again.text_encoder.peft_config["default"].to_dict()
    VisCPMPaintPipeline.save_lora_weights(
        tmp_path, text_encoder_lora_layers=layers, text_encoder_lora_adapter_metadata=metadata
    )
    fresh.unload_lora_weights()
    fresh.load_lora_weights(tmp_path, adapter_name="strong")
    torch.testing.assert_close(paint(fresh), paint(again), atol=1e-3, rtol=0)


def test_loras_of_several_parts_have_one_name(pipe):
    unet, text = golden_pipeline(), golden_pipeline()
    of_unet = {f"unet.{name}": tensor for name, tensor in add_lora(unet.unet).items()}
    of_text = {f"text_encoder.{name}": tensor for name, tensor in add_lora(text.text_encoder).items()}
    both = golden_pipeline()
    both.load_lora_weights(of_unet)
    both.load_lora_weights({**of_unet, **of_text})
    assert both.get_list_adapters() == {"unet": ["default_0", "default_1"], "text_encoder": ["default_1"]}
    both.set_adapters(["default_0", "default_1"], [0.0, 1.0])
    adapted = paint(both)
    both.delete_adapters("default_0")
    torch.testing.assert_close(paint(both), adapted, **EXACT)
    both.delete_adapters("default_1")
    torch.testing.assert_close(paint(both), paint(pipe), **EXACT)


def test_the_text_part_of_another_model_is_left_out(said, pipe):
    other = golden_pipeline()
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora"
    text = {f"{layer}_A.weight": torch.ones(2, 32), f"{layer}_B.weight": torch.ones(24, 2)}
    unet = {f"unet.{name}": tensor for name, tensor in add_lora(golden_pipeline().unet).items()}
    other.load_lora_weights({**text, **unet})
    assert said.text.count("left out") == 1 and other.get_list_adapters() == {"unet": ["default_0"]}
    assert said.text.count("WARNING") == 1
    other.unload_lora_weights()
    torch.testing.assert_close(paint(other), paint(pipe), **EXACT)


def broken(case):
    layers = add_lora(golden_pipeline().text_encoder)
    down, up = "layers.0.self_attn.q_proj.lora_A.weight", "layers.0.self_attn.q_proj.lora_B.weight"
    return (
        layers
        | {
            "wider": {down: torch.ones(4, 99)},
            "longer": {up: torch.ones(99, 4)},
            "ranks": {up: torch.ones(layers[up].shape[0], 3)},
            "layers": {name.replace("layers.0", "layers.47"): layers[name] for name in (down, up)},
            "dora": {"layers.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(layers[up].shape[0])},
            "half": {down.replace("q_proj", "k_proj"): layers[down]},
            "no matrix": {down: torch.tensor(1.0)},
        }[case]
    )


@pytest.mark.parametrize("case", ["wider", "longer", "ranks", "layers", "dora", "half", "no matrix"])
def test_a_lora_that_does_not_fit_changes_nothing(pipe, case):
    other = golden_pipeline()
    kept = {f"unet.{name}": tensor for name, tensor in add_lora(golden_pipeline().unet).items()}
    other.load_lora_weights(kept)
    other.set_adapters("default_0", 0.5)
    before = paint(other)
    text = {f"text_encoder.{name}": tensor for name, tensor in broken(case).items()}
    with pytest.raises(ValueError, match="LoRA .*text encoder") as error:
        other.load_lora_weights({**kept, **text}, adapter_name="new")
    assert "\n" not in str(error.value)
    assert other.get_list_adapters() == {"unet": ["default_0"]} and torch.equal(paint(other), before)


def test_a_library_that_refuses_the_text_encoders_part_changes_nothing(monkeypatch):
    other = golden_pipeline()
    kept = {f"unet.{name}": tensor for name, tensor in add_lora(golden_pipeline().unet).items()}
    text = {f"text_encoder.{name}": tensor for name, tensor in add_lora(golden_pipeline().text_encoder).items()}
    other.load_lora_weights(kept)
    other.set_adapters("default_0", 0.5)
    before = paint(other)
    monkeypatch.setattr(type(other.text_encoder), "load_adapter", lambda *_, **__: int("x"), raising=False)
    with pytest.raises(ValueError, match="invalid literal"):
        other.load_lora_weights({**kept, **text}, adapter_name="new")
    assert other.get_list_adapters() == {"unet": ["default_0"]} and torch.equal(paint(other), before)


def test_names_in_use_and_hotswapping(pipe):
    other = golden_pipeline()
    layers = {f"text_encoder.{name}": tensor for name, tensor in add_lora(golden_pipeline().text_encoder).items()}
    other.load_lora_weights(layers, adapter_name="mine")
    adapted = paint(other)
    unet = {f"unet.{name}": tensor for name, tensor in add_lora(golden_pipeline().unet).items()}
    with pytest.raises(ValueError, match="cannot exchange its LoRA 'mine'"):
        other.load_lora_weights({**unet, **layers}, adapter_name="mine")
    assert "unet" not in other.get_list_adapters() or not other.get_list_adapters()["unet"]
    for options in ({}, {"hotswap": True}):
        with pytest.raises(ValueError, match="cannot exchange its LoRA 'mine'"):
            other.load_lora_weights(layers, adapter_name="mine", **options)
    assert torch.equal(paint(other), adapted)
    without = golden_pipeline(text_encoder=None, tokenizer=None, text_projection=None)
    without.load_lora_weights(layers)
    assert without.get_list_adapters() == {}


def test_a_pipeline_with_a_lora_is_not_saved_without_a_word(pipe, tmp_path):
    for part in ("unet", "text_encoder"):
        other = golden_pipeline()
        add_lora(getattr(other, part))
        adapted = paint(other)
        for prepare in (
            lambda other=other: None,
            other.fuse_lora,
            lambda other=other: other.delete_adapters("default"),
        ):
            prepare()
            with pytest.raises(ValueError, match=f"{part} has a LoRA.*unload_lora_weights"):
                other.save_pretrained(tmp_path / part)
            assert not (tmp_path / part).exists()
        other.unload_lora_weights()
        other.save_pretrained(tmp_path / part)
        loaded = VisCPMPaintPipeline.from_pretrained(tmp_path / part)
        loaded.set_progress_bar_config(disable=True)
        torch.testing.assert_close(paint(loaded), adapted, **EXACT)  # it was fused


def test_transformers_saves_one_lora_beside_the_model_it_was_added_to(tmp_path):
    """Without a file of its own the text encoder is loaded from where it was; so no more than that is saved."""
    pipe = golden_pipeline()
    pipe.text_encoder.save_pretrained(tmp_path / "text_encoder")
    pipe.text_encoder.name_or_path = str(tmp_path / "text_encoder")
    add_lora(pipe.text_encoder)
    adapted = paint(pipe)
    pipe.save_pretrained(tmp_path / "pipeline")
    loaded = VisCPMPaintPipeline.from_pretrained(tmp_path / "pipeline")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(paint(loaded), adapted)
    for change in (
        lambda: pipe.set_adapters("default", 0.5),
        lambda: (pipe.set_adapters("default"), pipe.disable_lora()),
        lambda: (pipe.enable_lora(), pipe.fuse_lora()),
        lambda: (pipe.unfuse_lora(), add_lora(pipe.text_encoder, adapter_name="second")),
    ):
        change()
        with pytest.raises(ValueError, match="text_encoder has a LoRA"):
            pipe.save_pretrained(tmp_path / "not")


@pytest.mark.parametrize("case", ["wider", "longer", "ranks", "norm", "half"])
def test_a_lora_that_does_not_fit_the_projection_changes_nothing(pipe, case):
    other, layers = golden_pipeline(), add_lora(golden_pipeline().text_projection, **OF["text_projection"])
    down, up = "linear.lora_A.weight", "linear.lora_B.weight"
    changed = {
        "wider": {down: torch.ones(4, 99)},
        "longer": {up: torch.ones(99, 4)},
        "ranks": {up: torch.ones(layers[up].shape[0], 3)},
        "norm": {"norm.lora_A.weight": torch.ones(4, 4)},
        "half": {},
    }[case]
    layers = {**layers, **changed}
    if case == "half":
        del layers[up]
    unet = {f"unet.{name}": tensor for name, tensor in add_lora(golden_pipeline().unet).items()}
    with pytest.raises(ValueError, match="does not fit the text projection, which maps 32 to 24") as error:
        other.load_lora_weights({**unet, **{f"text_projection.{name}": one for name, one in layers.items()}})
    assert "\n" not in str(error.value)
    assert other.get_list_adapters() == {} and torch.equal(paint(other), paint(pipe))


def test_a_projection_of_an_older_repository_takes_no_lora(pipe):
    layers = add_lora(golden_pipeline().text_projection, **OF["text_projection"])
    older = torch.nn.Module()
    other = golden_pipeline()
    kept = {"tokenizer": other.tokenizer, "text_encoder": other.text_encoder, "unet": other.unet, "vae": other.vae}
    other = golden_pipeline(**kept, text_projection=older)
    with pytest.raises(ValueError, match="viscpm refresh"):
        other.load_lora_weights({f"text_projection.{name}": one for name, one in layers.items()})
    other.load_lora_weights({f"unet.{name}": one for name, one in add_lora(golden_pipeline().unet).items()})
    other.set_adapters("default_0", 0.5)
    other.fuse_lora()
    other.unload_lora_weights()


def test_another_lora_that_fails_takes_the_projections_with_it(pipe):
    other = golden_pipeline()
    projection = add_lora(golden_pipeline().text_projection, **OF["text_projection"])
    text = {f"text_encoder.{name}": tensor for name, tensor in broken("wider").items()}
    with pytest.raises(ValueError, match="LoRA .*text encoder"):
        other.load_lora_weights({**text, **{f"text_projection.{name}": one for name, one in projection.items()}})
    assert not any(other.get_list_adapters().values()) and torch.equal(paint(other), paint(pipe))
