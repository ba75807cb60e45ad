"""The golden Paint pipeline, and tiny checkers and a tiny ranker to go with it."""

import pytest

# paint is imported where it is needed: diffusers takes long to import


@pytest.fixture(scope="module")
def pipe():
    """The golden pipeline; shared, so tests leave it as it was."""
    from paint import golden_pipeline

    return golden_pipeline()


@pytest.fixture(scope="module")
def prompt_checker(tmp_path_factory):
    from paint import PROMPT, UNSAFE, prompt_checker_parts

    return prompt_checker_parts(tmp_path_factory.mktemp("prompt_checker"), PROMPT, UNSAFE)


@pytest.fixture(scope="module")
def candidates(pipe):
    """What one seed paints for a prompt, four times."""
    from paint import paint

    return paint(pipe, num_images_per_prompt=4, output_type="pil")


@pytest.fixture(scope="module")
def safety_checker(candidates):
    """Refuses the first candidate."""
    from paint import safety_checker_parts

    return safety_checker_parts(candidates[0], candidates[1])


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    from paint import PROMPT, SHORT, ranker_parts

    return ranker_parts(tmp_path_factory.mktemp("ranker"), [PROMPT, SHORT])
