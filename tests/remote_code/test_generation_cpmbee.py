"""Guards generation: the original's beam search token for token, and every other mode transformers offers."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, CompileConfig, GenerationConfig, TextIteratorStreamer
from transformers.cache_utils import DynamicCache, DynamicLayer

from viscpm_hf import CpmBeeConfig, CpmBeeForCausalLM, CpmBeeTokenizer
from viscpm_hf.finetuning import ChatCollator
from viscpm_hf.remote_code.beams_cpmbee import BeamHypotheses, GrowingCacheLayer
from viscpm_hf.remote_code.generation_cpmbee import AnswerRepetitionPenalty
from viscpm_hf.remote_code.modeling_cpmbee import CACHE

LONG = "鲲鹏是什么颜色？鲲呢？q和鲲鹏"
SHORT = "这张图片里有什么？"


def beam_arguments(parameters):
    return {
        "num_beams": parameters["beam_size"],
        "beam_temperature": parameters["temperature"],
        "repetition_penalty": parameters["repetition_penalty"],
        "repetition_window": parameters.get("repetition_window"),
        "length_penalty": parameters["length_penalty"],
        "max_new_tokens": parameters["max_length"] + 2,  # the original overshoots its max_length by two
    }


def new_tokens(output, inputs):
    return output[:, inputs["input_ids"].shape[1] :]


def trimmed(row, end=7):
    """Ids of one answer without what follows its end."""
    row = row.tolist()
    return row[: row.index(end) + 1] if end in row else row


@pytest.mark.parametrize("room", [GrowingCacheLayer.room, 2])  # with little room, dead branches are dropped often
def test_all_recorded_searches_give_the_originals_answers(
    chat_models, chat_inputs, chat_processor, golden, monkeypatch, room
):
    monkeypatch.setattr(GrowingCacheLayer, "room", room)
    cases = [case for case in golden("chat_generate.json")["cases"] if case["params"]["beam_size"] > 1]
    assert len(cases) == 33
    for case in cases:
        inputs = chat_inputs((case["img"], case["question"], case["context"]))
        output = chat_models[case["variant"]].generate(
            **inputs, **beam_arguments(case["params"]), return_dict_in_generate=True
        )
        ids = new_tokens(output.sequences, inputs)
        assert ids[0].tolist() == case["best_ids"], case["name"]
        # scores divide by length**penalty, so they are compared before that division
        norm = case["n_tokens"] ** case["params"]["length_penalty"]
        assert abs(output.sequences_scores[0].item() - case["best_score"]) * norm < 1e-3, case["name"]
        answer = chat_processor.post_process_image_text_to_text(
            ids, skip_special_tokens=False, ext_tables=inputs.ext_tables
        )
        assert answer[0].removesuffix("</s>") == case["answer"], case["name"]


def test_the_same_hypotheses_are_considered_as_in_the_original(chat_models, chat_inputs, golden, monkeypatch):
    # answers alone do not show it: a hypothesis too many is often dropped again
    considered, add = [], BeamHypotheses.add

    def recording_add(self, sequence, log_probability, length, beams=None):
        considered.append([length - 1, sequence[-length:].tolist()])
        add(self, sequence, log_probability, length, beams)

    monkeypatch.setattr(BeamHypotheses, "add", recording_add)
    for case in golden("chat_generate.json")["cases"]:
        if case["params"]["beam_size"] > 1:
            considered.clear()
            inputs = chat_inputs((case["img"], case["question"], case["context"]))
            chat_models[case["variant"]].generate(**inputs, **beam_arguments(case["params"]))
            assert considered == [[step, ids] for step, _, _, ids in case["all_added"]], case["name"]


@pytest.mark.parametrize("variant", ["plain", "eos"])
def test_first_steps_logits_match_the_original(chat_models, chat_inputs, golden, variant):
    recorded = golden("chat_generate_logits.safetensors")
    case = next(c for c in golden("chat_generate.json")["cases"] if c["name"] == f"many_unknown_{variant}")
    inputs = chat_inputs((case["img"], case["question"], case["context"]))
    logits = chat_models[variant](**inputs).logits[:, -1]
    torch.testing.assert_close(logits[0], recorded[f"{case['name']}.step_0.logits"][0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", ["plain", "eos", "eos_strong"])
@pytest.mark.parametrize(
    "arguments",
    [{"num_beams": 3}, {"num_beams": 4, "length_penalty": 0.5}, {"num_beams": 1}],
    ids=["beams", "four-beams", "greedy"],
)
def test_batches_equal_singles(chat_models, chat_inputs, variant, arguments):
    items = [(0, SHORT), (1, LONG), (None, "q"), (0, "那海呢？q", "User: 天空是什么颜色？\nAI: 蓝色的鲲。\n")]
    batch = chat_inputs(*items)
    together = new_tokens(chat_models[variant].generate(**batch, **arguments, max_new_tokens=20), batch)
    for row, item in zip(together, items, strict=True):
        single = chat_inputs(item)
        alone = new_tokens(chat_models[variant].generate(**single, **arguments, max_new_tokens=20), single)[0]
        assert trimmed(row) == trimmed(alone), item


def test_prompt_is_read_once_per_sample_and_only_its_last_position_is_scored(chat_model, chat_inputs):
    inputs, shapes, encoded = chat_inputs((0, SHORT), (1, LONG)), [], []
    hooks = [
        chat_model.lm_head.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape[:2]))),
        chat_model.model.vision_tower.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0]))),
    ]
    try:
        chat_model.generate(**inputs, num_beams=3, max_new_tokens=4)
    finally:
        for hook in hooks:
            hook.remove()
    assert shapes == [(2, 1), (2, 3), (2, 3), (2, 3)]
    assert encoded == [2]


def test_picture_features_can_be_reused(chat_model, chat_inputs):
    inputs = chat_inputs((0, SHORT), (None, "q"), (1, LONG))
    expected = chat_model.generate(**inputs, max_new_tokens=8)
    pixels = inputs.pop("pixel_values")
    features = chat_model.get_image_features(pixels)
    assert torch.equal(
        chat_model.generate(**inputs, mm_encoder_outputs={"image": features}, max_new_tokens=8), expected
    )


def test_num_return_sequences_are_ordered_and_distinct(chat_model, chat_inputs):
    inputs = chat_inputs((0, SHORT), (1, LONG))
    output = chat_model.generate(
        **inputs, num_beams=3, num_return_sequences=3, max_new_tokens=8, return_dict_in_generate=True
    )
    scores = output.sequences_scores.view(2, 3)
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    assert len({tuple(row) for row in output.sequences.tolist()}) == 6
    best = chat_model.generate(**inputs, num_beams=3, max_new_tokens=8)
    assert torch.equal(output.sequences[::3], best)


def test_sampling_follows_its_seed_and_counts_sequences(chat_model, chat_inputs):
    inputs = chat_inputs((0, SHORT))

    def sample(seed):
        torch.manual_seed(seed)
        return chat_model.generate(
            **inputs, do_sample=True, num_beams=1, temperature=1.5, num_return_sequences=4, max_new_tokens=8
        )

    first = sample(1)
    assert len(first) == 4 and torch.equal(first, sample(1)) and not torch.equal(first, sample(2))
    beam_sample = chat_model.generate(**inputs, do_sample=True, num_beams=2, max_new_tokens=8)
    assert len(beam_sample) == 1


def test_streamer_yields_the_greedy_answer(chat_model, chat_inputs, chat_processor):
    inputs = chat_inputs((0, LONG))
    expected = new_tokens(chat_model.generate(**inputs, num_beams=1, max_new_tokens=10), inputs)
    streamer = TextIteratorStreamer(chat_processor.tokenizer, skip_prompt=True, ext_table=inputs.ext_tables[0])
    chat_model.generate(**inputs, num_beams=1, max_new_tokens=10, streamer=streamer)
    assert "".join(streamer) == chat_processor.tokenizer.decode(expected[0], ext_table=inputs.ext_tables[0])
    with pytest.raises(ValueError, match="num_beams"):
        chat_model.generate(**inputs, num_beams=3, streamer=streamer)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt_lookup_num_tokens": 3},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"assistant": True},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_other_ways_to_decode_greedily_give_the_same_tokens(chat_models, chat_inputs, arguments):
    inputs = chat_inputs((0, LONG))
    expected = chat_models["plain"].generate(**inputs, num_beams=1, max_new_tokens=12)
    arguments = dict(arguments)
    if arguments.pop("assistant", False):
        arguments["assistant_model"] = chat_models["eos"]
    found = chat_models["plain"].generate(**inputs, num_beams=1, max_new_tokens=12, **arguments)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("arguments", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_beam_search_without_or_with_another_cache(chat_model, chat_inputs, arguments):
    inputs = chat_inputs((0, SHORT), (1, LONG))
    expected = chat_model.generate(**inputs, num_beams=3, max_new_tokens=10)
    assert torch.equal(chat_model.generate(**inputs, num_beams=3, max_new_tokens=10, **arguments), expected)


def test_beams_share_the_cache_of_their_prompt(chat_model, chat_inputs):
    inputs, cache = chat_inputs((0, SHORT), (1, LONG)), DynamicCache()
    chat_model.generate(**inputs, num_beams=3, max_new_tokens=5, past_key_values=cache)
    prompt_length = inputs["input_ids"].shape[1]
    assert {layer.keys.shape[:3] for layer in cache.layers} == {(2, 4, prompt_length + 3 * 4)}


def test_dead_branches_are_dropped_before_the_cache_grows(chat_models, chat_inputs, monkeypatch):
    monkeypatch.setattr(GrowingCacheLayer, "room", 12)
    model, inputs = chat_models["eos"], chat_inputs((0, SHORT), (1, LONG))
    cache = DynamicCache(config=model.config.text_config)
    arguments = {"num_beams": 3, "max_new_tokens": 60, "min_new_tokens": 60, "return_dict_in_generate": True}
    found = model.generate(**inputs, **arguments, past_key_values=cache)
    expected = model.generate(**inputs, **arguments, cache_implementation="static")
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores)
    lengths = {layer.keys.shape[2] - inputs["input_ids"].shape[1] for layer in cache.layers}
    assert len(lengths) == 1 and lengths.pop() < 2 * 59  # of 3 * 59 tokens that were read


@pytest.mark.parametrize("num_beams", [1, 3])
def test_one_compiled_graph_reads_all_tokens_of_an_answer(chat_model, chat_inputs, num_beams):
    inputs, graphs = chat_inputs((0, SHORT), (1, LONG)), []
    expected = chat_model.generate(**inputs, num_beams=num_beams, max_new_tokens=10)

    def count_graphs(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    config = CompileConfig(backend=count_graphs, mode=None, fullgraph=True)
    config._compile_all_devices = True  # transformers compiles by itself on accelerators only
    torch.compiler.reset()
    options = {"cache_implementation": "static", "compile_config": config, "max_new_tokens": 10}
    try:
        assert torch.equal(chat_model.generate(**inputs, num_beams=num_beams, **options), expected)
    finally:
        chat_model.__dict__.pop("_compiled_call", None)
        torch.compiler.reset()
    assert len(graphs) == 1


def test_growing_cache_holds_what_a_dynamic_one_does_and_stays_in_place():
    torch.manual_seed(0)
    growing, dynamic = GrowingCacheLayer(), DynamicLayer()

    def update(length, batch_size=2):
        states = torch.randn(2, batch_size, 3, length, 4)
        for found, expected in zip(growing.update(*states), dynamic.update(*states), strict=True):
            assert torch.equal(found, expected)
        return growing.keys.data_ptr()

    start = update(7)
    assert all(update(1) == start for _ in range(growing.room))
    while growing.has_room(1):
        assert update(1) == start
    assert update(1) != start
    for change in (
        lambda layer: layer.crop(-3),
        lambda layer: layer.reorder_cache(torch.tensor([1, 1])),
        lambda layer: layer.batch_select_indices(torch.tensor([0])),
        lambda layer: layer.batch_repeat_interleave(3),
        lambda layer: layer.reset(),
    ):
        change(growing), change(dynamic)
        batch_size = 2 if growing.keys is None else len(growing.keys)
        update(2, batch_size), update(1, batch_size)


def test_static_cache_with_left_padding(chat_model, chat_inputs):
    inputs = chat_inputs((0, SHORT), (1, LONG))
    expected = chat_model.generate(**inputs, num_beams=1, max_new_tokens=10)
    found = chat_model.generate(**inputs, num_beams=1, max_new_tokens=10, cache_implementation="static")
    assert torch.equal(found, expected)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_finished_embeddings_can_take_the_place_of_ids(chat_model, chat_inputs, num_beams):
    inputs = chat_inputs((None, SHORT))
    expected = chat_model.generate(**inputs, num_beams=num_beams, max_new_tokens=8, repetition_penalty=1.0)
    language_model = chat_model.model.language_model
    ids = inputs.pop("input_ids")
    embeddings = language_model.embed(ids, inputs.get("ext_table_ids"), inputs.get("ext_table_subs"))
    found = chat_model.generate(
        inputs_embeds=embeddings, **inputs, num_beams=num_beams, max_new_tokens=8, repetition_penalty=1.0
    )
    assert torch.equal(found, expected[:, ids.shape[1] :])


def test_unknown_words_of_the_question_can_be_answered_and_nothing_else(chat_models, chat_inputs):
    inputs = chat_inputs((0, SHORT), (0, LONG), (0, "q"))
    logits = chat_models["plain"](**inputs).logits
    assert logits.shape[-1] == 410 + 2
    assert (logits[0, :, 410:] == -10000).all() and (logits[1, :, 410:] > -1000).all()
    plain = chat_inputs((0, "image"))
    assert plain["unk_allowed"].tolist() == [0] and "ext_table_ids" not in plain
    for arguments in ({"num_beams": 1}, {"num_beams": 3}, {"do_sample": True, "num_beams": 1, "temperature": 5.0}):
        output = chat_models["plain"].generate(**plain, max_new_tokens=40, **arguments)
        assert 1 not in new_tokens(output, plain)[0].tolist()


def test_extension_tables_padded_on_the_left_mean_the_same(chat_model, chat_inputs):
    inputs = chat_inputs((0, LONG), (0, "image鲲鹏image鲲image"))
    padding = inputs["ext_table_subs"][1] == 0
    assert padding.any() and not padding.all()
    expected = chat_model.generate(**inputs, max_new_tokens=12)
    for key in ("ext_table_ids", "ext_table_subs", "ext_table_mask"):
        inputs[key][1] = torch.cat([inputs[key][1][padding], inputs[key][1][~padding]])
    assert torch.equal(chat_model.generate(**inputs, max_new_tokens=12), expected)


def test_repetition_penalty_sees_the_answer_base_tokens_and_the_window():
    # prompt 5 6 2 (2 is the answer's <s>), answer 3, 8 (column 0: base 1), 4
    ids = torch.tensor([[5, 6, 2, 3, 8, 4]])
    scores = torch.tensor([[1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    penalty = AnswerRepetitionPenalty(2.0, prompt_length=3, vocab_size=8, ext_table_ids=torch.tensor([[1]]))
    assert penalty(ids, scores).tolist() == [[1.0, -2.0, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]]
    windowed = AnswerRepetitionPenalty(2.0, 3, vocab_size=8, window=1, ext_table_ids=torch.tensor([[1]]))
    assert windowed(ids, scores).tolist() == [[1.0, -1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0]]


def test_of_equal_hypotheses_the_older_is_dropped():
    kept = BeamHypotheses(num_beams=2, length_penalty=0.0)
    for name, score in (("a", -2.0), ("b", -2.0), ("c", -1.0)):
        kept.add(name, score, length=1)
    assert [name for _, name, _ in kept.best(2)] == ["c", "b"]


def test_stopping_criteria_and_processors_of_transformers_apply_to_the_search(chat_model, chat_inputs):
    inputs = chat_inputs((0, SHORT))
    plain = new_tokens(chat_model.generate(**inputs, num_beams=3, max_new_tokens=12), inputs)[0].tolist()
    stopped = new_tokens(
        chat_model.generate(**inputs, num_beams=3, max_new_tokens=12, eos_token_id=[7, plain[3]]), inputs
    )[0].tolist()
    assert plain[3] not in stopped[:-1]
    banned = chat_model.generate(**inputs, num_beams=3, max_new_tokens=12, bad_words_ids=[[plain[0]]])
    assert plain[0] not in new_tokens(banned, inputs)[0].tolist()
    timed = chat_model.generate(**inputs, num_beams=3, max_new_tokens=400, max_time=1e-6)
    assert new_tokens(timed, inputs).shape[1] <= 2


def test_custom_keys_survive_saving_and_a_foreign_generation_config(chat_model, chat_inputs, tmp_path):
    chat_model.save_pretrained(tmp_path)
    saved = GenerationConfig.from_pretrained(tmp_path)
    assert (saved.num_beams, saved.beam_temperature, saved.repetition_penalty) == (3, 0.7, 1.1)
    assert (saved.length_penalty, saved.max_new_tokens, saved.do_sample) == (3, 514, False)
    inputs = chat_inputs((0, SHORT))
    foreign = GenerationConfig(num_beams=3, max_new_tokens=6, eos_token_id=7, pad_token_id=0)
    output = chat_model.generate(**inputs, generation_config=foreign, repetition_window=2)
    assert new_tokens(output, inputs).shape == (1, 6)


def test_bad_settings_are_refused_with_a_sentence(chat_model, chat_inputs):
    inputs = chat_inputs((0, SHORT))
    with pytest.raises(ValueError, match="repetition_penalty=0.9, expected at least 1"):
        chat_model.generate(**inputs, num_beams=3, repetition_penalty=0.9)
    with pytest.raises(ValueError, match="must be read in one piece"):
        chat_model.generate(**inputs, num_beams=1, prefill_chunk_size=8)
    with pytest.raises(ValueError, match="one picture per conversation"):
        chat_model(**{**inputs, "pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1)})


def test_plain_cpm_bee_answers_through_tokenizer_dicts(golden):
    tokenizer = CpmBeeTokenizer(vocab_file=str(Path(__file__).parents[1] / "golden" / "vocab.txt"))
    torch.manual_seed(0)
    config = CpmBeeConfig(
        vocab_size=410,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=8,
        scale_down_proj_input=False,
    )
    model = CpmBeeForCausalLM(config).eval()
    data = [{"input": "今天天气真好，q", "<ans>": ""}, {"question": "What is this?", "<ans>": ""}]
    batch = tokenizer(data, return_tensors="pt")
    output = model.generate(**batch, num_beams=2, max_new_tokens=6, repetition_penalty=1.1, pad_token_id=0)
    for row, sample, table in zip(output, data, batch.ext_tables, strict=True):
        single = tokenizer([sample], return_tensors="pt")
        alone = model.generate(**single, num_beams=2, max_new_tokens=6, repetition_penalty=1.1, pad_token_id=0)
        answer = alone[0, single["input_ids"].shape[1] :]
        assert trimmed(row[batch["input_ids"].shape[1] :]) == trimmed(answer)
        assert isinstance(tokenizer.decode(answer, ext_table=table), str)


def test_one_checkpoint_in_two_precisions_loads_in_its_own(chat_repo, chat_inputs):
    half = AutoModelForImageTextToText.from_pretrained(chat_repo, dtype=torch.float16)
    inputs = chat_inputs((0, SHORT))
    output = half.generate(**inputs, num_beams=3, max_new_tokens=6)
    assert half.dtype == torch.float16 and new_tokens(output, inputs).shape == (1, 6)


# ---------------------------------------------------------------- what transformers' users expect of generate()

OUTPUTS = dict.fromkeys(("output_scores", "output_logits", "output_hidden_states", "output_attentions"), True)
OUTPUTS["return_dict_in_generate"] = True


@pytest.mark.parametrize("arguments", [{"num_beams": 3, "num_return_sequences": 2}, {"num_beams": 1}])
def test_outputs_asked_for_are_there(chat_model, chat_inputs, arguments):
    """Scores, logits, states, attentions, beam indices and cache of beams, in transformers' shapes."""
    inputs = chat_inputs((0, LONG), (1, SHORT))
    beams, length = arguments["num_beams"], inputs["input_ids"].shape[1]
    arguments = {**arguments, "max_new_tokens": 6, "min_new_tokens": 6}
    plain = chat_model.generate(**inputs, **arguments)
    found = chat_model.generate(**inputs, **arguments, **OUTPUTS)
    assert torch.equal(found.sequences, plain)
    config = chat_model.config.text_config
    rows, width = 2 * beams, config.vocab_size + inputs["ext_table_ids"].shape[1]
    assert len(found.scores) == len(found.logits) == len(found.hidden_states) == len(found.attentions) == 6
    for step in range(6):
        read = length if step == 0 else 1
        assert found.scores[step].shape == found.logits[step].shape == (rows, width)
        assert {tuple(state.shape) for state in found.hidden_states[step]} == {(rows, read, config.hidden_size)}
        shape = (rows, config.num_attention_heads, read, length + step)
        assert {tuple(weights.shape) for weights in found.attentions[step]} == {shape}
        totals = found.attentions[step][-1].sum(-1)[inputs["attention_mask"].repeat_interleave(beams, 0).bool()[:, -1]]
        torch.testing.assert_close(totals, torch.ones_like(totals))
    cache = found[CACHE]
    assert cache.get_seq_length() == length + 5 and cache.layers[0].keys.shape[0] == rows
    scores = chat_model.compute_transition_scores(
        found.sequences, found.scores, getattr(found, "beam_indices", None), normalize_logits=beams == 1
    )
    assert scores.shape == (len(plain), 6)
    if beams > 1:
        penalty = 6**chat_model.generation_config.length_penalty
        torch.testing.assert_close(scores.sum(1) / penalty, found.sequences_scores)


def test_cache_of_the_beams_is_that_of_their_sequences(chat_model, chat_inputs):
    """What is handed out after a search is what reading each beam alone would have left."""
    inputs = chat_inputs((0, LONG))
    arguments = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 7, "min_new_tokens": 7}
    found = chat_model.generate(**inputs, **arguments, return_dict_in_generate=True, output_hidden_states=True)
    last = found.hidden_states[-1][-1][:, -1]  # of the token before the last, for each running beam
    for sequence, came_from in zip(found.sequences, found.beam_indices, strict=True):
        side = {key: value for key, value in inputs.items() if key not in ("input_ids", "attention_mask")}
        alone = chat_model(input_ids=sequence[None, :-1], **side, output_hidden_states=True)
        row = int(came_from[-1])
        torch.testing.assert_close(alone.hidden_states[-1][0, -1], last[row], atol=1e-4, rtol=1e-4)
        keys = [layer.keys for layer in (alone[CACHE].layers[-1], found[CACHE].layers[-1])]
        assert any(torch.allclose(keys[0][0], keys[1][beam], atol=1e-4) for beam in range(3))


def test_words_come_from_the_own_prompt_in_any_order(chat_model, chat_inputs, chat_processor):
    """Two prompts whose ids are the same; rows, columns, copies, pickles and threads keep their words apart."""
    only = {"prefix_allowed_tokens_fn": lambda batch, ids: [chat_processor.tokenizer.unk_token_id]}
    read = chat_processor.post_process_image_text_to_text
    outputs = {}
    for word in "鲲凤":
        inputs = chat_inputs((0, f"{word}在哪里？"))
        length = inputs["input_ids"].shape[1]
        outputs[word] = chat_model.generate(**inputs, max_new_tokens=2, **only)
    for word, output in outputs.items():
        new = output[:, length:]
        assert read(new) == [word * 2]
        for same in (new[0], new.cpu().clone(), pickle.loads(pickle.dumps(new)), copy.deepcopy(new), new[None][0]):
            assert read(same) == [word * 2]
        assert read(output)[0].endswith(word * 2)
        assert read(new.tolist()) == ["<unk><unk>"]
        (decoded,) = chat_processor.batch_decode(output, skip_special_tokens=True)
        assert decoded.count(word) == 2 and decoded == chat_processor.decode(output[0], skip_special_tokens=True)
        assert type(new + 0) is torch.Tensor and torch.equal(new + 0, new)
        assert read(new.view(-1)) == [word * 2] and read(new[:, :0]) == [""]
        file = io.BytesIO()
        torch.save(new, file)
        file.seek(0)
        assert read(torch.load(file)) == [word * 2]
    both = chat_inputs((0, "鲲在哪里？"), (0, "凤在哪里？我们"))
    new = chat_model.generate(**both, max_new_tokens=2, **only)[:, both["input_ids"].shape[1] :]
    assert read(new) == ["鲲鲲", "凤凤"] and read(new[1:]) == ["凤凤"] and read(new[1]) == ["凤凤"]
    assert [read(row) for row in new] == [["鲲鲲"], ["凤凤"]]
    assert read(new.reshape(2, 1, 2).flatten(0, 1)) == ["鲲鲲", "凤凤"]
    assert read(torch.cat([new, new])) == ["<unk><unk>"] * 4
    kept = new[:1]
    new[:] = new[torch.tensor([1, 0])]  # whoever writes to them, knows which words they are now
    assert read(new) == ["<unk><unk>"] * 2 and read(kept) == ["<unk><unk>"]
    plain = chat_inputs((0, "我"))
    assert type(chat_model.generate(**plain, max_new_tokens=2)) is torch.Tensor


def test_prompt_lookup_knows_words_of_the_question(chat_models, chat_inputs):
    inputs = chat_inputs((0, "鲲在凤在龙"))
    expected = chat_models["eos"].generate(**inputs, num_beams=1, max_new_tokens=12)
    found = chat_models["eos"].generate(**inputs, num_beams=1, max_new_tokens=12, prompt_lookup_num_tokens=3)
    assert torch.equal(found, expected)


def test_generation_in_training_mode_with_checkpointing(chat_repo, chat_inputs):
    model = AutoModelForImageTextToText.from_pretrained(chat_repo)
    inputs = chat_inputs((0, LONG))
    expected = [model.generate(**inputs, num_beams=beams, max_new_tokens=5) for beams in (1, 3)]
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    model.train()
    assert [
        torch.equal(model.generate(**inputs, num_beams=beams, max_new_tokens=5), ids)
        for beams, ids in zip((1, 3), expected, strict=True)
    ] == [True, True]


def test_a_training_batch_is_asked_without_its_answers(chat_model, chat_inputs, chat_processor):
    """Seq2SeqTrainer gives generate() the whole batch, padded on the right, with labels."""
    samples = [{"image": None, "question": q, "answer": a} for q, a in ((SHORT, "我们"), (LONG, "你"))]
    batch = ChatCollator(chat_processor)(samples)
    prompts = chat_processor(text=[SHORT, LONG])
    arguments = {"max_new_tokens": 5, "min_new_tokens": 5}
    expected = chat_model.generate(**prompts, **arguments)[:, prompts["input_ids"].shape[1] :]
    found = chat_model.generate(**batch, **arguments)
    assert torch.equal(found[:, -5:], expected)


def test_embeddings_keep_their_number(chat_model):
    size = chat_model.config.text_config.vocab_size
    assert chat_model.resize_token_embeddings(size).weight.shape[0] == size
    for arguments in ((size + 2,), (size - 1,), (None, 64)):
        for model in (chat_model, chat_model.model, chat_model.model.language_model):
            with pytest.raises(ValueError, match=f"expected {size}"):
                model.resize_token_embeddings(*arguments)


@pytest.mark.parametrize(
    "setting",
    [
        {"num_beams": 0},
        {"num_beams": True},
        {"max_new_tokens": 0},
        {"max_new_tokens": 2.0},
        {"length_penalty": float("nan")},
        {"length_penalty": float("inf")},
        {"beam_temperature": 0.0},
        {"repetition_window": 0},
        {"repetition_penalty": float("nan")},
        {"temperature": 0.0, "do_sample": True, "num_beams": 1},
        {"top_p": 1.5, "do_sample": True, "num_beams": 1},
        {"penalty_alpha": 0.6, "top_k": 4, "num_beams": 1},
        {"dola_layers": "high", "num_beams": 1},
        {"num_beam_groups": 3},
        {"early_stopping": "never"},
        {"synced_gpus": True},
        {"stop_strings": ["左"]},
        {"stop_strings": 5},
        {"stop_strings": ""},
        {"generation_config": {"num_beams": 1}},
        {"token_healing": True},
        {"assistant_early_exit": 1, "num_beams": 1},
        {"prefill_chunk_size": 0},
        {"do_sample": "no"},
        {"eos_token_id": "7"},
        {"sequence_bias": {(5,): float("nan")}},
        {"exponential_decay_length_penalty": (1, float("nan"))},
        {"stopping_criteria": "stop"},
        {"logits_processor": 5},
        {"cache": 5},
        {"guidance_scale": 1.5},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_a_setting_without_meaning_is_named_before_any_work(chat_model, chat_inputs, setting, monkeypatch):
    inputs = chat_inputs((0, LONG))
    monkeypatch.setattr(chat_model.model, "forward", None)
    with pytest.raises(ValueError) as error:
        chat_model.generate(**inputs, **{"num_beams": 3, **setting})
    assert next(iter(setting)) in str(error.value) and "\n" not in str(error.value)


def test_an_answer_goes_on_with_its_cache_or_without(chat_models, chat_inputs):
    """With the mask of the prompt, padded or not, as `generate()` was called before."""
    model, greedy = chat_models["plain"], {"num_beams": 1, "repetition_penalty": 1.0}
    for prompts in ([(0, LONG)], [(0, LONG), (1, SHORT)]):
        inputs = chat_inputs(*prompts)
        whole = model.generate(**inputs, **greedy, max_new_tokens=9, min_new_tokens=9)
        begun = model.generate(
            **inputs, **greedy, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True, use_cache=True
        )
        more = {**inputs, "input_ids": begun.sequences}
        for cache in (begun[CACHE], None):
            found = model.generate(**more, **greedy, max_new_tokens=5, min_new_tokens=5, past_key_values=cache)
            assert torch.equal(found, whole)
        with pytest.raises(ValueError, match="a cache of"):
            model.generate(**inputs, **greedy, max_new_tokens=2, past_key_values=begun[CACHE])


def test_logits_that_are_not_numbers_end_a_search(chat_model, chat_inputs):
    def broken(input_ids, scores):
        return scores * float("nan")

    with pytest.raises(ValueError, match="not numbers"):
        chat_model.generate(**chat_inputs((0, SHORT)), num_beams=3, max_new_tokens=3, logits_processor=broken)


def test_ids_of_words_without_their_tables_are_refused(chat_model, chat_inputs):
    """As from a pipeline that hands on ids and mask alone."""
    inputs = chat_inputs((None, "鲲在凤在龙"))
    with pytest.raises(ValueError, match="need ext_table_ids"):
        chat_model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])


def test_early_stopping_ends_with_enough_answers(chat_models, chat_inputs):
    inputs, arguments = chat_inputs((0, SHORT)), {"num_beams": 3, "max_new_tokens": 60}
    whole = chat_models["eos_strong"].generate(**inputs, **arguments)
    early = chat_models["eos_strong"].generate(**inputs, **arguments, early_stopping=True)
    assert early.shape[1] < whole.shape[1]
