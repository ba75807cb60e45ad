"""What training programs put before the names of tensors."""

import os
import re
from collections.abc import Mapping

from ..files.stored import StoredTensor
from .keys import ORIGINAL

# modules that are put into the tree of modules, by compiling or distributing them
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def without_prefixes(tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], list[str]]:
    """Tensors by their original names where wrappers put something before each, such as `module.`; and what it was."""
    names = [WRAPPERS.sub("", name) for name in tensors]
    common = os.path.commonprefix(names)
    ends = [0, *(dot.end() for dot in re.finditer(r"\.", common))]
    start = next((end for end in ends if any(name.startswith(ORIGINAL, end) for name in names)), 0)
    original = dict(zip((name[start:] for name in names), tensors.values(), strict=True))
    if len(original) < len(tensors):  # two names differ in nothing else, so it is not clear whose it is
        return dict(tensors), []
    wrappers = {found for name in tensors for found in WRAPPERS.findall(name)}
    return original, sorted({common[:start], *wrappers} - {""})
