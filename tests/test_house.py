"""Guards the house: rooms import downward only, old names of modules still work, and every room says what is in it."""

import ast
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import viscpm_hf
from viscpm_hf.moved import MOVED

SOURCE = Path(viscpm_hf.__file__).parent
# From the top down; names on one line stand side by side and do not know each other.
FLOORS = [
    ("__main__",),
    ("cli",),
    ("tiny", "serving", "evaluation"),
    ("chat", "paint", "finetuning"),
    ("memory",),
    ("checkpoint", "safety"),
    ("libraries",),
    ("remote_code", "language", "moved"),
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


def imports(name, path):
    """Modules of ours that a module imports anywhere in it."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            base = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                module = f"{base}.{alias.name}".strip(".")
                yield module if module in MODULES else base


GRAPH = {name: sorted(set(imports(name, path))) for name, path in MODULES.items() if name != "__init__"}


def test_no_room_imports_upward_or_sideways():
    assert {name.partition(".")[0] for name in GRAPH} == set(FLOOR)
    for name, targets in GRAPH.items():
        for target in filter(None, targets):  # "" is the package itself
            own, other = name.partition(".")[0], target.partition(".")[0]
            assert own == other or FLOOR[own] < FLOOR[other], f"{name} imports {target}"


def test_no_two_files_import_each_other():
    """Through however many others; a package's own list of its rooms does not count."""
    done = set()

    def visit(name, above):
        assert name not in above, " → ".join([*above[above.index(name) :], name])
        if name in done or MODULES[name].name == "__init__.py":
            return
        for target in filter(None, GRAPH[name]):
            visit(target, [*above, name])
        done.add(name)

    for name in GRAPH:
        visit(name, [])


def test_files_and_disks_know_no_model():
    for name, targets in GRAPH.items():
        if name.startswith("checkpoint.files."):
            assert all(target.startswith(("checkpoint.files", "checkpoint.errors")) for target in targets), name


def test_every_room_says_what_is_in_it():
    for name, path in MODULES.items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, name


@pytest.mark.parametrize("old", sorted(MOVED))
def test_a_module_is_found_by_its_old_name(old):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = importlib.import_module(f"viscpm_hf.{old}")
    assert module is importlib.import_module(f"viscpm_hf.{MOVED[old]}")
    assert module.__spec__.name == module.__name__ == f"viscpm_hf.{MOVED[old]}"


def test_a_moved_module_runs_by_its_old_name():
    command = [sys.executable, "-m", "viscpm_hf.evaluation.exact_answers", "--help"]
    assert "--beams" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
