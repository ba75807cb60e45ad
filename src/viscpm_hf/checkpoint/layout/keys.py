"""Key tables: every tensor of an original checkpoint, its name in the converted repository, its shape.

A table maps an original name to `(new name, shape)`; `{i}` counts layers and the words in a shape are sizes, named as
in the original's configuration, that all tensors must agree on. Sizes are read off the tensors: what most of them say.
A new name with a folder in it, such as `unet/conv_in.weight`, is `conv_in.weight` in that folder's weight file.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..errors import CheckpointError, listed
from ..files.stored import StoredTensor

Shape = tuple[str | int, ...]
Table = Mapping[str, tuple[str, Shape]]

_ATTENTION = "encoder.layers.{i}.self_att.self_attention."
CPMBEE: Table = {
    "input_embedding.weight": ("embed_tokens.weight", ("vocab_size", "dim_model")),
    "encoder.layers.{i}.self_att.layernorm_before_attention.weight": (
        "layers.{i}.input_layernorm.weight",
        ("dim_model",),
    ),
    _ATTENTION + "project_q.weight": ("layers.{i}.self_attn.q_proj.weight", ("num_heads*dim_head", "dim_model")),
    _ATTENTION + "project_k.weight": ("layers.{i}.self_attn.k_proj.weight", ("num_heads*dim_head", "dim_model")),
    _ATTENTION + "project_v.weight": ("layers.{i}.self_attn.v_proj.weight", ("num_heads*dim_head", "dim_model")),
    _ATTENTION + "attention_out.weight": ("layers.{i}.self_attn.o_proj.weight", ("dim_model", "num_heads*dim_head")),
    "encoder.layers.{i}.ffn.layernorm_before_ffn.weight": (
        "layers.{i}.post_attention_layernorm.weight",
        ("dim_model",),
    ),
    "encoder.layers.{i}.ffn.ffn.w_in.w_0.weight": ("layers.{i}.mlp.gate_proj.weight", ("dim_ff", "dim_model")),
    "encoder.layers.{i}.ffn.ffn.w_in.w_1.weight": ("layers.{i}.mlp.up_proj.weight", ("dim_ff", "dim_model")),
    "encoder.layers.{i}.ffn.ffn.w_out.weight": ("layers.{i}.mlp.down_proj.weight", ("dim_model", "dim_ff")),
    "encoder.output_layernorm.weight": ("norm.weight", ("dim_model",)),
    "position_bias.relative_attention_bias": (
        "position_bias.relative_attention_bias.weight",
        ("position_bias_rows", "num_heads"),
    ),
}

_E, _F = "encoder_embed_dim", "encoder_ffn_embed_dim"


def _multiway(original: str, name: str, weight: Shape) -> Table:
    """Both branches of a linear layer or a norm, with its bias; `{w}` stands for the branch."""
    return {
        f"{original.replace('{w}', way)}.{kind}": (f"{name.replace('{w}', way)}.{kind}", shape)
        for way in "AB"
        for kind, shape in (("weight", weight), ("bias", weight[:1]))
    }


_LAYER = "encoder.layers.{i}."
BEIT3: Table = {
    "vision_embed.cls_token": ("embeddings.cls_token", (1, 1, _E)),
    "vision_embed.proj.weight": ("embeddings.patch_embedding.weight", (_E, 3, "patch_size", "patch_size")),
    "vision_embed.proj.bias": ("embeddings.patch_embedding.bias", (_E,)),
    "encoder.embed_positions.A.weight": ("embeddings.position_embedding.A.weight", ("image_positions", _E)),
    "encoder.embed_positions.B.weight": ("embeddings.position_embedding.B.weight", ("max_source_positions", _E)),
    **_multiway(_LAYER + "self_attn.k_proj.{w}", "layers.{i}.self_attn.k_proj.{w}", (_E, _E)),
    **_multiway(_LAYER + "self_attn.v_proj.{w}", "layers.{i}.self_attn.v_proj.{w}", (_E, _E)),
    **_multiway(_LAYER + "self_attn.q_proj.{w}", "layers.{i}.self_attn.q_proj.{w}", (_E, _E)),
    **_multiway(_LAYER + "self_attn.out_proj.{w}", "layers.{i}.self_attn.out_proj.{w}", (_E, _E)),
    **_multiway(_LAYER + "self_attn.inner_attn_ln.{w}", "layers.{i}.self_attn.inner_attn_ln.{w}", (_E,)),
    **_multiway(_LAYER + "self_attn_layer_norm.{w}", "layers.{i}.self_attn_layer_norm.{w}", (_E,)),
    **_multiway(_LAYER + "ffn.{w}.fc1", "layers.{i}.mlp.{w}.fc1", (_F, _E)),
    **_multiway(_LAYER + "ffn.{w}.fc2", "layers.{i}.mlp.{w}.fc2", (_E, _F)),
    **_multiway(_LAYER + "ffn.{w}.ffn_layernorm", "layers.{i}.mlp.{w}.ffn_layernorm", (_F,)),
    **_multiway(_LAYER + "final_layer_norm.{w}", "layers.{i}.final_layer_norm.{w}", (_E,)),
    **_multiway("encoder.layer_norm.{w}", "layer_norm.{w}", (_E,)),
}

QUERIES: Table = {"query": ("query_tokens", ("query_num", _E))}

CONNECTOR: Table = {
    "mapping.0.weight": ("linear_1.weight", ("dim_model", _E)),
    "mapping.0.bias": ("linear_1.bias", ("dim_model",)),
    "mapping.2.weight": ("linear_2.weight", ("dim_model", "dim_model")),
    "mapping.2.bias": ("linear_2.bias", ("dim_model",)),
}

TEXT_PROJECTION: Table = {
    "w_out_res.weight": ("linear.weight", ("cross_attention_dim", "dim_model")),
    "layernorm.weight": ("norm.weight", ("cross_attention_dim",)),
    "layernorm.bias": ("norm.bias", ("cross_attention_dim",)),
}


def prefixed(table: Table, original: str, name: str) -> Table:
    """The table with something before every original and every new name."""
    return {original + key: (name + new, shape) for key, (new, shape) in table.items()}


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint.

    Args:
        name: for people.
        model_type: of the converted repository's config.json; of a pipeline, the class in its model_index.json.
        verb: that converts it.
        components: a key table for each part of the model.
        layers: for each part, the size that counts its `{i}`.
        language: the part that is the language model.
        stems: name of the weight file in each folder of the repository, without its ending.
        unused: tensors that the original stores but never uses; they may be absent, and have any shape.
        prefixes: what the names of all parts begin with, new by original; others are not used. None: no such rule.
    """

    name: str
    model_type: str
    verb: str
    components: Mapping[str, Table]
    layers: Mapping[str, str]
    language: str = "language_model"
    stems: Mapping[str, str] = field(default_factory=lambda: {"": "model"})
    unused: frozenset[str] = frozenset()
    prefixes: Mapping[str, str] | None = None

    def leaves_out(self, name: str) -> bool:
        """Whether a tensor is stored without being used."""
        if self.prefixes is None:
            return name in self.unused
        # not what begins like a new name either: that would lie twice in the repository
        return not name.startswith((*self.prefixes, *self.prefixes.values()))


CHAT = Family(
    name="VisCPM-Chat",
    model_type="viscpm_chat",
    verb="chat",
    components={
        "language_model": prefixed(CPMBEE, "llm.", "model.language_model."),
        "vision_tower": {
            **prefixed(BEIT3, "vpm.beit3.", "model.vision_tower."),
            **prefixed(QUERIES, "", "model.vision_tower."),
        },
        "connector": prefixed(CONNECTOR, "", "model.connector."),
    },
    layers={"language_model": "num_layers", "vision_tower": "encoder_layers"},
    unused=frozenset(
        {
            "vpm.beit3.text_embed.weight",
            "vpm.beit3.vision_embed.mask_token",
            "vpm.mim_head.weight",
            "vpm.mim_head.bias",
        }
    ),
)

PLAIN_CPMBEE = Family(
    name="CPM-Bee",
    model_type="cpmbee",
    verb="cpmbee",
    components={"language_model": prefixed(CPMBEE, "", "model.")},
    layers={"language_model": "num_layers"},
)

# without its UNet, whose names and shapes depend on its configuration: see `with_unet`
PAINT = Family(
    name="VisCPM-Paint",
    model_type="VisCPMPaintPipeline",
    verb="paint",
    components={
        "text_encoder": prefixed(CPMBEE, "llm.", "text_encoder/"),
        "text_projection": prefixed(TEXT_PROJECTION, "trans_block.", "text_projection/"),
    },
    layers={"text_encoder": "num_layers"},
    language="text_encoder",
    stems={
        "text_encoder": "model",
        "text_projection": "diffusion_pytorch_model",
        "unet": "diffusion_pytorch_model",
    },
    prefixes={"llm.": "text_encoder/", "trans_block.": "text_projection/", "unet.": "unet/"},
)


def with_unet(shapes: Mapping[str, tuple[int, ...]]) -> Family:
    """VisCPM-Paint with a UNet, whose tensors have the names that diffusers gives them.

    Args:
        shapes: of the UNet's tensors by name.
    """
    table = {}
    for name, shape in shapes.items():
        if re.search(r"\.attn2\.to_[kv]\.weight$", name):
            shape = (shape[0], "cross_attention_dim")  # must be what the text projection gives
        table[name] = (name, tuple(shape))
    return replace(PAINT, components={**PAINT.components, "unet": prefixed(table, "unet.", "unet/")})


# what only one family's names begin with, in the order to look
_MARKS = (
    (("unet.", "trans_block."), PAINT),
    (("vpm.", "mapping.", "query"), CHAT),
    (("encoder.", "input_embedding.", "position_bias."), PLAIN_CPMBEE),
)


# begins some name of every original checkpoint, and no name in a converted repository
ORIGINAL = ("llm.", "vpm.", "unet.", "encoder.", "input_embedding.")


def check_family(
    family: Family, names: Iterable[str], path: str | os.PathLike, repo: str | os.PathLike | None = None
) -> None:
    """Stops when the names are those of another kind of checkpoint.

    Args:
        family: that they should be of.
        names: of the checkpoint's tensors.
        path: of the checkpoint, for messages.
        repo: converted folder that it is compared with, if it is not to be converted.
    """
    names = list(names)
    if not names:
        raise CheckpointError(f"{path} holds no tensors.")
    if all(name.startswith("model.") for name in names):
        raise CheckpointError(
            f"All names in {path} begin with 'model.', as in a converted repository; give an original checkpoint, "
            "which `viscpm export` makes of one."
        )
    if lora := [name for name in names if re.search(r"\.lora(_[AB])?\.", name) and not family.leaves_out(name)]:
        if len(lora) == len(names):
            advice = "is a LoRA adapter; make one for a converted model of it with `viscpm convert lora`."
        else:
            advice = f"holds a LoRA adapter, such as {lora[0]}; merge it (peft: merge_and_unload()) and save that."
        raise CheckpointError(f"{path} {advice}")
    if not any(name.startswith(ORIGINAL) for name in names):
        raise CheckpointError(
            f"{path} is no {family.name} checkpoint: its tensors have names such as {listed(names, 3)}."
        )
    for marks, actual in _MARKS:
        if any(name.startswith(marks) for name in names):
            if actual.name != family.name:
                advice = f"convert it with `viscpm convert {actual.verb}`"
                if repo is not None:
                    advice = f"{repo} was converted from another file"
                raise CheckpointError(f"{path} is a {actual.name} checkpoint, not {family.name}; {advice}.")
            return


@dataclass(frozen=True)
class Match:
    """How a checkpoint fits its family.

    Args:
        names: new name by original name, in the checkpoint's order.
        components: part of the model by original name.
        unused: original names of the tensors the model does not need.
        sizes: by the names the key tables use.
    """

    names: dict[str, str]
    components: dict[str, str]
    unused: list[str]
    sizes: dict[str, int]


def match(family: Family, tensors: Mapping[str, StoredTensor], path: str | os.PathLike) -> Match:
    """Finds the place of every tensor and the model's sizes.

    Raises:
        CheckpointError: with the list of missing, unknown, misshapen and non-floating-point tensors.
    """
    sizes, found = {}, {}
    for component, table in family.components.items():
        in_table = {}
        for name in tensors:
            template, layer = _template(name, table)
            if template is not None:
                in_table[name] = (template, layer)
        if component in family.layers:
            sizes[family.layers[component]] = count = _count_layers(in_table.values(), table)
            in_table = {name: place for name, place in in_table.items() if place[1] is None or place[1] < count}
        found[component] = in_table

    problems = defaultdict(list)
    for component, table in family.components.items():
        count = sizes.get(family.layers.get(component), 0)
        expected = (key.replace("{i}", str(i)) for key in table for i in range(count if "{i}" in key else 1))
        problems["missing"] += [name for name in expected if name not in found[component]]

    wanted = {
        name: family.components[component][template][1]
        for component, places in found.items()
        for name, (template, _) in places.items()
    }
    sizes |= _vote({name: (tensors[name].shape, shape) for name, shape in wanted.items()})
    for name, shape in wanted.items():
        numbers = tuple(sizes.get(size, size) for size in shape)
        if tensors[name].shape != numbers:
            problems["wrong shape"].append(f"{name} is {list(tensors[name].shape)} instead of {list(numbers)}")
    unused = [name for name in tensors if family.leaves_out(name)]
    problems["unknown"] = [name for name in tensors if name not in wanted and not family.leaves_out(name)]
    problems["not floating-point"] = [
        f"{name} ({str(tensors[name].dtype).removeprefix('torch.')})"
        for name in [*wanted, *(name for name in unused if name in family.unused)]
        if not tensors[name].dtype.is_floating_point
    ]
    lists = [f"{kind}: {listed(names)}" for kind, names in problems.items() if names]
    absent = [component for component in found if not found[component]]
    if problems["missing"] and absent and len(absent) < len(found) and not problems["unknown"]:
        raise CheckpointError(
            f"{path} lacks all of {' and '.join(absent)}, as where only what was trained is saved; give a checkpoint "
            "that holds the frozen weights, too."
        )
    if lists:
        raise CheckpointError(f"{path} does not hold the tensors of a {family.name} checkpoint; {'; '.join(lists)}.")

    components = {name: component for component, places in found.items() for name in places}
    names = {}
    for name in tensors:
        if name in components:
            template, layer = found[components[name]][name]
            names[name] = family.components[components[name]][template][0].replace("{i}", str(layer))
    return Match(names, components, unused, sizes)


def inverted(family: Family) -> Family:
    """The family with original and new names exchanged, to read a converted repository."""
    components = {
        component: {name: (key, shape) for key, (name, shape) in table.items()}
        for component, table in family.components.items()
    }
    prefixes = family.prefixes and {new: original for original, new in family.prefixes.items()}
    return replace(family, components=components, prefixes=prefixes)


def _template(name: str, table: Table) -> tuple[str | None, int | None]:
    """The table's key for a name, and the layer its `{i}` stands for."""
    if name in table:
        return name, None
    number = re.search(r"\.(0|[1-9][0-9]{0,3})\.", name)
    if number:
        template = f"{name[: number.start()]}.{{i}}.{name[number.end() :]}"
        if template in table:
            return template, int(number[1])
    return None, None


def _count_layers(places, table: Table) -> int:
    """One more than the last layer that has at least half of its tensors; a stray key makes no layer."""
    per_layer = sum("{i}" in key for key in table)
    counts = Counter(layer for _, layer in places if layer is not None)
    return max((layer + 1 for layer, count in counts.items() if 2 * count >= per_layer), default=1)


def _vote(shapes: Mapping[str, tuple[tuple[int, ...], Shape]]) -> dict[str, int]:
    """The number each size most often has, so that one misshapen tensor is blamed and not all the others."""
    votes = defaultdict(Counter)
    for actual, shape in shapes.values():
        if len(actual) == len(shape):
            for number, size in zip(actual, shape, strict=True):
                if isinstance(size, str):
                    votes[size][number] += 1
    return {size: counter.most_common(1)[0][0] for size, counter in votes.items()}
