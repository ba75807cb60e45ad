"""Where modules of version 0.1 are now: their old names can still be imported, and run with `python -m`."""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

_ROOMS = {  # (what was before the name, the room it is in now): names
    ("checkpoint.", "checkpoint.files"): "hashing hub json_file pickled safetensors_file sizes source staging stored "
    "torch_file weights wrapped",
    ("checkpoint.", "checkpoint.layout"): "configs diffusers_classes keys stable_diffusion unet",
    ("", "memory"): "calibration calibration_inputs packing placement",
    ("tiny.", "tiny.world"): "contact_sheet pictures prompts questions vocabulary",
    ("tiny.", "tiny.training"): "batches export train_chat train_paint",
    ("evaluation.", "tiny.measures"): "exact_answers lossy_methods painted_prompts",
}
MOVED = {f"{old}{name}": f"{room}.{name}" for (old, room), names in _ROOMS.items() for name in names.split()} | {
    "checkpoint.convert": "checkpoint.chat",
    "checkpoint.files_on_disk": "checkpoint.files.disk",
    "memory_plans": "memory.plans",
    "memory_report": "memory.report",
    "model_size": "memory.sizes",
}


class _Finder(MetaPathFinder, Loader):
    """Gives the new module under its old name: the same object, so that its classes are the same."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == __package__ and name in MOVED else None

    def create_module(self, spec):
        new = _new_name(spec.name)
        warnings.warn(f"{spec.name} is {new} now.", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = module.__spec__.loader_state  # importing has put the old name's there

    def get_code(self, fullname):
        """For `python -m`."""
        code = f"import runpy; runpy.run_module({_new_name(fullname)!r}, run_name='__main__', alter_sys=True)"
        return compile(code, fullname, "exec")


def _new_name(fullname: str) -> str:
    return f"{__package__}.{MOVED[fullname.partition('.')[2]]}"


def install() -> None:
    """Makes the old names importable."""
    sys.meta_path.insert(0, _Finder())  # before a package's folder is looked into: the old name of one may hold both
