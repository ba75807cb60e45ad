"""What both ways of `viscpm quantize` ask of a repository and write into its copy beside the weights."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..checkpoint.errors import CheckpointError, first_line
from ..checkpoint.repo import CARD, CONVERSION, report_text
from .plans import NF4_BLOCK
from .sizes import Model

_SECTION = """
## Quantized weights

The language model's matrices were quantized to {how} by `viscpm quantize`; the type named
above is that of all other weights, which are as they were. Loading needs `pip install "{needed}"`.
Results differ a little from those of the model it was made of, and it cannot be exported to the
original's layout.
"""
_CHINESE_SECTION = """
语言模型各层的矩阵由 `viscpm quantize` 量化为{how}；上文所说的存储类型指其余权重，它们没有变。加载需要
`pip install "{needed}"`。结果与量化前的模型略有不同，且不能再导出为原版格式。
"""


def require_exact(model: Model, model_path: str | os.PathLike, method: str) -> None:
    """CheckpointError for weights that are quantized already, or of widths that the method does not take.

    Args:
        model: what is to be quantized.
        model_path: its repository, for messages.
        method: `"int8"` or `"4bit"`.
    """
    if model.quantized:
        raise CheckpointError(f"{model_path} is quantized already; give the repository it was made from.")
    if method == "4bit" and any(width % NF4_BLOCK for width in model.widths):
        raise CheckpointError(f"Got widths of {model.widths}, but 4 bits need multiples of {NF4_BLOCK}.")


@contextmanager
def failures_in_words() -> Iterator[None]:
    """What can go wrong in the middle of the work, in a sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CheckpointError(f"There is not enough memory on the GPU ({error}); compute on the CPU.") from error
    except torch.linalg.LinAlgError as error:
        raise CheckpointError(f"The language model's states cannot be fitted to ({error}).") from error
    except SafetensorError as error:
        raise CheckpointError(f"The quantized weights could not be written ({first_line(error)}).") from error


def say_so(folder: Path, report: dict, part: str, needed: str, how: str, chinese: str) -> None:
    """Adds to a repository's card and report what was done to it.

    Args:
        folder: of the repository.
        report: of its conversion; empty if it has none.
        part: what was quantized, for the report.
        needed: what pip installs to load it.
        how: to what and how, in English.
        chinese: the same for a card that is in Chinese, too.
    """
    if report:
        fields = {**report, "dropped_to": None, "quantized": {part: f"{how} by `viscpm quantize`"}}
        (folder / CONVERSION).write_bytes(report_text(fields))
    card = folder / CARD
    if card.is_file():
        is_chinese = "\n## 中文" in card.read_text(encoding="utf-8", errors="replace")
        with open(card, "a", encoding="utf-8") as file:
            file.write(_SECTION.format(how=how, needed=needed))
            if is_chinese:
                file.write(_CHINESE_SECTION.format(how=chinese, needed=needed))
