"""Configurations of the converted model: sizes from the tensors, the rest from the original's JSON or as published."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from ...remote_code.modeling_beit3 import POSITION_OFFSET, Beit3VisionConfig
from ...remote_code.modeling_cpmbee import CpmBeeConfig
from ...remote_code.tokenization_cpmbee import CpmBeeTokenizer
from ..errors import CheckpointError, listed
from ..files.json_file import is_size, named, quoted, read_json_file

# what the tensors do not show, as published
LLM_PUBLISHED = {"position_bias_max_distance": 2048, "eps": 1e-6, "half": True}
POSITION_BIAS_PUBLISHED = (256, 256)  # buckets for distances, for relations between segments
VISION_PUBLISHED = {"encoder_attention_heads": 16}
MOST = 2**20  # of a number that the tensors do not show

# keys of the original's configurations that have one supported value
LLM_FIXED = {"dropout_p": 0, "mask_modules": None}
VISION_FIXED = {
    "activation_dropout": 0,
    "activation_fn": "gelu",
    "attention_dropout": 0,
    "deepnorm": False,
    "drop_path_rate": 0,
    "dropout": 0,
    "encoder_normalize_before": True,
    "in_chans": 3,
    "layernorm_embedding": False,
    "layernorm_eps": 1e-5,
    "max_rel_pos": 0,
    "moe_expert_count": 0,
    "moe_freq": 0,
    "moe_top1_expert": False,
    "multiway": True,
    "no_output_layer": True,
    "no_scale_embedding": True,
    "normalize_output": True,
    "rel_pos_buckets": 0,
    "share_encoder_input_output_embed": False,
    "subln": True,
    "use_xmoe": False,
    "xpos_rel_pos": False,
}
# keys that say nothing about how a trained model computes
VISION_IGNORED = {
    "bert_init",
    "checkpoint_activations",
    "ddp_rank",
    "fsdp",
    "moe_eval_capacity_token_fraction",
    "moe_gating_use_fp32",
    "moe_normalize_gate_prob_before_dropping",
    "moe_second_expert_policy",
    "vocab_size",  # of the text embedding, which is never used
    "xpos_scale_base",
}


def llm_config(
    sizes: Mapping[str, int], tokenizer: CpmBeeTokenizer, declared: str | Path | None, scale_down_proj_input: bool
) -> CpmBeeConfig:
    """Configuration of the language model.

    Args:
        sizes: read off the tensors.
        tokenizer: names the special ids.
        declared: the original's JSON file, or None for the published values.
        scale_down_proj_input: whether 1/sqrt(fan_in) of the last linear layer is applied before it.

    Raises:
        CheckpointError: sizes, vocabulary and JSON contradict each other.
    """
    if tokenizer.vocab_size != sizes["vocab_size"]:
        raise CheckpointError(
            f"The vocabulary {tokenizer.vocab_file} has {tokenizer.vocab_size} entries but the checkpoint's embedding "
            f"has {sizes['vocab_size']} rows; give the vocabulary the checkpoint was trained with."
        )
    sizes = dict(sizes)
    width, heads, rows = (sizes.pop(key) for key in ("num_heads*dim_head", "num_heads", "position_bias_rows"))
    if width % heads:
        raise CheckpointError(
            f"The attention is {width} wide, which the {heads} heads of the position bias table do not divide."
        )
    known = {key: sizes[key] for key in ("vocab_size", "dim_model", "dim_ff", "num_layers")}
    known |= {"num_heads": heads, "dim_head": width // heads}
    split = ("position_bias_num_buckets", "position_bias_num_segment_buckets")
    values = declared_values(declared, "--llm-config", known, {**LLM_PUBLISHED, **dict.fromkeys(split, 1)}, LLM_FIXED)
    buckets = [values.pop(key, None) for key in split]
    if buckets == [None, None]:
        buckets = list(POSITION_BIAS_PUBLISHED)
    # the table shows the sum, so one number gives the other
    buckets = [rows - buckets[1 - side] if number is None else number for side, number in enumerate(buckets)]
    if sum(buckets) != rows or min(buckets) < 1:
        raise CheckpointError(
            f"The position bias table has {rows} rows, not {buckets[0]} for distances and {buckets[1]} for segments; "
            f"give the right {split[0]} and {split[1]} with --llm-config."
        )
    values = {**LLM_PUBLISHED, **values}
    exact = buckets[0] // 4  # distances below this have a bucket each, those up to the maximum share the others
    if not 1 <= exact < values["position_bias_max_distance"]:
        raise CheckpointError(
            f"{split[0]} is {buckets[0]} and position_bias_max_distance {values['position_bias_max_distance']}, "
            "expected at least 4 buckets and a distance beyond a quarter of them; correct --llm-config."
        )
    return CpmBeeConfig(
        vocab_size=known["vocab_size"],
        hidden_size=known["dim_model"],
        intermediate_size=known["dim_ff"],
        num_hidden_layers=known["num_layers"],
        num_attention_heads=heads,
        head_dim=width // heads,
        rms_norm_eps=float(values["eps"]),
        position_bias_num_buckets=buckets[0],
        position_bias_num_segment_buckets=buckets[1],
        position_bias_max_distance=values["position_bias_max_distance"],
        rotary_dtype="float16" if values["half"] else "float32",
        scale_down_proj_input=scale_down_proj_input,
        pad_token_id=tokenizer.pad_token_id,
        unk_token_id=tokenizer.unk_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def vision_config(sizes: Mapping[str, int], declared: str | Path | None) -> Beit3VisionConfig:
    """Configuration of the vision tower.

    Args:
        sizes: read off the tensors.
        declared: JSON file with torchscale's `EncoderConfig` names and `query_num`, or None for the published values.

    Raises:
        CheckpointError: sizes and JSON contradict each other.
    """
    patches = sizes["image_positions"] - POSITION_OFFSET - 1  # one position is the class token's
    side = math.isqrt(max(patches, 0))
    if not side or side * side != patches:
        raise CheckpointError(
            f"The picture's position table has {sizes['image_positions']} rows, expected 3 more than the number of "
            "patches of a square picture."
        )
    known = {key: sizes[key] for key in ("encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_layers", "query_num")}
    known |= {key: sizes[key] for key in ("max_source_positions", "patch_size")}
    known["img_size"] = side * sizes["patch_size"]
    if known["query_num"] + POSITION_OFFSET > known["max_source_positions"]:
        raise CheckpointError(
            f"{known['query_num']} queries need {known['query_num'] + POSITION_OFFSET} rows of the position table, "
            f"which has {known['max_source_positions']}."
        )
    values = declared_values(declared, "--vision-config", known, VISION_PUBLISHED, VISION_FIXED, VISION_IGNORED)
    heads = {**VISION_PUBLISHED, **values}["encoder_attention_heads"]
    if known["encoder_embed_dim"] % heads:
        raise CheckpointError(
            f"The vision tower is {known['encoder_embed_dim']} wide, which {heads} heads do not divide; give the "
            "right encoder_attention_heads with --vision-config."
        )
    return Beit3VisionConfig(
        image_size=known["img_size"],
        patch_size=known["patch_size"],
        hidden_size=known["encoder_embed_dim"],
        intermediate_size=known["encoder_ffn_embed_dim"],
        num_hidden_layers=known["encoder_layers"],
        num_attention_heads=heads,
        max_position_embeddings=known["max_source_positions"],
        query_num=known["query_num"],
    )


def declared_values(
    path: Path | None,
    option: str,
    known: Mapping[str, str],
    free: Collection[str],
    fixed: Mapping[str, object],
    ignored: Collection[str] = (),
) -> dict:
    """The free values a JSON file declares, once all it says is consistent with the checkpoint and supported.

    Args:
        path: the file, or None.
        option: of the command line, for messages; empty for a file that belongs to a repository.
        known: values that the tensors show; a list of equal numbers is as good as the number.
        free: keys that the tensors don't show, each with a value of the right type, a list also for its elements.
        fixed: keys with a single supported value.
        ignored: keys that may have any value.
    """
    if path is None:
        return {}
    if not Path(path).exists():
        advice = f"give {option} the path of a JSON file" if option else "give the folder of a converted repository"
        raise CheckpointError(f"There is no file {path}; {advice}.")
    what = f"{option} {path}".strip()
    declared = read_json_file(path, what)
    unknown = [named(key) for key in declared if key not in {*known, *free, *fixed, *ignored}]
    if unknown:
        raise CheckpointError(
            f"{what} has unknown keys: {listed(unknown)}; expected some of {', '.join([*known, *free])}."
        )
    wrong = [
        f"{key} is {quoted(declared[key])} but the tensors say {known[key]}"
        for key in known
        if key in declared and _collapsed(declared[key]) != _collapsed(known[key])
    ]
    if wrong:
        raise CheckpointError(f"{what} contradicts the checkpoint: {listed(wrong)}.")
    wrong = [
        f"{key} is {quoted(declared[key])}, supported is {fixed[key]!r}"
        for key in fixed
        if key in declared and declared[key] != fixed[key]
    ]
    if wrong:
        raise CheckpointError(f"{what} asks for what is not supported: {listed(wrong)}.")
    values = {key: declared[key] for key in free if key in declared}
    for key, value in values.items():
        example = free[key][0] if isinstance(free[key], list) else free[key]
        elements = value if isinstance(value, list) and value and isinstance(free[key], list) else [value]
        if not all(_sound(element, type(example)) for element in elements):
            wanted = WANTED[type(example)]
            raise CheckpointError(f"{what} has {key}={quoted(value)}, expected {wanted}.")
    return values


# what a free value may be, by the type of the published one
WANTED = {bool: "true or false", int: f"a positive int up to {MOST}", float: "a positive float up to 1"}


def _sound(value, kind: type) -> bool:
    if kind is int:
        return is_size(value, MOST)
    return type(value) is bool if kind is bool else type(value) in (int, float) and 1e-20 < value <= 1


def _collapsed(value):
    """The number itself for a list of equal numbers."""
    return value[0] if isinstance(value, list) and value and all(element == value[0] for element in value) else value
