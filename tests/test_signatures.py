"""Every public function says the types of what it takes and returns, and has a docstring that names its arguments."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "viscpm_hf"
# cli/ is no library: its functions are for the command line, whose options typer reads from annotations anyway
FILES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if path.parent.name != "cli")
SPECIAL = ("__init__", "__call__")


def public(body, prefix=""):
    """(name, node, is a method) of the public classes and functions, methods included."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            yield from public(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("_") or (prefix and node.name in SPECIAL):
                yield prefix + node.name, node


def parameters(function):
    """What a caller can give, without self and cls."""
    given = function.args
    several = [each for each in (given.vararg, given.kwarg) if each]
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *several]
    return [each for each in every if each.arg not in ("self", "cls")]


@pytest.mark.parametrize("file", FILES)
def test_signatures_are_annotated(file):
    """py.typed promises types: for each parameter, and for what is returned."""
    lacking = []
    for name, node in public(ast.parse((SOURCE / file).read_text(encoding="utf-8")).body):
        if isinstance(node, ast.ClassDef):
            continue
        lacking += [f"{name}: {each.arg}" for each in parameters(node) if each.annotation is None]
        if node.returns is None and node.name != "__init__":
            lacking.append(f"{name}: what it returns")
    assert lacking == []


# what `make docs` shows: whole files, and of remote_code/ the classes that can be imported from viscpm_hf
SHOWN = [
    *("chat.py", "paint.py", "safety.py", "language.py", "tiny/__init__.py", "checkpoint/files/hub.py"),
    *(file for file in FILES if file.startswith(("finetuning/", "remote_code/"))),
    *(
        f"memory/{name}.py"
        for name in ("budget", "calibration", "packing", "placement", "plans", "report", "rounded_repository", "sizes")
    ),
    *(f"checkpoint/{name}.py" for name in ("chat", "paint", "cpmbee", "errors", "export", "refresh", "verify")),
]
MANY = 3  # arguments that one sentence can still tell
EXPORTED = re.findall(r'"(\w+)": "', (SOURCE / "__init__.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", ["__init__.py", "checkpoint/__init__.py"])
def test_names_loaded_on_first_use_have_types(file):
    """A type checker does not run `__getattr__`: under TYPE_CHECKING the same names come from the same modules."""
    tree = ast.parse((SOURCE / file).read_text(encoding="utf-8"))
    lazy = next(ast.literal_eval(each.value) for each in tree.body if ast.unparse(each).startswith("_LAZY = "))
    block = next(
        each.body for each in tree.body if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING"
    )
    typed = {alias.asname: line.module for line in block for alias in line.names}
    assert typed == {name: module.lstrip(".") for name, module in lazy.items()}


@pytest.mark.parametrize("file", SHOWN)
def test_docstrings_name_the_arguments(file):
    """What `make docs` shows has docstrings; "Args:" leaves out none and invents none, and is there where many are."""
    tree = ast.parse((SOURCE / file).read_text(encoding="utf-8"))
    lacking, of_class = [] if ast.get_docstring(tree) else ["what the file is for"], {}
    for name, node in public(tree.body):
        if file.startswith("remote_code/") and name.split(".")[0] not in EXPORTED:
            continue
        text = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            of_class[name] = text
        elif node.name == "__init__":
            text = text or of_class[name.rpartition(".")[0]]
        if not text and not any(ast.unparse(each).endswith(".setter") for each in node.decorator_list):
            lacking.append(f"{name}: a docstring")
        if isinstance(node, ast.ClassDef) or re.search(r"\b([Ss]ee|[Aa]s (in|for)) ", text):
            continue  # a class without __init__ is built by its base; the others say where arguments are told
        known = {each.arg for each in parameters(node)}
        wanted = known - {each.arg for each in (node.args.vararg, node.args.kwarg) if each}
        if "Args:" not in text:
            lacking += [f"{name}: Args"] if len(wanted) > MANY else []
            continue
        section = re.search(r"^Args:\n((?: .*\n|\n)*)", text + "\n", re.MULTILINE)[1]
        lacking += [f"{name}: {each}" for each in sorted(wanted - set(re.findall(r"\w+", section)))]
        if node.args.kwarg is None:
            told = {
                each
                for line in re.findall(r"^    (\w[\w, ]*)[:(]", section, re.MULTILINE)
                for each in line.split(", ")
            }
            lacking += [f"{name} has no {each.strip()}" for each in sorted(told) if each.strip() not in known]
    assert lacking == []
