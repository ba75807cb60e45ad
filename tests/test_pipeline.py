"""Guards `pipeline("image-text-to-text")`: its answers are the original's, whatever form and company messages have."""

import base64

import pytest
import transformers
from packaging import version
from transformers import pipeline

PICTURE_QUESTION = "这张图片里有什么？"
UNKNOWN_QUESTION = "鲲鹏是什么颜色？鲲呢？q和鲲鹏"  # some of its words are not in the vocabulary
MANY_UNKNOWN_QUESTION = "鲲？鹏？鹰？雕？鸦？雀？凤？凰？龙？龟？q？Z？^？~？蛇？狼？鲲？鹏？"
LENGTH = 12


@pytest.fixture(scope="module")
def pipes(chat_repos):
    """A pipeline for each variant of the golden checkpoint, made on first use."""
    made = {}

    def get(variant="eos_strong"):
        if variant not in made:
            made[variant] = pipeline("image-text-to-text", model=str(chat_repos[variant]), trust_remote_code=True)
        return made[variant]

    return get


@pytest.fixture(scope="module")
def pipe(pipes):
    return pipes()


@pytest.fixture(scope="module")
def picture_file(chat_checkpoint, pictures):
    path = chat_checkpoint / "picture.png"
    pictures[0].save(path)
    return str(path)


def user(question, *pictures):
    images = [{"type": "image", **(p if isinstance(p, dict) else {"image": p})} for p in pictures]
    return {"role": "user", "content": [*images, {"type": "text", "text": question}]}


def assistant(answer):
    return {"role": "assistant", "content": [{"type": "text", "text": answer}]}


def answers(outputs):
    """Texts of a pipeline's outputs; for a list of conversations each output is a list of its own."""
    return [(output[0] if isinstance(output, list) else output)["generated_text"] for output in outputs]


def ask(pipe, conversations, **options):
    return answers(pipe(text=conversations, return_full_text=False, **{"max_new_tokens": LENGTH, **options}))


@pytest.mark.parametrize("name", ["many_unknown_plain", "defaults_img1_eos_strong", "multi_turn_plain"])
def test_answers_are_the_originals(pipes, pictures, golden, name):
    case = {case["name"]: case for case in golden("chat_generate.json")["cases"]}[name]
    turns = [case["question"]]
    if case["context"]:
        assert case["context"] == "User: 天空是什么颜色？\nAI: 蓝色的鲲。\n"
        turns = ["天空是什么颜色？", "蓝色的鲲。", *turns]
    first, *later = turns
    messages = [user(first, pictures[case["img"]]), *map(assistant, later[:1]), *map(user, later[1:])]
    options = {"max_new_tokens": case["params"]["max_length"] + 2, "skip_special_tokens": False}
    assert ask(pipes(case["variant"]), messages, **options) == [case["answer"]]


def test_first_turn_of_a_recorded_chat(pipes, pictures, golden):
    # The second turn is VisCPMChat's alone: there the first answer's special tokens are tokens again, as in the
    # original; in messages they are text.
    turn = golden("chat_generate.json")["chat_method"][0]
    messages = [user(turn["question"], pictures[0])]
    # the repository's own generation settings; only the end token is not part of the original's answer
    (answer,) = answers(pipes("eos")(text=messages, return_full_text=False, skip_special_tokens=False))
    assert answer.removesuffix("</s>") == turn["answer"]


def test_pictures_of_every_form(pipe, pictures, picture_file):
    data = base64.b64encode(open(picture_file, "rb").read()).decode()
    address = f"data:image/png;base64,{data}"
    forms = [{"image": pictures[0]}, {"image": picture_file}, {"path": picture_file}, {"url": picture_file}]
    forms += [{"image": address}, {"url": address}, {"base64": data}]
    forms += [{"type": "image_url", "image_url": {"url": address}}]
    found = ask(pipe, [[user(UNKNOWN_QUESTION, form)] for form in forms])
    assert found == [found[0]] * len(forms)
    assert found[0] != ask(pipe, [user(UNKNOWN_QUESTION, pictures[1])])[0]


def test_pictures_beside_the_text(pipe, pictures, picture_file):
    questions = [UNKNOWN_QUESTION, PICTURE_QUESTION]
    chats = [ask(pipe, [user(question, picture)])[0] for question, picture in zip(questions, pictures, strict=True)]
    options = {"return_full_text": False, "max_new_tokens": LENGTH}
    assert answers(pipe(images=picture_file, text=UNKNOWN_QUESTION, **options)) == chats[:1]
    assert answers(pipe(images=pictures, text=questions, **options)) == chats
    (whole,) = answers(pipe(images=pictures[0], text=UNKNOWN_QUESTION, max_new_tokens=LENGTH))
    assert whole == UNKNOWN_QUESTION + chats[0]


def test_later_turns_see_the_earlier_ones(pipe, pictures):
    first = pipe(text=[user(UNKNOWN_QUESTION, pictures[0])], max_new_tokens=LENGTH)[0]["generated_text"]
    assert [message["role"] for message in first] == ["user", "assistant"]
    assert first[1]["content"] == ask(pipe, [user(UNKNOWN_QUESTION, pictures[0])])[0]

    second = ask(pipe, [*first, user("那海呢？q")])[0]
    processor, context = pipe.processor, f"User: {UNKNOWN_QUESTION}\nAI: {first[1]['content']}\n"
    inputs = processor(text="那海呢？q", images=[pictures[0]], context=context)
    output = pipe.model.generate(**inputs, max_new_tokens=LENGTH)[:, inputs["input_ids"].shape[1] :]
    assert second == processor.post_process_image_text_to_text(output, ext_tables=inputs.ext_tables)[0]
    assert second != ask(pipe, [user("那海呢？q", pictures[0])])[0]


def test_a_batch_gives_what_each_alone_gives(pipe, pictures):
    # lengths, pictures, turns and numbers of unknown words (none, one, many) all differ
    conversations = [
        [user(PICTURE_QUESTION, pictures[1])],
        [user(MANY_UNKNOWN_QUESTION, pictures[0])],
        [user(UNKNOWN_QUESTION, pictures[0]), assistant("天涯<海"), user("那海呢？q")],
        [user(UNKNOWN_QUESTION, pictures[0])],
        [user("Describe the picture in English please", pictures[1])],
    ]
    alone = [ask(pipe, conversation)[0] for conversation in conversations]
    assert len(set(alone)) == len(alone)
    for batch_size in (2, 5):
        assert ask(pipe, conversations, batch_size=batch_size) == alone
    questions = [[user(question)] for question in (MANY_UNKNOWN_QUESTION, PICTURE_QUESTION)]
    assert ask(pipe, questions, batch_size=2) == [ask(pipe, question)[0] for question in questions]


def ask_for_unknown_words(pipe, conversations, columns, **options):
    """Answers made of `<unk>` and the first extension columns only, the unknown words of a question."""
    tokenizer = pipe.tokenizer
    allowed = [tokenizer.unk_token_id, *range(tokenizer.vocab_size, tokenizer.vocab_size + columns)]
    generate_kwargs = {"prefix_allowed_tokens_fn": lambda batch, ids: allowed}
    return ask(pipe, conversations, generate_kwargs=generate_kwargs, max_new_tokens=6, **options)


def test_answers_spell_the_unknown_words_of_their_own_question(pipe, pictures):
    words = {"鲲？鹏？鹰？雕？": {"鲲", "鹏", "鹰", "雕"}, "鸦？的雀？凤？": {"鸦", "雀", "凤"}}
    conversations = [[user(question, pictures[0])] for question in words]
    alone = [ask_for_unknown_words(pipe, conversation, 2)[0] for conversation in conversations]
    for answer, expected in zip(alone, words.values(), strict=True):
        assert answer and set(answer) <= expected
    assert ask_for_unknown_words(pipe, conversations, 2, batch_size=2) == alone


def test_questions_that_differ_in_an_unknown_word_only(pipe, pictures):
    # their ids are the same: each is `<unk>`
    conversations = [[user(f"{word}是什么？", pictures[0])] for word in "鲲鹏雕"]
    for batch_size in (1, 2, 3):
        found = ask_for_unknown_words(pipe, conversations, 0, batch_size=batch_size)
        assert [set(answer) for answer in found] == [{"鲲"}, {"鹏"}, {"雕"}]


def test_the_whole_conversation_is_returned_unless_told_otherwise(pipe, pictures):
    messages = [user(PICTURE_QUESTION, pictures[0])]
    (answer,) = ask(pipe, messages)
    (whole,) = answers(pipe(text=messages, max_new_tokens=LENGTH))
    assert whole == [*messages, {"role": "assistant", "content": answer}]
    both = pipe(text=[messages, messages], batch_size=2, max_new_tokens=LENGTH)
    assert answers(both) == [whole, whole]


def test_generation_options_take_effect(pipe, pictures):
    messages = [user(UNKNOWN_QUESTION, pictures[0])]
    inputs = pipe.processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    start = inputs["input_ids"].shape[1]
    for length in (1, 5):
        for options in ({"max_new_tokens": length}, {"generate_kwargs": {"max_new_tokens": length}}):
            ids = pipe(text=messages, return_tensors=True, **options)[0]["generated_token_ids"]
            assert len(ids) == start + length
    assert pipe.model.generation_config.max_new_tokens == 514  # the repository's, not the pipeline's own default

    options = {"num_beams": 1, "length_penalty": 1.0}
    output = pipe.model.generate(**inputs, max_new_tokens=LENGTH, **options)
    greedy = pipe.processor.post_process_image_text_to_text(output[:, start:], ext_tables=inputs.ext_tables)
    assert ask(pipe, messages, generate_kwargs=options) == greedy != ask(pipe, messages)

    options = {"max_new_tokens": LENGTH, "generate_kwargs": {"num_return_sequences": 2}}
    first, *others = answers(pipe(text=messages, return_full_text=False, **options))
    assert first == ask(pipe, messages)[0] not in others
    if version.parse(transformers.__version__) >= version.parse("5.23"):  # before, a pipeline hands out one of them
        assert len(others) == 1


def test_talking_without_a_picture(pipe):
    (answer,) = ask(pipe, [user(UNKNOWN_QUESTION)])
    assert ask(pipe, [{"role": "user", "content": UNKNOWN_QUESTION}]) == [answer]
    plain = pipe(text=UNKNOWN_QUESTION, return_full_text=False, max_new_tokens=LENGTH)
    assert answers(plain) == [answer]
    inputs = pipe.processor(text=UNKNOWN_QUESTION)
    output = pipe.model.generate(**inputs, max_new_tokens=LENGTH)[:, inputs["input_ids"].shape[1] :]
    assert pipe.processor.post_process_image_text_to_text(output) == [answer]


def test_an_answer_is_continued(pipe, pictures):
    messages = [user(UNKNOWN_QUESTION, pictures[0]), assistant("天涯<海")]
    (rest,) = ask(pipe, messages)
    assert rest == ask(pipe, messages, continue_final_message=True)[0]
    (whole,) = answers(pipe(text=messages, max_new_tokens=LENGTH))
    assert whole == [messages[0], assistant("天涯<海" + rest)]
    inputs = pipe.processor.apply_chat_template(messages, tokenize=True, return_dict=True, continue_final_message=True)
    assert pipe.processor.tokenizer.decode(inputs["input_ids"][0], ext_table=inputs.ext_tables[0]).endswith(
        "<s>天涯<<海"
    )
    with pytest.raises(ValueError, match="continue_final_message"):
        ask(pipe, messages, continue_final_message=False)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([user(PICTURE_QUESTION, "one.png", "two.png")], "2 pictures in one conversation, expected at most one"),
        ([{"role": "system", "content": "You are kind."}, user("?")], "role 'system', expected 'user' or 'assistant'"),
        ([user(PICTURE_QUESTION, "nowhere.png")], "Could not load a picture from 'nowhere.png'"),
        ([user(PICTURE_QUESTION, {"type": "image"})], "without a picture"),
        ([user("?"), user("?")], "message 2 with role 'user', expected 'user' and 'assistant' in turns"),
    ],
)
def test_what_cannot_be_answered_ends_with_a_sentence(pipe, messages, sentence):
    with pytest.raises(ValueError, match=sentence):
        ask(pipe, messages)
