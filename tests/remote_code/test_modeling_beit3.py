"""Guards the vision tower and the connector: every recorded layer of the original, and refusal of wrong pictures."""

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
