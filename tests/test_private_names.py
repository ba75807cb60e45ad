"""Guards what remote_code/ leans on in the libraries: a copy in a repository meets versions that came long after it.

Whatever has a name with an underscore is in the table below with its reason; a name that a version of the libraries no
longer has, and an overridden method that would no longer be called as it is written, fail with that name.
"""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from pydoc import locate

import pytest

import viscpm_hf.remote_code

FOLDER = Path(viscpm_hf.remote_code.__file__).parent
FILES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
MODULES = [import_module(f"viscpm_hf.remote_code.{path.stem}") for path in FILES]
CLASSES = [
    one for module in MODULES for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__
]
CLASSES = [one for one in CLASSES if inspect.isclass(one)]

MODEL, TOKENIZER = "transformers.PreTrainedModel", "transformers.PreTrainedTokenizer"
PIPELINE, LORA = "diffusers.DiffusionPipeline", "diffusers.loaders.StableDiffusionLoraLoaderMixin"
# name: who has it, the arguments it is called with (None: it is no method), why it is used
PRIVATE = {
    "_attn_implementation": ("transformers.PreTrainedConfig", None, "the chosen kernel; models document it as theirs"),
    "_can_compile_fullgraph": (MODEL, None, "flag that a model class sets"),
    "_no_split_modules": (MODEL, None, "flag that a model class sets"),
    "_skip_keys_device_placement": (MODEL, None, "flag that a model class sets"),
    "_supports_attention_backend": (MODEL, None, "flag that a model class sets"),
    "_supports_flash_attn": (MODEL, None, "flag that a model class sets"),
    "_supports_flex_attn": (MODEL, None, "flag that a model class sets"),
    "_supports_sdpa": (MODEL, None, "flag that a model class sets"),
    "_tied_weights_keys": (MODEL, None, "flag that a model class sets"),
    "_init_weights": (MODEL, ["module"], "the documented place for initialisation"),
    "_from_config": (MODEL, ["config"], "how models of transformers make their parts, with kernel and dtype chosen"),
    "_tokenize": (TOKENIZER, ["text"], "one of three methods that a tokenizer written in Python has to have"),
    "_convert_token_to_id": (TOKENIZER, ["token"], "as _tokenize"),
    "_convert_id_to_token": (TOKENIZER, ["index"], "as _tokenize"),
    "_optional_components": (PIPELINE, None, "flag that a pipeline class sets"),
    "_lora_loadable_modules": (LORA, None, "flag that a pipeline class sets"),
    "_execution_device": (PIPELINE, None, "where a pipeline under offloading computes; every pipeline asks it"),
    "_dict_from_json_file": (PIPELINE, ["json_file"], "lets the installed class load repositories without trust"),
    "_pipeline": (f"{LORA}.load_lora_into_unet", None, "argument of load_lora_weights to what ours overrides"),
    "_disabled_torch_function_impl": ("torch._C", None, "documented way for a subclass to yield plain tensors"),
    "_version": ("torch.Tensor", None, "torch's count of writes to a tensor's memory"),
    "_C": ("torch", None, "see _disabled_torch_function_impl"),
}
# keys of JSON files and of state, which outlive versions; endings of names; names of ours in others' objects
WORDS = {"_class_name", "_name_or_path", "_orig_mod", "_token", "_token_id", "_viscpm_paint_turn"}


def private(name):
    return name.startswith("_") and not name.startswith("__") and name.isidentifier() and name != "_"


def used_names():
    """Private names in attributes, imports, keywords and strings that are not of our own making, with their places."""
    own, used = set(), {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{path.name}:{getattr(node, 'lineno', '')}"
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    own.add(name)
                case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                    own.add(name)
                case ast.Attribute(attr=name) | ast.keyword(arg=str(name)) | ast.Constant(value=str(name)):
                    used.setdefault(name, place)
                case ast.ImportFrom(level=0):
                    for name in [*node.module.split("."), *(alias.name for alias in node.names)]:
                        used.setdefault(name, place)
    return {name: place for name, place in used.items() if private(name) and name not in own}


def overridden():
    """(class, name, the library's class that has this name, too) of everything that ours put in place of theirs."""
    for one in CLASSES:
        for name in vars(one):
            theirs = [
                base for base in one.__mro__ if not base.__module__.startswith("viscpm_hf.") and base is not object
            ]
            base = next((base for base in theirs if name in vars(base)), None)
            if base and not name.startswith("__") and name not in ("_abc_impl", "_auto_class"):
                yield one, name, base


def test_every_private_name_is_in_the_table():
    used = used_names() | {name: one.__name__ for one, name, _ in overridden() if private(name)}
    unlisted = {name: place for name, place in used.items() if name not in PRIVATE and name not in WORDS}
    assert not unlisted, f"private and without a reason in {Path(__file__).name}: {unlisted}"
    assert not {*PRIVATE, *WORDS} - used.keys(), "in the table, but no longer used"


@pytest.mark.parametrize("name", PRIVATE)
def test_the_libraries_still_have(name):
    owner, arguments, reason = PRIVATE[name]
    found = locate(owner)
    assert found is not None, f"{name}: there is no {owner} (used: {reason})"
    if inspect.isroutine(found):
        assert name in inspect.signature(found).parameters, f"{owner} takes no {name} (used: {reason})"
        return
    thing = getattr(found() if inspect.isclass(found) and found.__name__.endswith("Config") else found, name, owner)
    assert thing is not owner, f"{owner} has no {name} (used: {reason})"
    if arguments is not None:
        given = [key for key in inspect.signature(thing).parameters if key not in ("self", "kwargs", "args")]
        assert given[: len(arguments)] == arguments, f"{owner}.{name} takes {given}, expected {arguments} first"


def function(owner, name):
    return getattr(vars(owner)[name], "__func__", vars(owner)[name])


METHODS = [names for names in overridden() if all(inspect.isfunction(function(one, names[1])) for one in names[::2])]


@pytest.mark.parametrize("one, name, base", METHODS, ids=lambda value: getattr(value, "__name__", value))
def test_an_overridden_method_takes_what_the_librarys_does(one, name, base):
    ours, theirs = (inspect.signature(function(owner, name)).parameters for owner in (one, base))
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in ours.values()):
        return
    for place, (key, parameter) in enumerate(theirs.items()):
        if key not in ours and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            # one that has another name with us is given by its place
            renamed = [*ours][place] if place < len(ours) else None
            assert renamed and renamed not in theirs, f"{one.__name__}.{name} takes no {key}, {base.__name__}'s does"
