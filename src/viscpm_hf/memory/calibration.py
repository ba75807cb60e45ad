"""4-bit weights for Paint's language model, calibrated so that prompts keep their states.

Rounding each weight to the nearest of NF4's 16 values is what bitsandbytes does; answers do not mind, but a picture is
drawn from the states themselves. Here a matrix is rounded column by column, and what a column is off by is made up for
in those still to come, by how often prompts bring their inputs together (GPTQ; Frantar et al., 2023). Half of what the
matrices before have left is made up for first (QEP; Arai and Ichikawa, 2025). Values and scales are bitsandbytes', so
that the result loads as any other model quantized with it.
"""

import copy
import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from ..checkpoint.errors import CheckpointError
from ..checkpoint.files.json_file import quoted
from ..checkpoint.files.staging import refuse_existing, require_space, staged
from ..checkpoint.repo import CONVERSION, read_json
from ..remote_code.modeling_cpmbee import CpmBeeModel
from ..remote_code.tokenization_cpmbee import CpmBeeTokenizer
from .calibration_inputs import (
    BATCH,
    chosen_device,
    copy_unchanged,
    encoded,
    identities,
    load_exact,
    load_model,
    load_tokenizer,
    require_moderate,
    require_parts,
)
from .placement import quantization_config
from .quantized_repository import failures_in_words, require_exact, say_so
from .sizes import read_model

DAMPING = 0.01  # of the mean square of the inputs, so that inputs which never occurred can be solved for
PROPAGATION = 0.5  # of the error of earlier matrices; all of it would fit few prompts too closely


def quantize_paint(
    model_path: str | os.PathLike,
    prompts: Sequence[str],
    output: str | os.PathLike,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Path:
    """Writes a copy of a converted Paint repository whose language model has 4-bit weights fitted to prompts.

    Args:
        model_path: converted VisCPM-Paint.
        prompts: plain texts like those that will be painted; 128 are enough.
        output: folder to create; it appears when it is complete.
        device: where to compute; CUDA if there is one by default.
        progress: whether to show a progress bar.

    Returns:
        The folder, which loads like any other.

    Raises:
        CheckpointError: the repository or the prompts are not what this needs, there is no room, or the output exists.
            All that can be known before is said before the work, which takes hours at full size.
        ImportError: the libraries for quantization are not installed.
    """
    model_path, output = Path(model_path), Path(output)
    device = chosen_device(device)
    if isinstance(prompts, str) or not all(isinstance(text, str) for text in prompts):
        raise CheckpointError(f"Got {quoted(prompts)} as prompts, expected a list of texts.")
    prompts = [text for text in prompts if text.strip()]
    if not prompts:
        raise CheckpointError("Got no prompts to fit the rounding to; give some like those that will be painted.")
    refuse_existing(output, model_path)
    model = read_model(model_path)
    if model.kind != "paint":
        raise CheckpointError(
            f"{model_path} is a VisCPM-Chat, whose weights are not fitted to prompts but rounded: `viscpm quantize "
            "--model DIR --method 4bit --output DIR`."
        )
    require_exact(model, model_path, "4bit")
    quantization_config("4bit", device, torch.float32)  # raises ImportError now rather than after the copy
    files = identities(model_path)
    require_parts(model_path, files)
    report = read_json(model_path, CONVERSION)
    tokenizer = load_tokenizer(model_path)
    require_moderate(prompts, tokenizer, model.language_config, device)
    require_space(output.absolute().parent, sum(seen.size for seen in files.values()) + model.language_bytes() // 3)
    with staged(output) as folder, failures_in_words():
        for path, seen in files.items():
            copy_unchanged(path, folder / path.relative_to(model_path), seen)
        # from the copy: mapped files that became shorter would end the process
        encoder, original = folder / "text_encoder", model_path / "text_encoder"
        exact = load_exact(encoder, original)
        config = quantization_config("4bit", device, exact.dtype)
        rounded, _ = load_model(encoder, original, quantization_config=config, device_map={"": device})
        calibrate(exact, rounded, tokenizer, prompts, progress)
        for path in (*encoder.glob("*.safetensors"), *encoder.glob("*.safetensors.index.json")):
            path.unlink()  # not written over, as both models may still be mapped to them
        rounded.save_pretrained(encoder)
        how = f"4 bits (NF4), calibrated on {len(prompts)} prompts"
        say_so(
            folder,
            report,
            "text_encoder",
            "bitsandbytes>=0.50",
            how,
            f" 4 比特（NF4，用 {len(prompts)} 条提示词校准）",
        )
    return output


@torch.no_grad()
def calibrate(
    exact: CpmBeeModel, rounded: CpmBeeModel, tokenizer: CpmBeeTokenizer, prompts: Sequence[str], progress: bool = True
) -> None:
    """Chooses the 4-bit values of a quantized model anew.

    Args:
        exact: the model; one of its blocks at a time is computed with, in float32.
        rounded: the same model quantized by bitsandbytes to NF4, on the device to compute on; changed in place.
        tokenizer: of the model.
        prompts: to fit to.
        progress: whether to show a progress bar.
    """
    device = rounded.embed_tokens.weight.device
    inputs = _inputs_of_first_block(exact, tokenizer, prompts, device)
    ideal = [states for states, _ in inputs]  # as the exact model has them
    real = list(ideal)  # as the rounded one has them
    rest = [others for _, others in inputs]
    blocks = zip(exact.layers, rounded.layers, strict=True)
    for exact_block, rounded_block in tqdm(
        blocks, desc="blocks", total=len(exact.layers), disable=None if progress else True
    ):
        reference = copy.deepcopy(exact_block).float().to(device)
        block = copy.deepcopy(reference)
        with _recorded(_matrices(reference)) as wanted:
            ideal = _run(reference, ideal, rest)
        for names, ideal_rows in zip(MATRICES, wanted, strict=True):
            with _recorded([block.get_submodule(names[0])]) as found:
                _run(block, real, rest)
            products, differences = 0, 0
            for rows, ideal_rows_of_batch in zip(found[0], ideal_rows, strict=True):
                products = products + (rows.T @ rows).double()
                differences = differences + ((ideal_rows_of_batch - rows).T @ rows).double()
            if not torch.isfinite(products).all() or not torch.isfinite(differences).all():
                raise CheckpointError("The language model's states are not finite; its weights must be damaged.")
            rounding = _Rounding(products, differences)
            for name in names:
                weight = block.get_submodule(name).weight
                weight.data = rounding.apply(weight, rounded_block.get_submodule(name).weight)
        real = _run(block, real, rest)


# which share their inputs, in the order of a block
MATRICES = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


def _matrices(block):
    return [block.get_submodule(names[0]) for names in MATRICES]


def _run(block, states, rest):
    return [block(each, *others)[0] for each, others in zip(states, rest, strict=True)]


@contextmanager
def _recorded(modules):
    """Lists, for each module, of its inputs `(tokens, width)` while the block runs."""
    inputs = [[] for _ in modules]
    hooks = [
        module.register_forward_pre_hook(lambda _, args, own=own: own.append(args[0].flatten(0, -2)))
        for module, own in zip(modules, inputs, strict=True)
    ]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


class _FirstBlockReached(Exception):
    pass


def _inputs_of_first_block(model, tokenizer, prompts, device):
    """States `(prompts, tokens, hidden)` of each batch, and what else a block is given."""
    inputs = []

    def moved(each):
        if not isinstance(each, torch.Tensor):
            return each
        return each.to(device, torch.float32 if each.is_floating_point() else each.dtype)

    def record(_, args):
        states, *others = map(moved, args)
        inputs.append((states, others))
        raise _FirstBlockReached

    hook = model.layers[0].register_forward_pre_hook(record)
    try:
        for start in range(0, len(prompts), BATCH):
            texts = [*prompts[start : start + BATCH], ""]  # the empty one is the usual negative prompt
            batch = tokenizer.pad_encodings([encoded(tokenizer, text) for text in texts], padding_side="right")
            try:
                model(**batch.to(model.device), use_cache=False)
            except _FirstBlockReached:
                pass
    finally:
        hook.remove()
    return inputs


class _Rounding:
    """Rounds matrices that have their inputs in common.

    Args:
        products: sum over the inputs x of x xᵀ `(in, in)`, float64.
        differences: sum of d xᵀ, where d is what x lacks to be the exact model's.
    """

    step = 64  # inputs whose errors are passed on to the others at once

    def __init__(self, products, differences):
        self.order = products.diagonal().argsort(descending=True)  # what matters most has most inputs after it
        damped = products[self.order][:, self.order]
        damped.diagonal().add_(DAMPING * products.diagonal().mean())
        self.differences = differences[:, self.order].float()
        self.lower = torch.linalg.cholesky(damped)
        inverse = torch.cholesky_inverse(self.lower)
        self.passed_on = torch.linalg.cholesky(inverse, upper=True).float()

    def apply(self, weight, target):
        """The weight `(out, in)`, float32, in values of `target`, a `Params4bit`, which is given their numbers."""
        from bitsandbytes.functional import dequantize_blockwise

        state, scales = target.quant_state, target.quant_state.absmax
        if state.nested:
            scales = dequantize_blockwise(scales, state.state2) + state.offset
        scales = scales.view(len(weight), -1).repeat_interleave(state.blocksize, dim=1)
        values = state.code.to(weight)
        halfway = (values[1:] + values[:-1]) / 2

        correction = torch.cholesky_solve((self.differences.T @ weight.T).double(), self.lower)
        rest = (
            weight.T[self.order] + PROPAGATION * correction
        ).float()  # (in, out): an input's weights are neighbours
        scales = scales.T[self.order].contiguous()
        codes = torch.empty(rest.shape, dtype=torch.long, device=rest.device)
        for start in range(0, len(rest), self.step):
            end = min(start + self.step, len(rest))
            errors = torch.empty_like(rest[start:end])
            for i in range(start, end):
                codes[i] = torch.bucketize(rest[i] / scales[i], halfway)
                errors[i - start] = (rest[i] - values[codes[i]] * scales[i]) / self.passed_on[i, i]
                rest[i:end] -= self.passed_on[i, i:end, None] * errors[i - start]
            rest[end:] -= self.passed_on[start:end, end:].T @ errors

        back = self.order.argsort()
        codes = codes[back].T
        pairs = codes.to(torch.uint8).reshape(-1, 2)
        target.data.copy_((pairs[:, :1] << 4 | pairs[:, 1:]).view(target.data.shape))
        return values[codes] * scales[back].T
