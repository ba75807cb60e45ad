"""From a converted repository back to an original checkpoint."""

import warnings
from pathlib import Path

from .errors import CheckpointError, listed, printable
from .files.staging import refuse_existing, require_space, staged
from .files.stored import read_pieces
from .files.torch_file import TorchWriter
from .files.weights import WeightFile, progress_bar, write_weights
from .layout.keys import inverted, match
from .repo import CONVERSION, UNUSED, family_of, read_json, read_repo, require_original_weights

SPARE = 16 << 20  # bytes for names and padding


def export_original(repo: str | Path, checkpoint: str | Path, progress: bool = True) -> Path:
    """Writes the checkpoint a repository was converted from: original names, every tensor's type and bytes.

    Repositories that were fine-tuned and saved again work too. If they lost the tensors the model does not use, which
    the original's loader insists on, take `original_only.safetensors` from the first conversion.

    Args:
        repo: the converted repository.
        checkpoint: file to create: safetensors if it ends so, else PyTorch's zip format.
        progress: whether to show a progress bar on a terminal.

    Returns:
        The file.

    Raises:
        CheckpointError: the repository is quantized, incomplete or changes meanwhile, or the file exists.
    """
    repo, checkpoint = Path(repo), Path(checkpoint)
    refuse_existing(checkpoint)
    require_original_weights(repo)
    family = family_of(repo)
    tensors = read_repo(repo, family)
    found = match(inverted(family), tensors, repo)
    lost = [name for name in read_json(repo, CONVERSION).get("dropped", []) if name not in tensors]
    if lost:
        raise CheckpointError(f"{repo} lacks {listed(lost)}; put its {UNUSED} back beside the weights.")
    if family.unused and not found.unused:
        warnings.warn(
            printable(f"{repo} has no {UNUSED}, so {checkpoint} lacks tensors that the original's loader insists on."),
            stacklevel=2,
        )
    originals = {found.names.get(name, name): tensor for name, tensor in tensors.items()}
    total = sum(tensor.nbytes for tensor in originals.values())
    require_space(checkpoint.absolute().parent, total + SPARE)
    with staged(checkpoint) as target:
        if checkpoint.suffix == ".safetensors":
            write_weights(target.parent, [WeightFile(target.name, originals)], progress)
        else:
            with progress_bar(total, progress) as bar, TorchWriter(target, originals) as writer:
                for name, tensor in originals.items():
                    writer.write_tensor(name, read_pieces(tensor))
                    bar.update(tensor.nbytes)
    return checkpoint
