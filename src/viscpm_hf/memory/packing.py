"""Linear layers in the order in which a CPU's matrix units read them (oneDNN's packed weights).

torch rearranges a bfloat16 or 8-bit matrix anew for every product. When few rows are multiplied, as for a token of
each beam, that takes as long as the product itself, and only inductor's freezing does away with it, which takes a
static cache for constant.
"""

import torch
from torch import nn

from .machine import is_multiplied_in

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

    def _apply(self, function, recurse=True):
        changed = function(torch.empty(0, dtype=self.dtype))
        if (changed.dtype, changed.device.type) != (self.dtype, "cpu"):
            raise RuntimeError(
                f"Got a request to change to {changed.dtype} on {changed.device}, but matrices are packed for "
                f"{self.dtype} on this CPU; load the model anew as it is wanted."
            )
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
        return torch.ops.onednn.qlinear_prepack(weight.qdata, None)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The product of rows `(..., in_features)` with the packed weight, `(..., out_features)`."""
        rows = states.reshape(-1, self.in_features)
        # as torchao does: half of 255 levels to the largest value, which is then cut off
        scale = (rows.abs().amax(-1, keepdim=True).float() / 127.5).clamp_(min=torch.finfo(torch.float32).eps)
        rounded = (rows / scale).round_().clamp_(max=127).to(torch.int8)
        product = torch.ops.viscpm_hf.packed_int8_linear(rounded, self.packed, self.scale, self.zero_point)
        return product.mul_(scale).to(states.dtype).view(*states.shape[:-1], self.out_features)

    def unpacked(self) -> torch.Tensor:
        """The weight as torchao has it."""
        qdata = self.packed.to_dense().reshape(self.in_features, self.out_features).T.contiguous()
        return self.weight_class.__tensor_unflatten__({"qdata": qdata, **self.small}, self.rest, None, None)


def pack_linears(model: nn.Module) -> None:
    """Replaces linear layers in a model by packed ones, where this CPU multiplies faster with them.

    These are layers without bias whose weights are bfloat16, or torchao's 8-bit ones with dynamic activations; others
    stay as they are. For inference only: nothing can be trained or moved after. Saving works as before.

    Args:
        model: on the CPU, changed in place. That takes the memory of one layer more meanwhile; a head that was tied to
            an embedding keeps its own.
    """
    tied = getattr(model, "all_tied_weights_keys", {})
    for name in [name for name, module in model.named_modules() if _packed_class(module)]:
        linear = model.get_submodule(name)
        layer = _packed_class(linear)(linear)
        layer.is_saved = f"{name}.weight" not in tied
        model.set_submodule(name, layer)
        linear.weight = None  # torchao ties a layer to itself, which would keep it


def pack_chat(model: nn.Module) -> None:
    """Packs a Chat model as the drop-in class has it on a CPU.

    Where the blocks are 8-bit, the head is rounded alike; the embedding keeps its values.
    """
    if _packed_class(model.model.language_model.layers[0].mlp.up_proj) is PackedInt8Linear:
        model.lm_head.weight = nn.Parameter(_rounded(model.lm_head.weight.detach()), requires_grad=False)
    pack_linears(model)


def _rounded(weight):
    """A weight as torchao's 8-bit dynamic config rounds it, some rows at a time: it takes float32 in between."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    pieces = []
    for rows in weight.split(2**12):
        linear = nn.Linear(*rows.shape[::-1], bias=False, device="meta")
        linear.weight = nn.Parameter(rows, requires_grad=False)
        quantize_(linear, Int8DynamicActivationInt8WeightConfig())
        pieces.append(linear.weight.data)
        linear.weight = None  # as in pack_linears
    names, rest = pieces[0].__tensor_flatten__()
    tensors = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in names}
    return type(pieces[0]).__tensor_unflatten__(tensors, rest, None, None)


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
