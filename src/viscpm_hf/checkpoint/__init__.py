"""Original checkpoints: converting them, proving a conversion, going back.

* chat.py, paint.py, cpmbee.py: `convert_chat`, `convert_paint`, `convert_cpmbee`; job.py: what they have in common
* adapter.py: LoRA adapters of peft; merge.py: adding one to a repository's weights; lora.py: one from
  LoRA weights of OpenDelta
* verify.py: byte-for-byte comparison; export.py: the way back; refresh.py: code and card of this version
* repo.py: everything in a repository but the weights; pipeline_repo.py: the same for Paint; parts.py: what is taken
  from other repositories
* publishing/: uploading to the Hub; cards.py: model cards
* files/: formats, disks and the network; layout/: names, shapes and configurations; errors.py: messages
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .chat import VARIANTS, convert_chat
from .cpmbee import convert_cpmbee
from .errors import CheckpointError, listed, printable
from .export import export_original
from .files.weights import DTYPES
from .lora import convert_lora
from .merge import merge_adapter
from .publishing import push_to_hub
from .refresh import Refreshed, refresh, refresh_on_hub
from .verify import verify

# Loaded on first use: diffusers takes seconds to import, and the other conversions do without.
_LAZY = {"PAINT_VARIANTS": ".paint", "convert_paint": ".paint"}
if TYPE_CHECKING:
    from .paint import PAINT_VARIANTS as PAINT_VARIANTS
    from .paint import convert_paint as convert_paint


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DTYPES",
    "PAINT_VARIANTS",
    "VARIANTS",
    "CheckpointError",
    "Refreshed",
    "convert_chat",
    "convert_cpmbee",
    "convert_lora",
    "convert_paint",
    "export_original",
    "listed",
    "merge_adapter",
    "printable",
    "push_to_hub",
    "refresh",
    "refresh_on_hub",
    "verify",
]
