"""VisCPM on today's Hugging Face stack.

Importing the package registers VisCPM-Chat and CPM-Bee with transformers' Auto classes, so that converted checkpoints
load without `trust_remote_code`. The `viscpm` command does that later, where a verb needs it.
"""

from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any

from .libraries import SAID_BY_DIFFUSERS, is_command, leave_quietly_on_ctrl_c, quiet, register

__version__ = "0.1.0"

if is_command():
    leave_quietly_on_ctrl_c()
else:
    register()

from . import moved  # noqa: E402  what comes after Ctrl-C is taken care of

moved.install()
_lock = RLock()  # diffusers does not like to be imported by two threads at once

# Loaded on first use: they bring libraries that plain model loading does not need.
_LAZY = {
    "Beit3VisionConfig": "remote_code.modeling_beit3",
    "Beit3VisionModel": "remote_code.modeling_beit3",
    "CpmBeeConfig": "remote_code.modeling_cpmbee",
    "CpmBeeForCausalLM": "remote_code.generation_cpmbee",
    "CpmBeeModel": "remote_code.modeling_cpmbee",
    "CpmBeeTokenizer": "remote_code.tokenization_cpmbee",
    "UnsafeContentError": "safety",
    "VisCPMChat": "chat",
    "VisCPMChatConfig": "remote_code.configuration_viscpm_chat",
    "VisCPMChatForConditionalGeneration": "remote_code.modeling_viscpm_chat",
    "VisCPMChatImageProcessor": "remote_code.image_processing_viscpm_chat",
    "VisCPMChatModel": "remote_code.modeling_viscpm_chat",
    "VisCPMChatProcessor": "remote_code.processing_viscpm_chat",
    "VisCPMPaint": "paint",
    "VisCPMPaintPipeline": "remote_code.pipeline_viscpm_paint",
    "VisCPMPaintTextProjection": "remote_code.modeling_viscpm_paint",
    "pack_linears": "memory.packing",
}
__all__ = [*_LAZY, "__version__"]

if TYPE_CHECKING:  # the same, for those who read types
    from .chat import VisCPMChat as VisCPMChat
    from .memory.packing import pack_linears as pack_linears
    from .paint import VisCPMPaint as VisCPMPaint
    from .remote_code.configuration_viscpm_chat import VisCPMChatConfig as VisCPMChatConfig
    from .remote_code.generation_cpmbee import CpmBeeForCausalLM as CpmBeeForCausalLM
    from .remote_code.image_processing_viscpm_chat import VisCPMChatImageProcessor as VisCPMChatImageProcessor
    from .remote_code.modeling_beit3 import Beit3VisionConfig as Beit3VisionConfig
    from .remote_code.modeling_beit3 import Beit3VisionModel as Beit3VisionModel
    from .remote_code.modeling_cpmbee import CpmBeeConfig as CpmBeeConfig
    from .remote_code.modeling_cpmbee import CpmBeeModel as CpmBeeModel
    from .remote_code.modeling_viscpm_chat import (
        VisCPMChatForConditionalGeneration as VisCPMChatForConditionalGeneration,
    )
    from .remote_code.modeling_viscpm_chat import VisCPMChatModel as VisCPMChatModel
    from .remote_code.modeling_viscpm_paint import VisCPMPaintTextProjection as VisCPMPaintTextProjection
    from .remote_code.pipeline_viscpm_paint import VisCPMPaintPipeline as VisCPMPaintPipeline
    from .remote_code.processing_viscpm_chat import VisCPMChatProcessor as VisCPMChatProcessor
    from .remote_code.tokenization_cpmbee import CpmBeeTokenizer as CpmBeeTokenizer
    from .safety import UnsafeContentError as UnsafeContentError


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        with _lock, quiet(*SAID_BY_DIFFUSERS):
            return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module 'viscpm_hf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
