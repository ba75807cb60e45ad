"""Guards configurations: the JSON may say what tensors don't show, and nothing that contradicts them."""

import json

import pytest
import torch

from viscpm_hf.checkpoint import CheckpointError


def with_json(folder, source, changes):
    """A copy of a JSON file with some entries changed, or removed if None."""
    values = {key: value for key, value in {**json.loads(source.read_text()), **changes}.items() if value is not None}
    path = folder / "changed.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"half": True}, {"rotary_dtype": "float16"}),
        ({"half": None}, {"rotary_dtype": "float16"}),
        ({"eps": 1e-5}, {"rms_norm_eps": 1e-5}),
        ({"eps": 1}, {"rms_norm_eps": 1.0}),
        ({"position_bias_max_distance": None}, {"position_bias_max_distance": 2048}),
        ({"position_bias_num_buckets": None}, {"position_bias_num_buckets": 32}),
        ({"position_bias_num_segment_buckets": None}, {"position_bias_num_segment_buckets": 80}),
        ({"dropout_p": 0}, {}),
        (
            {"vocab_size": None, "dim_model": None, "dim_head": None},
            {"vocab_size": 410, "hidden_size": 40, "head_dim": 8},
        ),
    ],
)
def test_accepted_language_configurations(convert, chat_checkpoint, tmp_path, changes, expected):
    out = convert(llm_config=with_json(tmp_path, chat_checkpoint / "llm_config.json", changes))
    assert expected.items() <= json.loads((out / "config.json").read_text())["text_config"].items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim_model": 48}, "contradicts the checkpoint: dim_model is 48 but the tensors say 40"),
        ({"num_heads": 2, "dim_head": 16}, "num_heads is 2 but the tensors say 4, dim_head is 16"),
        ({"num_layers": 4}, "num_layers is 4 but the tensors say 3"),
        ({"vocab_size": 411}, "vocab_size is 411 but the tensors say 410"),
        ({"half": "yes"}, "half='yes', expected true or false"),
        ({"half": 1}, "half=1, expected true or false"),
        ({"eps": 0}, "eps=0, expected a positive float"),
        ({"eps": "1e-6"}, "eps='1e-6', expected a positive float"),
        ({"position_bias_max_distance": True}, "expected a positive int"),
        ({"position_bias_max_distance": 8}, "distance beyond a quarter"),
        ({"position_bias_num_buckets": 40}, "has 112 rows, not 40 for distances and 80 for segments"),
        ({"position_bias_num_buckets": 112, "position_bias_num_segment_buckets": None}, "not 112 for distances and 0"),
        ({"position_bias_num_buckets": None, "position_bias_num_segment_buckets": None}, "not 256 for .* and 256"),
        ({"dropout_p": 0.1}, "dropout_p is 0.1, supported is 0"),
        ({"mask_modules": [[False, True]]}, "mask_modules is .* supported is None"),
        ({"hidden_size": 40}, "unknown keys: hidden_size"),
    ],
)
def test_refused_language_configurations(convert, chat_checkpoint, tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        convert(llm_config=with_json(tmp_path, chat_checkpoint / "llm_config.json", changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_attention_heads": None}, "24 wide, which 16 heads do not divide"),
        ({"encoder_attention_heads": 5}, "24 wide, which 5 heads do not divide"),
        ({"encoder_attention_heads": 0}, "expected a positive int"),
        ({"img_size": 224}, "img_size is 224 but the tensors say 32"),
        ({"patch_size": 16}, "patch_size is 16 but the tensors say 8"),
        ({"query_num": 64}, "query_num is 64 but the tensors say 6"),
        ({"multiway": False}, "multiway is False, supported is True"),
        ({"drop_path_rate": 0.1}, "drop_path_rate is 0.1, supported is 0"),
        ({"subln": False}, "subln is False"),
        ({"image_size": 32}, "unknown keys: image_size"),
    ],
)
def test_refused_vision_configurations(convert, chat_checkpoint, tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        convert(vision_config=with_json(tmp_path, chat_checkpoint / "vision_config.json", changes))


def test_further_keys_with_supported_or_no_meaning_are_accepted(convert, chat_checkpoint, tmp_path):
    changes = {"vocab_size": 64010, "checkpoint_activations": True, "subln": True, "dropout": 0.0, "fsdp": True}
    convert(vision_config=with_json(tmp_path, chat_checkpoint / "vision_config.json", changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[1]", "a JSON list"), ('{"half": true, "half": false}', "come twice: half"),
     ("[" * 100000, "not valid JSON"), ("\xff", "not valid JSON")],
)  # fmt: skip
def test_what_is_no_configuration(convert, tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=message):
        convert(llm_config=tmp_path / "a.json")
    with pytest.raises(CheckpointError, match="There is no file"):
        convert(vision_config=tmp_path / "b.json")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("llm.position_bias.relative_attention_bias", (112, 3), "32 wide, which the 3 heads"),
        ("vpm.beit3.encoder.embed_positions.A.weight", (20, 24), "20 rows, expected 3 more"),
        ("vpm.beit3.encoder.embed_positions.A.weight", (2, 24), "2 rows, expected 3 more"),
        ("vpm.beit3.encoder.embed_positions.B.weight", (7, 24), "6 queries need 8 rows"),
        ("llm.input_embedding.weight", (409, 40), "410 entries but the checkpoint's embedding has 409 rows"),
    ],
)
def test_impossible_sizes(convert, weights, tmp_path, name, shape, message):
    torch.save({**weights, name: torch.zeros(shape)}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "a.bin", **{"llm_config" if name.startswith("llm.") else "vision_config": None})
