"""Guards the engine: answers and pictures are those of a call alone, and a model stops when nobody waits for it."""

import asyncio
from contextlib import aclosing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from viscpm_hf import UnsafeContentError, VisCPMChat, VisCPMPaint
from viscpm_hf.serving.engine import (
    AnswerPiece,
    Engine,
    Painted,
    Progress,
    Prompt,
    PromptTooLongError,
    Question,
    Sampling,
)
from viscpm_hf.serving.stops import StopTexts, until_stop
from viscpm_hf.tiny import PICTURES, tiny_chat_repo, tiny_paint_repo

SHORT = {"max_tokens": 12}


@pytest.fixture(scope="module")
def golden_chat(chat_repo_eos):
    """Its answers are long and odd: special tokens, unknown words."""
    return VisCPMChat(chat_repo_eos, image_safety_checker=False)


@pytest.fixture(scope="module")
def tiny_chat():
    return VisCPMChat(tiny_chat_repo(), image_safety_checker=False)


@pytest.fixture(scope="module")
def painter():
    return VisCPMPaint(tiny_paint_repo(), image_safety_checker=False, prompt_safety_checker=False, add_ranker=False)


@pytest.fixture(scope="module")
def cat():
    return Image.open(PICTURES / "1_cat_and_apple.png")


@pytest.fixture
def run():
    """Runs a function of an engine, which is closed afterwards."""

    def run(function, *models, **options):
        engine = Engine(*models, **options)
        try:
            return asyncio.run(function(engine))
        finally:
            engine.close()

    return run


async def started(engine, name):
    """Waits until a model is at work."""
    while not engine.batchers[name].counters.batches:
        await asyncio.sleep(0.001)


async def idle(engine, name):
    """Waits until it is not any more."""
    counters = engine.batchers[name].counters
    while counters.requests.total() < counters.batches.total() or engine.batchers[name].busy:
        await asyncio.sleep(0.001)


def test_words_of_others_never_mix(run, golden_chat, pictures):
    """A batch of unknown words of its own each, with and without pictures and contexts."""
    words = ["鲲鹏", "饕餮", "魑魅", "貔貅", "麒麟", "鸑鷟", "狻猊", "獬豸", "椒图", "鸱吻"]
    questions = [
        Question(
            f"{word}是什么颜色？{word[0]}呢？ a < b",
            image=pictures[number % 2] if number % 3 else None,
            context=f"User: {word[1]}？\nAI: {word}\n" if number % 2 else "",
            sampling=Sampling(**SHORT),
        )
        for number, word in enumerate(words)
    ]

    async def ask(engine):
        answers = await asyncio.gather(*(engine.answer(question) for question in questions))
        assert engine.batchers["chat"].counters.batches.total() < len(words)
        return answers

    alone = [golden_chat.chat(one.image, one.question, one.context, max_new_tokens=12) for one in questions]
    assert len({answer for answer, _, _ in alone}) > 3
    for (answer,), (wanted, context, _) in zip(run(ask, golden_chat), alone, strict=True):
        assert (answer.answer, answer.context) == (wanted, context)
        others = set("".join(words)) - set(wanted)
        assert not others & set(answer.text)


def test_equal_questions_share_calls(run, tiny_chat, cat):
    async def ask(engine):
        answers = await asyncio.gather(*(engine.answer(Question("图里有什么？", cat)) for _ in range(64)))
        return answers, engine.batchers["chat"].counters

    answers, counters = run(ask, tiny_chat)
    assert {answer.text for (answer,) in answers} == {tiny_chat.chat(cat, "图里有什么？")[0]}
    assert counters.batches.total() <= 64 // 8 + 2
    assert counters.requests == {"answered": 64}


def test_counts_and_reasons(run, tiny_chat, cat):
    async def ask(engine):
        whole = await engine.answer(Question("猫在哪里？", cat))
        cut = await engine.answer(Question("猫在哪里？", cat, sampling=Sampling(max_tokens=2)))
        stopped = await engine.answer(Question("猫在哪里？", cat, sampling=Sampling(stop=("角", "上"))))
        return whole[0], cut[0], stopped[0]

    whole, cut, stopped = run(ask, tiny_chat)
    ids = tiny_chat.processor.encode_chat(True, "猫在哪里？")["input_ids"]
    tokens = tiny_chat.processor.tokenizer.encode_segment(whole.text)[0]
    assert (whole.prompt_tokens, whole.completion_tokens, whole.finish_reason) == (len(ids), len(tokens) + 1, "stop")
    assert (cut.completion_tokens, cut.finish_reason) == (2, "length")
    assert whole.text == "猫在左上角。" and stopped.text == "猫在左" and stopped.finish_reason == "stop"


def test_streams_share_calls_and_stop_at_stop_texts(run, tiny_chat, cat):
    sampling = Sampling(stop=("nothing such", "top le"))
    questions = ["Where is the cat?", "猫在哪里？"] * 4

    async def read(engine, question):
        pieces = [piece async for piece in engine.stream_answer(Question(question, cat, sampling=sampling))]
        assert all(isinstance(piece, AnswerPiece) for piece in pieces[:-1]) and len(pieces) > 3
        return "".join(piece.text for piece in pieces[:-1]), pieces[-1][0].text

    async def ask(engine):
        answers = await asyncio.gather(*(read(engine, question) for question in questions))
        return answers, engine.batchers["chat"].counters.batches.total()

    answers, calls = run(ask, tiny_chat)
    greedy = {question: tiny_chat.chat(cat, question, num_beams=1)[0] for question in questions}
    assert answers == [(until_stop(greedy[question], sampling.stop),) * 2 for question in questions]
    assert answers[0][0] == "The cat is in the " and calls <= 3


def test_sampling_repeats_with_its_seed_only_and_leaves_torch_alone(run, golden_chat):
    sampling = Sampling(temperature=3.0, seed=5, n=3, **SHORT)

    async def ask(engine):
        same = await asyncio.gather(*(engine.answer(Question("你", sampling=sampling)) for _ in range(3)))
        free = [Question("你", sampling=Sampling(temperature=3.0, **SHORT)) for _ in range(4)]
        return same, await asyncio.gather(*map(engine.answer, free))

    before = torch.get_rng_state()
    same, free = run(ask, golden_chat)
    assert torch.equal(before, torch.get_rng_state())
    texts = [[answer.text for answer in answers] for answers in same]
    assert texts[0] == texts[1] == texts[2] and len(set(texts[0])) == 3
    assert len({answer.text for (answer,) in free}) > 1


def test_several_answers_are_the_best_of_the_beams(run, golden_chat, pictures):
    async def ask(engine):
        return await asyncio.gather(
            *(engine.answer(Question("你", pictures[0], sampling=Sampling(n=n, **SHORT))) for n in (1, 3, 3))
        )

    (one,), three, again = run(ask, golden_chat)
    assert three[0].text == one.text and len({answer.answer for answer in three}) == 3
    assert [answer.text for answer in three] == [answer.text for answer in again]


def test_greedy_is_asked_for_by_temperature_0(run, golden_chat):
    async def ask(engine):
        return await engine.answer(Question("鲲鹏是什么？", sampling=Sampling(temperature=0.0, **SHORT)))

    assert run(ask, golden_chat)[0].answer == golden_chat.chat(None, "鲲鹏是什么？", num_beams=1, max_new_tokens=12)[0]


def test_who_is_at_fault_fails_alone(run, golden_chat, pictures, monkeypatch):
    class Checker:
        def check(self, images):
            if images[0].getpixel((0, 0)) == (1, 2, 3):
                raise UnsafeContentError("no")

    monkeypatch.setattr(golden_chat, "image_safety_checker", Checker())
    unsafe, settings = Image.new("RGB", (8, 8), (1, 2, 3)), {"sampling": Sampling(**SHORT)}
    questions = [
        Question("你", pictures[0], **settings),
        Question("你", unsafe, **settings),
        Question("我是" * 3000, pictures[0], **settings),
        Question("你", pictures[0], "User: 你\nAI: 我\n" * 700, shortens=False, **settings),
        Question("我", pictures[1], **settings),
    ]

    async def ask(engine):
        first = asyncio.create_task(engine.answer(Question("你", **settings)))
        await started(engine, "chat")
        found = await asyncio.gather(*map(engine.answer, questions), return_exceptions=True)
        await first
        return found, engine.batchers["chat"].counters

    (good, unsafe, long, full, other), counters = run(ask, golden_chat)
    assert good[0].answer == golden_chat.chat(pictures[0], "你", max_new_tokens=12)[0]
    assert other[0].answer == golden_chat.chat(pictures[1], "我", max_new_tokens=12)[0]
    assert isinstance(unsafe, UnsafeContentError)
    assert all(isinstance(error, PromptTooLongError) for error in (long, full))
    assert counters.batches == {1: 1, 5: 1} and counters.requests == {"answered": 3, "failed": 3}


ENDLESS = Sampling(max_tokens=10**9, stop=("no such text",))


def test_who_hangs_up_leaves_the_batch(run, golden_chat, monkeypatch):
    """Of three that are streamed together one goes; once all have gone the model stops at the next token."""
    monkeypatch.setattr(golden_chat.model.generation_config, "eos_token_id", None)

    async def ask(engine):
        blocker = asyncio.create_task(engine.answer(Question("你", sampling=Sampling(max_tokens=40, temperature=0.0))))
        await started(engine, "chat")
        streams = [engine.stream_answer(Question(text, sampling=ENDLESS)) for text in ("你", "我", "他")]
        first = await asyncio.gather(*map(anext, streams))
        assert all(isinstance(piece, AnswerPiece) for piece in first)
        counters = engine.batchers["chat"].counters
        assert counters.batches == {1: 1, 3: 1}
        await streams[0].aclose()
        assert isinstance(await anext(streams[1]), AnswerPiece) and engine.batchers["chat"].busy
        await asyncio.gather(streams[1].aclose(), streams[2].aclose())
        await idle(engine, "chat")
        await blocker
        return counters

    assert run(ask, golden_chat).requests == {"answered": 1, "cancelled": 3}


def test_beams_stop_when_nobody_waits(run, golden_chat, monkeypatch):
    monkeypatch.setattr(golden_chat.model.generation_config, "eos_token_id", None)

    async def ask(engine):
        task = asyncio.create_task(engine.answer(Question("你", sampling=Sampling(max_tokens=10**9))))
        await started(engine, "chat")
        task.cancel()
        await idle(engine, "chat")
        (answer,) = await engine.answer(Question("我", sampling=Sampling(max_tokens=3)))
        assert answer.completion_tokens == 3
        return engine.batchers["chat"].counters

    assert run(ask, golden_chat).requests == {"cancelled": 1, "answered": 1}


def test_deadline_stops_the_model(run, golden_chat, monkeypatch):
    monkeypatch.setattr(golden_chat.model.generation_config, "eos_token_id", None)

    async def ask(engine):
        with pytest.raises(TimeoutError):
            await engine.answer(Question("你", sampling=Sampling(max_tokens=10**9)))
        pieces = 0
        with pytest.raises(TimeoutError):
            async with aclosing(engine.stream_answer(Question("你", sampling=Sampling(max_tokens=10**9)))) as stream:
                async for _ in stream:
                    pieces += 1
        await idle(engine, "chat")
        return pieces, engine.batchers["chat"].counters

    pieces, counters = run(ask, golden_chat, timeout=0.5)
    assert pieces and counters.requests == {"cancelled": 2}


def test_pictures_are_those_painted_alone(run, painter):
    prompts = ["草地上有一只猫", "There is a blue star in the bottom left.", "一个苹果"]

    async def paint(engine):
        seeded = [Prompt(prompt, seed=7, steps=4, n=2) for prompt in prompts]
        free = [Prompt(prompt, steps=4, negative_prompt="red" * (number % 2)) for number, prompt in enumerate(prompts)]
        return await asyncio.gather(*map(engine.paint, [*seeded, *free])), engine.batchers["paint"].counters

    found, counters = run(paint, None, painter, painting={"guidance": 4.0})
    options = {"num_inference_steps": 4, "guidance_scale": 4.0}
    for prompt, pictures in zip(prompts, found, strict=False):
        assert [picture.seed for picture in pictures] == [7, 8]
        wanted = painter.paint([prompt] * 2, [""] * 2, generator=[7, 8], **options).images
        assert all(np.array_equal(one.image, other) for one, other in zip(pictures, wanted, strict=True))
    assert counters.batches[3] == 1 and counters.requests == {"answered": 6}  # those without a seed
    for number, (picture,) in enumerate(found[3:]):
        alone = painter.generate(prompts[number], "red" * (number % 2), generator=picture.seed, **options)
        difference = np.abs(np.asarray(picture.image, dtype=int) - np.asarray(alone, dtype=int))
        # a batch rounds otherwise, and steps of denoising make more of it; another prompt or seed differs by tens
        assert difference.mean() < 2


def test_many_pictures_are_painted_in_parts(run, painter):
    async def paint(engine):
        return [piece async for piece in engine.stream_picture(Prompt("a red apple", n=5, steps=2))]

    *steps, pictures = run(paint, None, painter, max_batch=2)
    assert [(one.step, one.steps) for one in steps] == [(step, 6) for step in range(1, 7)]
    assert all(isinstance(one, Progress) for one in steps) and all(isinstance(one, Painted) for one in pictures)
    assert len({one.image.tobytes() for one in pictures}) == 5


def test_painting_stops_when_nobody_waits(run, painter):
    async def paint(engine):
        task = asyncio.create_task(engine.paint(Prompt("a red apple", steps=1000)))
        await started(engine, "paint")
        task.cancel()
        await idle(engine, "paint")
        return await engine.paint(Prompt("a red apple", steps=1)), engine.batchers["paint"].counters

    pictures, counters = run(paint, None, painter)
    assert len(pictures) == 1 and counters.requests == {"cancelled": 1, "answered": 1}


def test_an_unsafe_prompt_fails_alone(run, painter, monkeypatch):
    from viscpm_hf.remote_code.pipeline_viscpm_paint import UnsafePromptError

    call = type(painter.pipeline).__call__

    def checked(self, prompt, **options):
        if any("坏" in text for text in prompt):
            raise UnsafePromptError("no")
        return call(self, prompt, **options)

    monkeypatch.setattr(type(painter.pipeline), "__call__", checked)

    async def paint(engine):
        first = asyncio.create_task(engine.paint(Prompt("一只猫", steps=3)))
        await started(engine, "paint")
        prompts = [Prompt(text, steps=1) for text in ("一只猫", "坏", "一个苹果")]
        found = await asyncio.gather(*map(engine.paint, prompts), return_exceptions=True)
        await first
        return found

    good, bad, other = run(paint, None, painter)
    assert isinstance(bad, UnsafeContentError) and isinstance(good[0], Painted) and isinstance(other[0], Painted)


@given(st.lists(st.text("ab", max_size=4)), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_stop_texts_are_found_across_pieces(pieces, stops):
    reader, text = StopTexts(stops), ""
    for piece in pieces:  # nothing is generated after the first of them
        if not any(stop in text for stop in stops):
            text += piece
    assert "".join(map(reader.read, pieces)) + reader.end() == until_stop(text, stops)
