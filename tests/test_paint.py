"""Guards VisCPMPaint, the drop-in: the original README's snippet, its switches, refusals, and what it warns of."""

import warnings

import pytest
import torch
from paint import GOLDEN, golden_pipeline, prompt_checker_parts, ranker_parts, safety_checker_parts
from PIL import Image

from viscpm_hf import UnsafeContentError, VisCPMPaint

SAFE, UNSAFE = "月", "血"
FAST = {"num_inference_steps": 2}


def generator():
    return torch.Generator().manual_seed(7)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A repository with both checkers, which refuse `UNSAFE` and blacken nothing painted here, and a ranker."""
    folder = tmp_path_factory.mktemp("complete")
    white, black = (Image.new("RGB", (32, 32), colour) for colour in ("white", "black"))
    golden_pipeline(
        **prompt_checker_parts(folder, SAFE, UNSAFE),
        **safety_checker_parts(unsafe=black, safe=white),
        **ranker_parts(folder, [SAFE, UNSAFE]),
    ).save_pretrained(folder / "repo")
    return folder / "repo"


def test_the_originals_snippet_works_with_another_import(paint_repo, tmp_path):
    painter = VisCPMPaint(paint_repo, image_safety_checker=False, prompt_safety_checker=False, add_ranker=False)
    image = painter.generate("人闲桂花落，月静春山空", **FAST)
    image.save(tmp_path / "picture.png")
    assert image.size == (32, 32) and (tmp_path / "picture.png").stat().st_size > 0


def test_it_paints_what_the_original_did(paint_repo):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        painter = VisCPMPaint(paint_repo, False, False, False, device="cpu", dtype=torch.float32)
    images = painter.generate(
        "海上生明月，天涯共此时",
        negative_prompt="blurry 模糊 qZ",
        num_images_per_prompt=2,
        image_size=32,
        generator=torch.Generator().manual_seed(20252),
    )
    for i, image in enumerate(images):
        recorded = Image.open(GOLDEN / f"paint_full_{i}.png").convert("RGB")
        difference = max(abs(a - b) for a, b in zip(image.tobytes(), recorded.tobytes(), strict=True))
        assert difference <= 1


def test_missing_parts_are_named_and_done_without(paint_repo):
    with pytest.warns(UserWarning) as caught:
        painter = VisCPMPaint(paint_repo)
    said = " ".join(str(warning.message) for warning in caught)
    for argument in ("image_safety_checker=False", "prompt_safety_checker=False", "add_ranker=False"):
        assert argument in said
    assert isinstance(painter.generate(SAFE, **FAST), Image.Image)


def test_switches_leave_parts_out(complete):
    painter = VisCPMPaint(complete, image_safety_checker=False, prompt_safety_checker=False, add_ranker=False)
    for part in ("safety_checker", "prompt_checker", "ranker", "ranker_processor"):
        assert getattr(painter.pipeline, part) is None
    assert painter.generate(UNSAFE, **FAST).size == (32, 32)


def test_refused_prompts_raise_and_others_are_ranked(complete):
    painter = VisCPMPaint(complete)
    with pytest.raises(UnsafeContentError, match="refused"):
        painter.generate(UNSAFE, **FAST)
    best = painter.generate(SAFE, generator=generator(), **FAST)
    candidates = painter.pipeline(
        SAFE, generator=generator(), num_images_per_prompt=4, num_candidates=1, **FAST
    ).images
    assert best.tobytes() in [candidate.tobytes() for candidate in candidates]


def test_english_prompts_skip_ranker_and_prompt_checker_with_a_warning(complete):
    painter = VisCPMPaint(complete)
    with pytest.warns(UserWarning, match="prompt_checker and ranker"):
        image = painter.generate("a red car", generator=generator(), **FAST)
    single = painter.pipeline("a red car", generator=generator(), num_candidates=1, **FAST).images[0]
    assert image.tobytes() == single.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        painter.generate(SAFE, **FAST)


def test_arguments_reach_the_pipeline(paint_repo):
    painter = VisCPMPaint(paint_repo, False, False, False)
    assert painter.generate(SAFE, image_size=16, **FAST).size == (16, 16)
    assert painter.generate(SAFE, height=16, width=32, **FAST).size == (32, 16)
    images = painter.generate(SAFE, num_images_per_prompt=3, generator=generator(), **FAST)
    assert len(images) == 3 and images[0].tobytes() != images[1].tobytes()


@pytest.mark.parametrize(
    "prompt, arguments, message",
    [
        (["月"], {}, "prompt is a text, got list"),
        (None, {}, "prompt is a text, got NoneType"),
        (SAFE, {"image_size": 30}, "multiple of 4"),
        (SAFE, {"num_images_per_prompt": 0}, "number from 1 on"),
        (SAFE, {"negative_prompt": 3}, "negative_prompt is a text"),
    ],
)
def test_bad_input_gets_one_sentence(paint_repo, prompt, arguments, message):
    painter = VisCPMPaint(paint_repo, False, False, False)
    with pytest.raises(ValueError, match=message):
        painter.generate(prompt, **{**FAST, **arguments})


def test_what_is_not_a_converted_paint_is_refused(paint_repo, tmp_path, chat_repo):
    with pytest.raises(ValueError, match=r"is a file.*convert_paint\.py --sd-base"):
        VisCPMPaint(paint_repo / "model_index.json")
    with pytest.raises(ValueError, match="has no model_index.json"):
        VisCPMPaint(chat_repo)
    with pytest.raises(ValueError, match="does not exist"):
        VisCPMPaint(tmp_path / "nowhere")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="holds a StableDiffusionPipeline"):
        VisCPMPaint(tmp_path)
