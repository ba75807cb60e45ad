"""Guards the vision tower and the connector: every recorded layer of the original, and refusal of wrong pictures."""

import copy

import pytest
import torch


def test_every_layer_matches_the_original(chat_model, golden):
    recorded = golden("chat_vision.safetensors")
    output = chat_model.model.vision_tower(recorded["pixel_values"], output_hidden_states=True)
    for index, hidden_states in enumerate(output.hidden_states):
        torch.testing.assert_close(hidden_states, recorded[f"encoder_state_{index}"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.last_hidden_state, recorded["encoder_out_all"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.pooler_output, recorded["vpm_query_output"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("level", ["model", "head"])
def test_image_features_are_in_the_language_models_width(chat_model, golden, level):
    recorded = golden("chat_vision.safetensors")
    model = chat_model.model if level == "model" else chat_model
    features = model.get_image_features(recorded["pixel_values"])
    torch.testing.assert_close(features.pooler_output, recorded["vision_hidden_states"], atol=1e-5, rtol=1e-5)
    assert isinstance(model.get_image_features(recorded["pixel_values"], return_dict=False), tuple)


def test_half_precision_stays_near_the_originals_half(chat_repo, golden):
    from transformers import AutoModelForImageTextToText

    recorded, pixels = golden("chat_half.safetensors"), golden("chat_vision.safetensors")["pixel_values"][:1]
    model = AutoModelForImageTextToText.from_pretrained(chat_repo, dtype=torch.float16)
    features = model.get_image_features(pixels).pooler_output
    assert features.dtype == torch.float16
    torch.testing.assert_close(features, recorded["vision_hidden_states_half"], atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 32, 32), (3, 32, 32)])
def test_wrong_picture_shapes_are_refused(chat_model, shape):
    with pytest.raises(ValueError, match=r"expected \(images, 3, 32, 32\)"):
        chat_model.get_image_features(torch.zeros(shape))


def test_anything_but_pictures_is_refused(chat_model):
    for value in (None, [1, 2], "picture"):
        with pytest.raises(ValueError, match=r"shape \(\), expected \(images, 3, 32, 32\)"):
            chat_model.model.vision_tower(value)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attentions_are_shown_when_asked_for(chat_model, golden, implementation):
    pixels = golden("chat_vision.safetensors")["pixel_values"]
    model = copy.deepcopy(chat_model.model.vision_tower)
    model.set_attn_implementation(implementation)
    plain, shown = model(pixels), model(pixels, output_attentions=True)
    assert plain.attentions is None and len(shown.attentions) == model.config.num_hidden_layers
    tokens = shown.last_hidden_state.shape[1]
    for weights in shown.attentions:
        assert weights.shape == (len(pixels), model.config.num_attention_heads, tokens, tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    torch.testing.assert_close(shown.last_hidden_state, plain.last_hidden_state, atol=1e-5, rtol=1e-5)


def test_configuration_asks_as_a_call_does(chat_model, golden):
    pixels = golden("chat_vision.safetensors")["pixel_values"]
    model = copy.deepcopy(chat_model.model.vision_tower)
    model.set_attn_implementation("eager")
    asked = model(pixels, output_hidden_states=True, output_attentions=True)
    model.config.output_hidden_states = model.config.output_attentions = True
    model.config.return_dict = False
    output = model(pixels)
    assert isinstance(output, tuple) and len(output) == 4
    assert torch.equal(output[1], asked.pooler_output) and torch.equal(output[2][-1], asked.hidden_states[-1])
    assert torch.equal(output[3][0], asked.attentions[0])
    assert model(pixels, return_dict=True, output_attentions=False).attentions is None


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing_enable:FutureWarning")
def test_input_embeddings_are_the_patches(chat_model, golden):
    model = copy.deepcopy(chat_model.model.vision_tower)
    patches = model.get_input_embeddings()
    assert patches is model.embeddings.patch_embedding
    model.set_input_embeddings(copy.deepcopy(patches))
    assert model.get_input_embeddings() is not patches

    # adapters behind gradient checkpointing need a gradient that comes from the input
    model.requires_grad_(False)
    model.layers[0].self_attn.q_proj.B.weight.requires_grad_(True)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()  # its old name, for the oldest transformers
    model.train()
    model(golden("chat_vision.safetensors")["pixel_values"]).pooler_output.sum().backward()
    assert model.layers[0].self_attn.q_proj.B.weight.grad.abs().sum() > 0
