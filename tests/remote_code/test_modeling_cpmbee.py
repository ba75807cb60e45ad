"""Guards the language model: the original's numbers, whatever the padding, the kernel or the device."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, StaticCache

from viscpm_hf import CpmBeeConfig, CpmBeeForCausalLM, CpmBeeModel
from viscpm_hf.remote_code.modeling_cpmbee import CpmBeePositionBias

LOGITS_TOLERANCE = {"atol": 1e-4, "rtol": 0}


def without_picture(inputs):
    return {
        key: value for key, value in inputs.items() if key not in ("input_ids", "mm_token_type_ids", "pixel_values")
    }


def relative_error(found, expected):
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


@pytest.fixture(scope="module")
def padded(chat_inputs):
    return chat_inputs((0, "这张图片里有什么？"), (None, "q"), (1, "鲲鹏是什么颜色？鲲呢？q和鲲鹏"))


@pytest.mark.parametrize(
    "config, distances, buckets",
    [
        (CpmBeeConfig(), "bucket_full_relative_position", "bucket_full_256_2048"),
        (
            CpmBeeConfig(position_bias_num_buckets=32, position_bias_max_distance=64),
            "bucket_relative_position_key_minus_query",
            "bucket_small_config",
        ),
    ],
)
def test_distance_buckets_are_the_originals(golden, config, distances, buckets):
    recorded = golden("chat_misc.safetensors")
    found = CpmBeePositionBias(config).distance_bucket(recorded[distances].long())
    assert torch.equal(found, recorded[buckets].to(found.dtype))


def test_numbered_embeddings_are_the_originals(chat_model, golden):
    recorded = golden("chat_misc.safetensors")
    language_model = chat_model.model.language_model
    found = language_model.extension_embeddings(recorded["emb_ids"].long(), recorded["emb_subs"].long())
    torch.testing.assert_close(found, recorded["emb_out"], atol=1e-6, rtol=0)


def test_rotary_angles_keep_the_published_half_precision_in_float32_weights(chat_model, golden):
    recorded = golden("chat_half.safetensors")
    language_model = chat_model.model.language_model
    ids, subs = recorded["emb_ids"].long(), recorded["emb_subs"].long()
    language_model.config.rotary_dtype = "float16"
    try:
        found = language_model.extension_embeddings(ids, subs)
    finally:
        language_model.config.rotary_dtype = "float32"
    torch.testing.assert_close(found, recorded["emb_out_float_weights_half_angles"], atol=1e-6, rtol=0)
    assert (found - recorded["emb_out_float"]).abs().max() > 1e-2  # so the choice matters


@pytest.mark.parametrize(
    "name, context",
    [("q1", ""), ("q2", ""), ("q4ctx", "User: 天空是什么颜色？\nAI: 蓝色的鲲。\n")],
)
def test_prefill_and_cached_steps_match_the_original(chat_model, chat_inputs, golden, name, context):
    recorded, steps = golden("chat_inference.safetensors"), golden("chat_inference.json")[name]
    assert steps["context"] == context
    inputs = chat_inputs((0, steps["question"], context))
    output = chat_model(**inputs)
    # our prompt ends with the answer's <s>, which the original feeds as its first cached step
    torch.testing.assert_close(output.logits[:, :-1], recorded[f"{name}.prefill_logits"], **LOGITS_TOLERANCE)
    torch.testing.assert_close(output.logits[:, -1], recorded[f"{name}.step_0.logits"], **LOGITS_TOLERANCE)
    for index, step in enumerate(steps["steps"][:-1], start=1):
        output = chat_model(
            input_ids=torch.tensor([[step["fed_next_raw_id"]]]),
            past_key_values=output.past_key_values,
            **without_picture(inputs),
        )
        torch.testing.assert_close(output.logits[:, -1], recorded[f"{name}.step_{index}.logits"], **LOGITS_TOLERANCE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_attention_kernels_agree_with_padding(chat_repo, chat_model, padded, attention, dtype):
    model = AutoModelForImageTextToText.from_pretrained(chat_repo, attn_implementation=attention, dtype=dtype)
    assert model.model.language_model.config._attn_implementation == attention
    logits = model(**padded).logits.float()
    assert logits.isfinite().all()
    real, expected = padded["attention_mask"].bool(), chat_model(**padded).logits
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}[dtype]
    assert relative_error(logits[real], expected[real]) < tolerance


def test_half_precision_with_numbered_tokens_is_as_near_as_the_originals_half(chat_repo, golden, chat_inputs):
    recorded, pixels = golden("chat_half.safetensors"), golden("chat_vision.safetensors")["pixel_values"][:1]
    model = AutoModelForImageTextToText.from_pretrained(chat_repo, dtype=torch.float16)
    model.config.text_config.rotary_dtype = "float16"
    ids, subs = recorded["input_ids"].long(), recorded["input_id_subs"].long()
    for column, (base, sub) in enumerate(zip(recorded["ext_ids"].tolist(), recorded["ext_sub"].tolist(), strict=True)):
        ids = torch.where((ids == base) & (subs == sub), 410 + column, ids)
    segments = (ids == 6).cumsum(1) - 1  # every segment begins with <s>
    places = (segments == 2).long() * (ids == 1)
    output = model(
        input_ids=ids,
        segment_ids=segments,
        context_mask=torch.ones_like(ids),
        segment_rel=chat_inputs((0, "q"))["segment_rel"],
        mm_token_type_ids=places,
        ext_table_ids=recorded["ext_ids"][None].long(),
        ext_table_subs=recorded["ext_sub"][None].long(),
        pixel_values=pixels,
        output_hidden_states=True,
    )
    theirs = relative_error(recorded["prefill_hidden_half"], recorded["prefill_hidden_float"])
    ours = relative_error(output.hidden_states[-1], recorded["prefill_hidden_half"])
    assert ours < 2e-2 and theirs < 2e-1, (ours, theirs)
    assert relative_error(output.logits[:, -1], recorded["prefill_last_logits_half"]) < 2e-2


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_kernels_without_a_bias_are_refused_with_a_sentence(chat_repo, attention):
    with pytest.raises((ValueError, ImportError), match="(?i)attention"):
        AutoModelForImageTextToText.from_pretrained(chat_repo, attn_implementation=attention)


def test_left_and_right_padding_change_nothing(chat_model, chat_processor, padded):
    alone = [chat_processor.encode_chat(False, question) for question in ("q", "这张图片里有什么？鲲鹏")]
    for side in ("left", "right"):
        batch = chat_processor.pad(alone, padding_side=side)
        logits = chat_model(**batch).logits
        for row, encoding in enumerate(alone):
            single = chat_model(**chat_processor.pad([encoding])).logits[0]
            found = logits[row][batch["attention_mask"][row].bool()][:, : single.shape[-1]]
            torch.testing.assert_close(found, single, **LOGITS_TOLERANCE)


def test_padded_rows_evolve_as_in_the_original(chat_model, golden):
    # Paint's UNet attends to these rows; single_padded holds the original's hidden states behind the sample's end.
    recorded, pixels = golden("chat_train.safetensors"), golden("chat_vision.safetensors")["pixel_values"][:1]
    sample = {key.split(".", 1)[1]: value for key, value in recorded.items() if key.startswith("single_padded.")}
    length = sample["input_ids"].shape[1]
    places = torch.zeros(1, length, dtype=torch.long)
    places[:, slice(*sample["image_bound"][0, 0].tolist())] = 1
    output = chat_model.model(
        input_ids=sample["input_ids"].long(),
        attention_mask=(torch.arange(length)[None] < sample["length"][:, None]).long(),
        segment_ids=sample["segment_ids"].long(),
        context_mask=sample["context"].long(),
        segment_rel=sample["segment_rel"].long().view(1, 9, 9),
        mm_token_type_ids=places,
        pixel_values=pixels,
    )
    torch.testing.assert_close(output.last_hidden_state, sample["hidden_states"], atol=1e-4, rtol=0)


def test_without_side_inputs_the_model_is_causal():
    torch.manual_seed(0)
    model = CpmBeeModel(CpmBeeConfig(**TINY)).eval()
    ids = torch.randint(0, 50, (1, 8))
    full = model(ids).last_hidden_state
    torch.testing.assert_close(model(ids[:, :5]).last_hidden_state, full[:, :5], atol=1e-5, rtol=1e-5)


TINY = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 8,
    "position_bias_num_buckets": 16,
    "position_bias_num_segment_buckets": 66,
}


def test_down_proj_scale_order_is_a_config_field():
    # Equal in exact arithmetic; in float16 dividing last overflows where dividing first does not.
    torch.manual_seed(0)
    first = CpmBeeModel(CpmBeeConfig(**TINY)).layers[0].mlp
    last = CpmBeeModel(CpmBeeConfig(**TINY, scale_down_proj_input=False)).layers[0].mlp
    last.load_state_dict(first.state_dict())
    hidden_states = torch.randn(1, 3, 32)
    torch.testing.assert_close(first(hidden_states), last(hidden_states), atol=1e-5, rtol=1e-5)
    large = (hidden_states * 75).half()
    assert first.half()(large).isfinite().all() and not last.half()(large).isfinite().all()


def test_exactly_one_kind_of_input(chat_model):
    with pytest.raises(ValueError, match="exactly one"):
        chat_model.model.language_model()


def test_hidden_states_and_attentions_are_returned_on_request(chat_repo, padded):
    model = AutoModelForImageTextToText.from_pretrained(chat_repo, attn_implementation="eager")
    output = model(**padded, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 4 and len(output.attentions) == 3
    assert output.attentions[0].shape == (3, 4, padded["input_ids"].shape[1], padded["input_ids"].shape[1])
    plain = model(**padded, return_dict=False)
    assert isinstance(plain, tuple) and torch.equal(plain[0], output.logits)


def test_gradient_checkpointing_gives_the_same_gradients(chat_repo, padded):
    gradients = []
    for checkpointing in (False, True):
        model = AutoModelForImageTextToText.from_pretrained(chat_repo).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert (
                model.model.language_model.gradient_checkpointing and model.model.vision_tower.gradient_checkpointing
            )
        model(**padded, labels=padded["input_ids"].clamp(max=400)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 100
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_saved_shards_load_to_the_same_tied_weights(chat_model, chat_repo, padded, tmp_path):
    chat_model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    model, report = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert torch.equal(model(**padded).logits, chat_model(**padded).logits)


def test_cpu_and_disk_offload_give_the_same_logits(chat_repo, chat_model, padded, tmp_path):
    places = {
        "model.vision_tower": "disk",
        "model.connector": "cpu",
        "model.language_model.embed_tokens": "cpu",
        "model.language_model.position_bias": "disk",
        "model.language_model.layers.0": "cpu",
        "model.language_model.layers.1": "disk",
        "model.language_model.layers.2": "disk",
        "model.language_model.norm": "disk",
        "lm_head": "cpu",
    }
    model = AutoModelForImageTextToText.from_pretrained(chat_repo, device_map=places, offload_folder=tmp_path)
    assert next(model.model.language_model.layers[1].parameters()).device.type == "meta"
    torch.testing.assert_close(model(**padded).logits, chat_model(**padded).logits, atol=1e-5, rtol=1e-5)
    generated = [m.generate(**padded, max_new_tokens=6) for m in (model, chat_model)]
    assert torch.equal(*generated)


def test_one_compiled_graph_serves_decode_steps_with_a_static_cache(chat_repo, chat_model, chat_inputs):
    torch.compiler.reset()
    model = AutoModelForImageTextToText.from_pretrained(chat_repo)
    inputs = chat_inputs((0, "鲲鹏是什么颜色？"))
    prompt = inputs["input_ids"].shape[1]
    graphs = []

    def count_graphs(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    cache = StaticCache(config=model.config.get_text_config(decoder=True), max_cache_len=prompt + 8)
    side = without_picture(inputs)
    with torch.no_grad():
        prepared = model.prepare_inputs_for_generation(
            past_key_values=cache, is_first_iteration=True, use_cache=True, **inputs
        )
        logits = model(**prepared).logits[:, -1]
        compiled, ids = torch.compile(model, backend=count_graphs, fullgraph=True), inputs["input_ids"]
        for _ in range(7):
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
            prepared = model.prepare_inputs_for_generation(
                ids, next_sequence_length=1, past_key_values=cache, use_cache=True, **side
            )
            logits = compiled(**prepared).logits[:, -1]
    assert len(graphs) == 1
    # the loop above has neither penalty nor ban, so it is compared with itself uncompiled through generate
    ban_free = {key: value for key, value in inputs.items() if key != "unk_allowed"}
    plain = chat_model.generate(**ban_free, num_beams=1, max_new_tokens=7, repetition_penalty=1.0)
    assert torch.equal(ids, plain)


def test_plain_language_model_resizes_saves_and_generates(tmp_path):
    torch.manual_seed(0)
    model = CpmBeeForCausalLM(CpmBeeConfig(**TINY)).eval()
    model.save_pretrained(tmp_path)
    reloaded = CpmBeeForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(10, 50, (2, 6))
    arguments = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **arguments), reloaded.generate(ids, **arguments))
    base = CpmBeeModel.from_pretrained(tmp_path)
    assert torch.equal(base(ids).last_hidden_state, reloaded.model(ids).last_hidden_state)


def test_embeddings_are_what_the_embedding_layer_returns(chat_model, chat_inputs):
    """As for any model: `inputs_embeds` of a prompt without unknown words, and the layer's own output."""
    inputs = chat_inputs((None, "这是什么"))
    assert "ext_table_ids" not in inputs
    expected = chat_model(**inputs).logits
    embeddings = chat_model.get_input_embeddings()(inputs.pop("input_ids"))
    torch.testing.assert_close(chat_model(inputs_embeds=embeddings, **inputs).logits, expected)


def test_tuples_are_returned_where_they_are_asked_for(chat_repo, chat_inputs):
    """By the configuration as by the argument, from every model of the family; `generate()` does not mind."""
    inputs = chat_inputs((0, "这张图片里有什么？"))
    model = AutoModelForImageTextToText.from_pretrained(chat_repo).eval()
    expected, answer = model(**inputs), model.generate(**inputs, max_new_tokens=3)
    named = model(**inputs, return_dict=False)
    for part in (model.config, model.config.text_config, model.config.vision_config):
        part.return_dict = False
    for found in (named, model(**inputs)):
        assert isinstance(found, tuple)
        assert torch.equal(found[0], expected.logits)
    assert isinstance(model.model(**inputs), tuple) and isinstance(
        model.get_image_features(inputs["pixel_values"]), tuple
    )
    assert isinstance(model.model.language_model(inputs["input_ids"].clamp(max=9)), tuple)
    assert isinstance(model.model.vision_tower(inputs["pixel_values"]), tuple)
    assert model(**inputs, return_dict=True).logits.shape == expected.logits.shape
    assert torch.equal(model.generate(**inputs, max_new_tokens=3), answer)


def test_attentions_are_shown_whatever_the_implementation(chat_model, chat_inputs):
    inputs = chat_inputs((0, "这张图片里有什么？"), (1, "q"))
    plain, shown = chat_model(**inputs), chat_model(**inputs, output_attentions=True)
    torch.testing.assert_close(shown.logits, plain.logits, atol=1e-4, rtol=1e-4)
    assert len(shown.attentions) == 3 and plain.attentions is None
    shown.attentions[0].retain_grad()
    shown.logits.sum().backward()
    assert shown.attentions[0].grad is not None
    sums = torch.stack(shown.attentions).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
