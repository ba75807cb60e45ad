"""Original checkpoints: converting them, proving a conversion, going back.

* keys.py: key tables, original name → new name and shape; another model is another table
* configs.py: configurations from the tensors' sizes and the original's JSON
* convert.py: `convert_chat`, `convert_cpmbee`; paint.py: `convert_paint`; job.py: what they have in common
* verify.py: byte-for-byte comparison; export.py: the way back
* source.py: opens a checkpoint of any format, executing nothing; torch_file.py and safetensors_file.py: the formats;
  pickled.py: pickles as data; wrapped.py: what training programs put around a checkpoint
* stored.py: a tensor that lies in a file, read piece by piece; weights.py: writing many of them into shards
* repo.py: everything in a repository but the weights; pipeline_repo.py: the same for Paint; hub.py: the network
* unet.py: Paint's UNet, which diffusers describes; parts.py, stable_diffusion.py: what Paint takes from elsewhere
* files_on_disk.py: files of others; json_file.py: their JSON; sizes.py: sizes as people write them
* staging.py: complete or nothing; hashing.py: SHA-256 of what is copied; errors.py: messages
"""

from importlib import import_module

from .convert import VARIANTS, convert_chat, convert_cpmbee
from .errors import CheckpointError, listed, printable, run_script
from .export import export_original
from .hub import push_to_hub
from .verify import verify
from .weights import DTYPES

# Loaded on first use: diffusers takes seconds to import, and the other conversions do without.
_LAZY = {"PAINT_VARIANTS": ".paint", "convert_paint": ".paint"}


def __getattr__(name):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DTYPES",
    "PAINT_VARIANTS",
    "VARIANTS",
    "CheckpointError",
    "convert_chat",
    "convert_cpmbee",
    "convert_paint",
    "export_original",
    "listed",
    "printable",
    "push_to_hub",
    "run_script",
    "verify",
]
