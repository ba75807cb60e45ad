"""Guards the image safety checker: it really blocks, is found where it should be, and never flags at random."""

import shutil

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil

from viscpm_hf import VisCPMChat
from viscpm_hf.safety import ImageSafetyChecker, UnsafeContentError, load_image_safety_checker

SAFE = Image.effect_mandelbrot((64, 48), (-2, -1.5, 1, 1.5), 100).convert("RGB")
UNSAFE = Image.new("RGB", (40, 60), "red")


def save_tiny_checker(folder):
    """A real checker of a few thousand parameters whose first concept is `UNSAFE`."""
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision |= {"image_size": 32, "patch_size": 8, "initializer_factor": 20.0}
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixel_values = processor([UNSAFE, SAFE], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        unsafe, safe = model.visual_projection(model.vision_model(pixel_values)[1])
        similarity = torch.cosine_similarity(unsafe, safe, dim=0)
        assert similarity < 0.9
        model.concept_embeds_weights.fill_(2.0)  # a cosine never reaches it
        model.special_care_embeds_weights.fill_(2.0)
        model.concept_embeds[0] = unsafe
        model.concept_embeds_weights[0] = (1 + similarity) / 2
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checker_folder(tmp_path_factory):
    return save_tiny_checker(tmp_path_factory.mktemp("checker"))


@pytest.fixture(scope="module")
def repo(checker_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repo")
    shutil.copytree(checker_folder, folder / "safety_checker")
    return folder


def test_flags_one_of_two_pictures_and_blocks_it(checker_folder):
    checker = ImageSafetyChecker.from_pretrained(checker_folder)
    assert checker.flags([SAFE, UNSAFE]) == [False, True]
    checker.check([SAFE])
    checker.check([])
    for pictures, which in (([UNSAFE], "The picture"), ([SAFE, UNSAFE], r"number \[2\]")):
        with pytest.raises(UnsafeContentError, match=f"{which}.*image_safety_checker=False"):
            checker.check(pictures)


def test_is_found_where_it_should_be(repo, checker_folder, tmp_path):
    assert load_image_safety_checker(False, repo) is None
    for choice, model_path in ((True, repo), (None, repo), (checker_folder, tmp_path), (str(repo), tmp_path)):
        assert load_image_safety_checker(choice, model_path).flags([SAFE, UNSAFE]) == [False, True]
    assert load_image_safety_checker(None, tmp_path) is None


def test_half_precision_files_run_in_full(checker_folder, tmp_path):
    StableDiffusionSafetyChecker.from_pretrained(checker_folder, dtype=torch.float16).save_pretrained(tmp_path)
    checker = ImageSafetyChecker.from_pretrained(tmp_path)  # and without preprocessor_config.json
    assert checker.model.dtype == torch.float32
    assert checker.flags([SAFE, UNSAFE]) == [False, True]


@pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 20000), (3000, 2)])
def test_odd_shapes_are_looked_at(checker_folder, size):
    checker = ImageSafetyChecker.from_pretrained(checker_folder)
    assert checker.flags([Image.new("RGB", size, "red")]) == [True]


def test_incomplete_or_missing_checker_is_one_sentence(checker_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(checker_folder, broken)
    weights = load_file(broken / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    empty = tmp_path / "empty"
    (empty / "safety_checker").mkdir(parents=True)
    for choice, model_path in ((broken, tmp_path), (empty, tmp_path), (True, empty), (None, empty), (True, tmp_path)):
        with pytest.raises(ValueError, match="image_safety_checker=False") as error:
            load_image_safety_checker(choice, model_path)
        assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def guarded_repo(chat_repo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded") / "repo"
    shutil.copytree(chat_repo, folder)
    save_tiny_checker(folder / "safety_checker")
    return folder


@pytest.mark.parametrize("choice", [5, 1.0, ["folder"], {}])
def test_what_names_no_checker_is_refused(choice):
    with pytest.raises(ValueError, match="image_safety_checker is True, False, None, or a folder or repository"):
        load_image_safety_checker(choice, "anywhere")


def test_chat_does_not_answer_about_an_unsafe_picture(guarded_repo):
    free = VisCPMChat(guarded_repo, image_safety_checker=False)
    question, options = "鲲鹏是什么颜色？", {"max_new_tokens": 8}
    assert free.chat(UNSAFE, question, **options)[0]
    for choice in (True, None, str(guarded_repo / "safety_checker")):
        guarded = VisCPMChat(guarded_repo, image_safety_checker=choice)
        answer, _, states = guarded.chat(SAFE, question, **options)
        assert answer == free.chat(SAFE, question, **options)[0]
        assert guarded.chat(UNSAFE, question, vision_hidden_states=states, **options)[0] == answer  # not looked at
        with pytest.raises(UnsafeContentError):
            guarded.chat(UNSAFE, question)
        with pytest.raises(UnsafeContentError):
            guarded.chat(UNSAFE.convert("RGBA"), question)
        with pytest.raises(UnsafeContentError):
            guarded.stream(UNSAFE, question)
        with pytest.raises(UnsafeContentError):
            guarded.batch_chat([{"image": SAFE, "question": "你"}, {"image": UNSAFE, "question": "你"}])
