"""Linear layers in the order in which a CPU's matrix units read them (oneDNN's packed weights).

torch rearranges a bfloat16 or 8-bit matrix anew for every product. When few rows are multiplied, as for a token of
each beam, that takes as long as the product itself, and only inductor's freezing does away with it, which takes a
static cache for constant.
"""

import functools
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn

from ..remote_code.modeling_cpmbee import CpmBeeAttention, CpmBeeMLP
from .int8_order import packed_int8
from .machine import is_multiplied_in
from .nf4_order import MANY, TILE, in_rows, is_order_known, multiply_nf4, rearrange_nf4
from .plans import NF4_BLOCK
from .rounded_weights import int8_weight

# Not torch.library.custom_op, whose checks of every call double the time of a product with few rows.
_operators = torch.library.Library("viscpm_hf", "FRAGMENT")  # not DEF, of which there may be one
_operators.define("packed_linear(Tensor rows, Tensor weight, int width) -> Tensor")
_operators.define("packed_int8_linear(Tensor rows, Tensor weight, Tensor scale, Tensor zero_point) -> Tensor")


def _packed_linear(rows, weight, width):
    return torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")


def _packed_int8_linear(rows, weight, scale, zero_point):
    product = torch.ops.onednn.qlinear_pointwise
    return product(rows, 1.0, 0, weight, scale, zero_point, None, 1.0, 0, torch.float32, "none", [], "")


for _backend in ("CPU", "MkldnnCPU"):  # rows are of the one, packed weights of the other
    _operators.impl("packed_linear", _packed_linear, _backend)
    _operators.impl("packed_int8_linear", _packed_int8_linear, _backend)


@torch.library.register_fake("viscpm_hf::packed_linear")
def _(rows, weight, width):
    return rows.new_empty(*rows.shape[:-1], width)


@torch.library.register_fake("viscpm_hf::packed_int8_linear")
def _(rows, weight, scale, zero_point):
    return rows.new_empty(len(rows), len(scale), dtype=torch.float32)


class PackedLinear(nn.Module):
    """A bfloat16 `nn.Linear` without bias for inference on a CPU, its weight packed; the results are the same.

    Args:
        linear (`nn.Linear`): whose weight `(out_features, in_features)` is packed, and may be freed after.
    """

    expected_rows = 4  # of a product: a token of each beam, and what is packed for few rows serves many as well
    is_saved = True  # not where loading takes the weight from an embedding

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.dtype = linear.weight.dtype
        # no buffer: nothing that goes through a model's tensors expects one without strides
        self.packed = self._pack(linear.weight.detach())

    def _pack(self, weight):
        return torch.ops.mkldnn._reorder_linear_weight(weight, self.expected_rows)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The product of rows `(..., in_features)` with the packed weight, `(..., out_features)`."""
        return torch.ops.viscpm_hf.packed_linear(states, self.packed, self.out_features)

    def unpacked(self) -> torch.Tensor:
        """The weight as `nn.Linear` has it."""
        return self.packed.to_dense()

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        if self.is_saved:
            destination[prefix + "weight"] = self.unpacked()

    def check(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """RuntimeError if a function of tensors, such as a cast, would change type or device."""
        changed = function(torch.empty(0, dtype=self.dtype))
        if (changed.dtype, changed.device.type) != (self.dtype, "cpu"):
            raise RuntimeError(
                f"Got a request to change to {changed.dtype} on {changed.device}, but matrices are packed for "
                f"{self.dtype} on this CPU; load the model anew as it is wanted."
            )

    def _apply(self, function, recurse=True):
        self.check(function)
        return super()._apply(function, recurse)


class PackedInt8Linear(PackedLinear):
    """A linear layer with torchao's 8-bit weight and dynamic 8-bit activations, for inference on a CPU.

    Args:
        linear (`nn.Linear`): with a weight as `Int8DynamicActivationInt8WeightConfig` leaves it: a scale for each row
            of the weight, and for each row of the states, both symmetric.
    """

    def _pack(self, weight):
        names, self.rest = weight.__tensor_flatten__()
        self.weight_class = type(weight)
        self.small = {name: getattr(weight, name) for name in names if name != "qdata"}
        self.scale = weight.scale.flatten().float()
        self.zero_point = torch.zeros(self.out_features, dtype=torch.int32)
        return packed_int8(weight.qdata)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The product of rows `(..., in_features)` with the packed weight, `(..., out_features)`."""
        return self.product(_RoundedRows(states))

    def product(self, states: "_RoundedRows") -> torch.Tensor:
        """The same of rows that are rounded already."""
        product = torch.ops.viscpm_hf.packed_int8_linear(states.rows, self.packed, self.scale, self.zero_point)
        return product.mul_(states.scale).to(states.dtype).view(*states.shape, self.out_features)

    def unpacked(self) -> torch.Tensor:
        """The weight as torchao has it."""
        qdata = self.packed.to_dense().reshape(self.in_features, self.out_features).T.contiguous()
        return self.weight_class.__tensor_unflatten__({"qdata": qdata, **self.small}, self.rest, None, None)


@functools.cache
def _packed_4bit_class():
    from bitsandbytes.nn import Linear4bit

    class PackedLinear4bit(Linear4bit):
        """bitsandbytes' layer with its weight in the order of a CPU's product; saved as it was before.

        By itself it would be put in order by the first answer, in whichever thread, and put back by saving, with the
        blocks' scales rounded twice more.
        """

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not x.numel():  # of which bitsandbytes divides by zero
                return x.new_empty(*x.shape[:-1], self.out_features)
            if x.numel() < MANY * x.shape[-1]:
                return super().forward(x)
            rows = multiply_nf4(x.reshape(-1, x.shape[-1]), self.weight)
            return rows.to(x.dtype).view(*x.shape[:-1], self.out_features)

        def _save_to_state_dict(self, destination, prefix, keep_vars):
            weight = in_rows(self.weight.data).view(self.weight.quant_state.original_qshape)
            stored = {f"{prefix}weight.{name}": tensor for name, tensor in self.stored.items()}
            destination.update({f"{prefix}weight": weight} | stored)

    return PackedLinear4bit


def _pack_4bit(layer):
    layer.stored = {name: tensor.clone() for name, tensor in layer.weight.quant_state.as_dict(packed=True).items()}
    layer.__class__ = _packed_4bit_class()
    rearrange_nf4(layer.eval().weight)


class _RoundedRows:
    """States `(..., width)` as rows of 8-bit numbers `(rows, width)`, with a scale for each row `(rows, 1)`.

    As torchao does: half of 255 levels to the largest value, which is then cut off.
    """

    rows_at_once = 32  # so that what lies between stays in the processor's cache

    def __init__(self, states: torch.Tensor):
        self.shape, self.dtype = states.shape[:-1], states.dtype
        rows = states.reshape(-1, states.shape[-1])
        if len(rows) <= self.rows_at_once or torch.compiler.is_compiling():  # which fuses all of it
            self.rows, self.scale = self._round(rows)
            return
        self.rows = torch.empty(rows.shape, dtype=torch.int8)
        self.scale = torch.empty(len(rows), 1, dtype=torch.float32)
        parts = zip(*(each.split(self.rows_at_once) for each in (rows, self.rows, self.scale)), strict=True)
        for part, rounded, scale in parts:
            found = self._round(part)
            rounded.copy_(found[0]), scale.copy_(found[1])

    @staticmethod
    def _round(rows):
        scale = (rows.abs().amax(-1, keepdim=True).float() / 127.5).clamp_(min=torch.finfo(torch.float32).eps)
        return (rows / scale).round_().clamp_(max=127).to(torch.int8), scale


class _PackedAttention(CpmBeeAttention):
    """Attention whose states are rounded once for query, key and value."""

    def project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        states = _RoundedRows(hidden_states)
        return self.q_proj.product(states), self.k_proj.product(states), self.v_proj.product(states)


class _PackedMLP(CpmBeeMLP):
    """A feed-forward layer whose states are rounded once for gate and value."""

    def project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = _RoundedRows(hidden_states)
        return self.gate_proj.product(states), self.up_proj.product(states)


# the layers that share their input, and what they then become
_SHARING = {
    CpmBeeAttention: (_PackedAttention, ("q_proj", "k_proj", "v_proj")),
    CpmBeeMLP: (_PackedMLP, ("gate_proj", "up_proj")),
}


def pack_linears(model: nn.Module) -> None:
    """Replaces linear layers in a model by packed ones, where this CPU multiplies faster with them.

    These are layers without bias whose weights are bfloat16, torchao's 8-bit ones with dynamic activations, or
    bitsandbytes' 4-bit ones, which it packs itself; others stay as they are. For inference only: nothing can be
    trained or moved after. Saving works as before.

    Args:
        model: on the CPU, changed in place. That takes the memory of one layer more meanwhile; a head that was tied to
            an embedding keeps its own.
    """
    pack_layers(model)
    if "_apply" not in vars(model):
        model._apply = functools.partial(_apply_whole_or_not, model)
    if hasattr(model, "dequantize"):
        model.dequantize = _refuse_to_dequantize


def pack_layers(model: nn.Module) -> None:
    """`pack_linears` of a part of a model."""
    for name in [name for name, module in model.named_modules() if _packed_class(module)]:
        _pack(model, name)
    for module in model.modules():
        if _is_4bit(module) and _is_packed_by_bitsandbytes(module):
            _pack_4bit(module)
        shared, names = _SHARING.get(type(module), (None, ()))
        if names and all(type(getattr(module, name)) is PackedInt8Linear for name in names):
            module.__class__ = shared


def _apply_whole_or_not(model, function, recurse=True):
    """`nn.Module._apply` that asks packed layers before it changes those beside them."""
    for layer in model.modules():
        if isinstance(layer, PackedLinear):
            layer.check(function)
    return type(model)._apply(model, function, recurse)


def _refuse_to_dequantize(*args, **kwargs):
    raise RuntimeError(
        "Got a request to dequantize a model whose matrices are packed for this CPU; load the repository that is not "
        "quantized, or this one with transformers' AutoModelForImageTextToText."
    )


def _pack(model, name):
    linear = model.get_submodule(name)
    layer = _packed_class(linear)(linear)
    layer.is_saved = f"{name}.weight" not in getattr(model, "all_tied_weights_keys", {})
    model.set_submodule(name, layer)
    linear.weight = None  # torchao ties a layer to itself, which would keep it


def pack_chat(model: nn.Module) -> None:
    """Packs a Chat model as the drop-in class has it on a CPU.

    Where the blocks are in 8 or 4 bits, the head is rounded to 8; the embedding keeps its values.
    """
    layer = model.model.language_model.layers[0].mlp.up_proj
    if PackedInt8Linear in (type(layer), _packed_class(layer)) or _is_4bit(layer):
        pack_int8_head(model)
    pack_linears(model)


def pack_int8_head(model: nn.Module) -> None:
    """Rounds and packs a Chat model's head, if it is not yet, where this CPU multiplies 8-bit numbers."""
    if type(model.lm_head) is nn.Linear and can_round_head():
        head = model.lm_head.weight.detach()
        model.lm_head.weight = nn.Parameter(int8_weight(head, head.dtype), requires_grad=False)
        _pack(model, "lm_head")


def can_round_head() -> bool:
    """Whether there is what it takes to round a head and to multiply with it; 4-bit weights do without torchao."""
    return torch.cpu._is_vnni_supported() and find_spec("torchao") is not None


def _is_4bit(layer):
    return type(layer).__name__ in ("Linear4bit", "LinearNF4", "LinearFP4", "PackedLinear4bit")


def _is_packed_by_bitsandbytes(layer):
    state = getattr(layer.weight, "quant_state", None)
    packs = getattr(layer, "support_avx512bf16_for_cpu", False) and layer.weight.device.type == "cpu"
    if not packs or layer.bias is not None or state is None or getattr(state, "packing_format_for_cpu", False):
        return False
    rows, width = state.shape
    even = state.blocksize == NF4_BLOCK and not rows % TILE and not width % NF4_BLOCK
    return even and layer.weight.dtype == torch.uint8 and is_order_known()


def _packed_class(linear):
    if type(linear) is not nn.Linear or linear.bias is not None or linear.weight.device.type != "cpu":
        return None
    weight = linear.weight
    if hasattr(weight, "qdata"):  # torchao's
        dynamic = getattr(weight, "act_quant_kwargs", None) is not None
        return PackedInt8Linear if dynamic and torch.cpu._is_vnni_supported() else None
    if type(weight.data) is torch.Tensor and weight.dtype == torch.bfloat16:
        return PackedLinear if is_multiplied_in(torch.bfloat16) else None
    return None
