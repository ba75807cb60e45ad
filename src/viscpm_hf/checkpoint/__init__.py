"""Original checkpoints: converting them, proving a conversion, going back.

* keys.py: key tables, original name → new name and shape; another model is another table
* configs.py: configurations from the tensors' sizes and the original's JSON
* convert.py: `convert_chat`, `convert_cpmbee`; verify.py: byte-for-byte comparison; export.py: the way back
* source.py: opens a checkpoint of any format, executing nothing; torch_file.py and safetensors_file.py: the formats
* stored.py: a tensor that lies in a file, read piece by piece; weights.py: writing many of them into shards
* repo.py: everything in a repository but the weights; hub.py: upload, safety checker
* staging.py: complete or nothing; hashing.py: SHA-256 beside the copy; errors.py: messages
"""

from .convert import VARIANTS, convert_chat, convert_cpmbee
from .errors import CheckpointError, listed, run_script
from .export import export_original
from .hub import push_to_hub
from .verify import verify
from .weights import DTYPES

__all__ = [
    "DTYPES",
    "VARIANTS",
    "CheckpointError",
    "convert_chat",
    "convert_cpmbee",
    "export_original",
    "listed",
    "push_to_hub",
    "run_script",
    "verify",
]
