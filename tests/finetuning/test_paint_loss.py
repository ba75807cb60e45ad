"""Guards what Paint learns from: the original's loss, and batches that show the UNet what painting shows it."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from paint import golden_components
from PIL import Image
from safetensors.torch import load_file

from viscpm_hf.finetuning.dataset import ChatSample
from viscpm_hf.finetuning.paint_cache import TensorCache, digest_of
from viscpm_hf.finetuning.paint_data import PaintCollator, PaintDataset, prepare_latents, prepare_states
from viscpm_hf.finetuning.paint_model import PaintLearner

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    tensors = load_file(GOLDEN / "paint_golden.safetensors")
    return json.loads((GOLDEN / "paint_golden.json").read_text())["train"], {
        name.removeprefix("train."): tensor for name, tensor in tensors.items() if name.startswith("train.")
    }


@pytest.fixture
def parts():
    return golden_components()


def learner(parts, **options):
    return PaintLearner(
        parts["unet"], parts["text_projection"], parts["scheduler"], parts["vae"].config.scaling_factor, **options
    ).eval()


def read(folder, parts, captions):
    cache = TensorCache(folder)
    prepare_states(cache, captions, parts["tokenizer"], lambda: parts["text_encoder"], torch.device("cpu"))
    return cache


def collator(parts, states, **options):
    vae = parts["vae"].config
    size = 32 // 2 ** (len(vae.block_out_channels) - 1)
    return PaintCollator(parts["tokenizer"], vae.latent_channels, size, 1000, 64, states=states, **options)


def sample(caption, seed=1):
    return ChatSample(caption=caption, seed=seed, picture=Image.new("RGB", (32, 32), "red"))


@pytest.mark.parametrize("encoded", ["pictures", "moments"])
def test_the_loss_is_the_originals(golden, parts, tmp_path, encoded):
    case, tensors = golden
    states = read(tmp_path, parts, case["prompts"])
    batch = collator(parts, states, padding="batch")([sample(caption) for caption in case["prompts"]])
    assert batch["states"].shape[1] == tensors["input_ids"].shape[1] and "states_mask" not in batch
    inputs = {"states": batch["states"], "noise": tensors["noise"], "timesteps": tensors["timesteps"]}
    inputs["vae_noise"] = tensors["vae_eps"]
    if encoded == "pictures":
        model, inputs["pixel_values"] = learner(parts, vae=parts["vae"]), tensors["pixel_values"]
    else:
        moments = torch.cat([tensors["vae_mean"], 2 * tensors["vae_std"].log()], 1)
        model, inputs["moments"] = learner(parts), moments
    assert float(model(**inputs)["loss"]) == pytest.approx(case["loss"], abs=1e-5)


def test_states_are_those_of_the_original(parts, tmp_path):
    recorded = load_file(GOLDEN / "paint_golden.safetensors")
    prompt = json.loads((GOLDEN / "paint_golden.json").read_text())["prompts"][0]["prompt"]
    one, states = collator(parts, read(tmp_path, parts, [prompt])), None
    states = one.padded(one.states_of(""), recorded["p0.uncond.hidden_states"].shape[1])
    torch.testing.assert_close(states, recorded["p0.uncond.hidden_states"][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.states_of(prompt), recorded["p0.cond.hidden_states"][0], atol=1e-5, rtol=1e-5)


def test_of_a_batch_each_caption_is_seen_as_if_alone(parts, tmp_path):
    """Also in place of a caption that was dropped stands what painting shows without a prompt."""
    captions = ["北京", "a red car on 鲲鹏 street"]
    states, model = read(tmp_path, parts, captions), learner(parts, vae=parts["vae"])
    for dropout in (0.0, 1.0):
        own = collator(parts, states, caption_dropout=dropout)
        together = own([sample(caption, seed) for seed, caption in enumerate(captions)])
        assert together["states_mask"].sum(1).tolist() == [len(states[digest_of(caption)]) for caption in captions]
        alone = [float(model(**own([sample(caption, seed)]))["loss"]) for seed, caption in enumerate(captions)]
        assert float(model(**together)["loss"]) == pytest.approx(sum(alone) / 2, abs=1e-5)
    assert torch.equal(together["states"][0], own.padded(own.states_of(""), together["states"].shape[1]))
    assert torch.equal(own([sample("北京", 3)])["noise"], own([sample("北京", 3)])["noise"])


def test_options_of_noise_and_weight(parts, tmp_path):
    states = read(tmp_path, parts, ["北京"])
    plain, offset = (collator(parts, states, offset_noise=much)([sample("北京", 5)]) for much in (0.0, 0.5))
    shift = (offset["noise"] - plain["noise"]).flatten(2)
    assert shift.abs().min() > 0
    torch.testing.assert_close(shift, shift[..., :1].expand_as(shift))
    few = collator(parts, states, caption_dropout=0.25)
    dropped = [len(few([sample("北京", seed)])["states"][0]) for seed in range(5)]
    assert len(set(dropped)) == 1  # padded to what it stands for
    whole = collator(parts, states)([sample("北京", 6)])
    scheduler, loss = parts["scheduler"], float(learner(parts, vae=parts["vae"])(**whole)["loss"])
    snr = float(compute_snr(scheduler, whole["timesteps"]))
    for gamma in (snr / 2, snr * 2):
        weighed = learner(parts, vae=parts["vae"], snr_gamma=gamma)
        assert float(weighed(**whole)["loss"]) == pytest.approx(loss * min(gamma, snr) / snr, rel=1e-5)
    parts["scheduler"] = DDPMScheduler.from_config(scheduler.config, prediction_type="v_prediction")
    assert float(learner(parts, vae=parts["vae"])(**whole)["loss"]) != pytest.approx(loss)


def test_states_are_read_once_and_kept(parts, tmp_path):
    first = read(tmp_path, parts, ["北京", "北京", "a cat"])
    kept = {name: first[name] for name in map(digest_of, ("北京", "a cat", ""))}
    parts["text_encoder"] = None  # nothing is read again
    again = read(tmp_path, parts, ["a cat", "北京"])
    assert all(torch.equal(again[name], tensor) for name, tensor in kept.items())
    with pytest.raises(AttributeError):
        read(tmp_path, parts, ["a dog"])
    (tmp_path / "000000.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"000000\.safetensors is damaged"):
        TensorCache(tmp_path)


def test_pictures_are_encoded_once_and_alike(parts, tmp_path):
    pictures = [Image.effect_noise((40, 64), 90).convert("RGB") for _ in range(5)]
    pictures[0].save(tmp_path / "a.png")
    rows = [{"image": "a.png", "text": "left"}, *({"image": picture, "text": "a cat"} for picture in pictures[1:])]
    rows.append({"image": pictures[2], "text": "a dog"})
    cache = TensorCache(tmp_path / "cache")
    first, second = (PaintDataset(rows, tmp_path, resolution=32) for _ in range(2))
    prepare_latents(cache, [first], parts["vae"], torch.device("cpu"))
    prepare_latents(TensorCache(tmp_path / "cache"), [second], None, torch.device("cpu"))
    assert first.names == second.names and len(set(first.names.values())) == 5
    for index in range(6):
        picture = PaintDataset(rows, tmp_path, resolution=32)[index]["picture"]
        pixels = PaintCollator(parts["tokenizer"], 4, 8, 1000, 64).processor.preprocess(picture)
        with torch.no_grad():
            expected = parts["vae"].encode(pixels).latent_dist.parameters[0]
        torch.testing.assert_close(cache[second[index]["picture"]], expected, atol=1e-5, rtol=1e-4)


def test_pictures_are_cut_and_mirrored_where_the_caption_allows_it():
    picture = Image.linear_gradient("L").rotate(90).resize((96, 64)).convert("RGB")
    rows = [{"image": picture, "text": text} for text in ("a slope", "dark on the left", "左边是黑的", "Copyright")]
    plain = PaintDataset(rows, resolution=64)
    varied = PaintDataset(rows, resolution=64, random_crop=True, random_flip=True)
    for index, number in enumerate((16, 1, 1, 16)):
        seen = {varied[epoch, index]["picture"].tobytes() for epoch in range(16)}
        assert (
            plain[index]["picture"].size == (64, 64)
            and len({plain[e, index]["picture"].tobytes() for e in (0, 1)}) == 1
        )
        assert (len(seen) > 8) == (number > 1)
        assert number > 1 or seen == {plain[index]["picture"].tobytes()}
        assert varied[3, index]["picture"].tobytes() == varied[3, index]["picture"].tobytes()
