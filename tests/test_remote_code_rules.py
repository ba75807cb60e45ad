"""Guards that remote_code/ can ship verbatim into a Hub repository: flat and importing only what is allowed."""

import ast
import sys
from pathlib import Path

import pytest

import viscpm_hf.remote_code

FOLDER = Path(viscpm_hf.remote_code.__file__).parent
FILES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
ALLOWED = {"torch", "numpy", "PIL", "transformers", "diffusers", "tokenizers", "huggingface_hub"}
ALONE = {"modeling_cpmbee.py", "modeling_viscpm_paint.py", "pipeline_viscpm_paint.py"}


def imports(tree):
    """Every import statement that is not inside `try`, where optional third parties may stand."""
    guarded = {node for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) and node not in guarded]


def test_the_folder_is_flat():
    assert FILES and not [path for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_work_in_a_repository(path):
    siblings = {other.stem for other in FILES}
    for node in imports(ast.parse(path.read_text(encoding="utf-8"))):
        line = f"{path.name}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module in siblings, f"{line}: only `from .name import Thing` is followed"
            assert path.name not in ALONE, f"{line}: diffusers fetches this file alone"
            continue
        names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for name in names:
            top = name.split(".")[0]
            assert top in ALLOWED or top in sys.stdlib_module_names, f"{line}: {name} is not allowed here"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_class_checks_across_files(path):
    # A local folder loads configuration and model from separate copies, so isinstance on them is silently false.
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            assert not ast.unparse(node.args[1]).endswith("Config"), f"{path.name}:{node.lineno}"
