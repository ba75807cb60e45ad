"""Guards VisCPMPaint, the drop-in: the original README's snippet, its switches, refusals, and what it warns of."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from paint import GOLDEN, add_lora, golden_pipeline, prompt_checker_parts, ranker_parts, safety_checker_parts
from PIL import Image

from viscpm_hf import UnsafeContentError, VisCPMPaint, VisCPMPaintPipeline

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


@pytest.fixture(scope="module")
def painter(complete):
    """With all parts; shared, so tests leave it as it was."""
    return VisCPMPaint(complete)


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
    assert {warning.filename for warning in caught} == {__file__}  # where the user's own line is
    assert isinstance(painter.generate(SAFE, **FAST), Image.Image)


@pytest.mark.parametrize(
    "dtype, text_encoder, unet, vae",
    [
        ("bfloat16", torch.bfloat16, torch.bfloat16, torch.bfloat16),
        ("float16", torch.float16, torch.float16, torch.float16),
        ({"unet": "bfloat16", "text_encoder": torch.float16}, torch.float16, torch.bfloat16, torch.float32),
        ({"default": "bfloat16", "vae": "float32"}, torch.bfloat16, torch.bfloat16, torch.float32),
    ],
)
@pytest.mark.parametrize("memory", [None, "5GB"])
def test_dtypes_in_words_and_by_part_are_those_of_the_parts(paint_repo, dtype, text_encoder, unet, vae, memory):
    """diffusers reads every text as float32."""
    painter = VisCPMPaint(paint_repo, False, False, False, device="cpu", dtype=dtype, memory=memory).pipeline
    assert (painter.text_encoder.dtype, painter.unet.dtype, painter.vae.dtype) == (text_encoder, unet, vae)


@pytest.mark.parametrize(
    "option, value",
    [
        *(("dtype", value) for value in ("float17", "int8", "float8_e5m2", torch.int8, 5, [torch.float16])),
        *(("dtype", {"unet": value}) for value in ("x", None, "auto", {"a": torch.float16}, torch.float8_e4m3fn, 5)),
        *(("dtype", {name: torch.float16}) for name in ("unett", "scheduler", "blocks", 5, None)),
        *(("device", value) for value in ("meta", "cuda:99", "nope", "cpu:x", "", [1], 999)),
    ],
)
def test_devices_and_dtypes_that_are_none_are_refused_before_loading(paint_repo, monkeypatch, option, value):
    monkeypatch.setattr(VisCPMPaintPipeline, "from_pretrained", None)
    with pytest.raises(ValueError, match="^(Got .* dtype|There is no .* to run on here).*[.]$") as error:
        VisCPMPaint(paint_repo, False, False, False, **{option: value})
    assert type(error.value) is ValueError and len(str(error.value)) < 300


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
        (SAFE, {"guidance_scale": float("nan")}, "guidance_scale is a number"),
        (SAFE, {"generator": "7"}, "generator is a torch.Generator or a seed"),
        (SAFE, {"timesteps": 5}, "timesteps is a list"),
        (SAFE, {"return_dict": False}, "got return_dict: call `pipeline`"),
        (SAFE, {"prompt_embeds": torch.zeros(1)}, "got prompt_embeds: call `pipeline`"),
        ("a car", {"guidance_scale": "7.5"}, "guidance_scale is a number"),
        ("a car", {"guidance_scale": None}, "guidance_scale is a number"),
        ("a car", {"num_candidates": 2}, "choosing needs"),
        ("a car", {"cross_attention_kwargs": [1]}, "cross_attention_kwargs is a dict"),
        ("a car \ud800", {}, "halves of characters"),
        ("a car" * 1000, {}, "at most 4096 characters"),
    ],
)
def test_bad_input_gets_one_sentence(painter, prompt, arguments, message):
    with pytest.raises(ValueError, match=message) as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        painter.generate(prompt, **{**FAST, **arguments})
    assert "\n" not in str(error.value)


def test_unknown_arguments_are_named(painter):
    with pytest.raises(TypeError, match="nonsense"):
        painter.generate(SAFE, nonsense=1)


@pytest.mark.parametrize("argument", ["image_safety_checker", "prompt_safety_checker", "add_ranker"])
def test_switches_are_true_or_false(paint_repo, argument):
    with pytest.raises(ValueError, match=f"{argument} is True or False, got 'folder'"):
        VisCPMPaint(paint_repo, **{argument: "folder"})


def test_threads_get_their_own_pictures(painter):
    """Of one painter with fast tokenizers, checkers and ranker, by scale, number and size, in two languages."""
    jobs = [
        ("a red car", {"guidance_scale": 3.0}),
        (SAFE, {"num_images_per_prompt": 2}),
        (SAFE, {"image_size": 16, "num_inference_steps": 5}),
        ("a dog", {"guidance_scale": 1.0}),
    ] * 2

    def paint(job):
        images = painter.generate(job[0], **{**FAST, "generator": 3, **job[1]})
        return [image.tobytes() for image in (images if isinstance(images, list) else [images])]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [paint(job) for job in jobs]
        with ThreadPoolExecutor(len(jobs)) as pool:
            assert list(pool.map(paint, jobs, timeout=240)) == expected


def test_the_scale_of_a_lora_counts_in_both_languages(complete):
    painter = VisCPMPaint(complete)
    for prompt in (SAFE, "a car"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = painter.generate(prompt, generator=1, **FAST).tobytes()
            add_lora(painter.pipeline.text_encoder)
            adapted = painter.generate(prompt, generator=1, **FAST).tobytes()
            off = painter.generate(prompt, generator=1, cross_attention_kwargs={"scale": 0.0}, **FAST).tobytes()
        assert off == plain != adapted
        painter.pipeline.unload_lora_weights()


def test_what_is_not_a_converted_paint_is_refused(paint_repo, tmp_path, chat_repo):
    with pytest.raises(ValueError, match=r"is a file.*viscpm convert paint --sd-base"):
        VisCPMPaint(paint_repo / "model_index.json")
    with pytest.raises(ValueError, match="has no model_index.json"):
        VisCPMPaint(chat_repo)
    with pytest.raises(ValueError, match="does not exist"):
        VisCPMPaint(tmp_path / "nowhere")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="holds a StableDiffusionPipeline"):
        VisCPMPaint(tmp_path)


def test_several_prompts_are_painted_at_once_with_flags(complete):
    """paint() is generate() for a server; one batch is of one language where only Chinese is checked and ranked."""
    painter = VisCPMPaint(complete)
    output = painter.paint([SAFE, SAFE], ["", "red"], generator=[1, 2], **FAST)
    assert output.rank_scores.shape == (2, 4) and len(output.nsfw_content_detected) == 2
    assert [image.size for image in output.images] == [(32, 32)] * 2
    with pytest.warns(UserWarning, match="not Chinese"):
        english = painter.paint(["a red car", "a car"], generator=[1, 2], **FAST)
    assert english.rank_scores is None and len(english.images) == 2
    with pytest.raises(ValueError, match="split them"):
        painter.paint([SAFE, "a red car"], **FAST)
    with pytest.raises(UnsafeContentError):
        painter.paint([SAFE, UNSAFE], **FAST)
