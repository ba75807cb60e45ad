"""transformers as this package needs it: with our Auto classes, without remarks, and not before it is needed."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise

# loggers of optional quantizers, which comment on the machine when diffusers is imported
SAID_BY_DIFFUSERS = ("bitsandbytes.backends.cpu.ops", "diffusers.quantizers.torchao.torchao_quantizer")
_lock = threading.Lock()
_levels: dict[str, tuple[int, int]] = {}  # of quiet loggers: how many want it, the level before


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Only errors of these loggers are shown meanwhile; when the last one leaves they are as they were.

    Args:
        names: of the loggers.
    """
    with _lock:
        for name in names:
            logger = logging.getLogger(name)
            count, level = _levels.get(name, (0, logger.level))
            _levels[name] = count + 1, level
            logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        with _lock:
            for name in names:
                count, level = _levels.pop(name)
                if count > 1:
                    _levels[name] = count - 1, level
                else:
                    logging.getLogger(name).setLevel(level)


def is_command() -> bool:
    """Whether this process is the `viscpm` command, whose help should not wait for torch.

    Somebody else's program may have its name, and processes that multiprocessing starts have the name of their parent;
    while the package is imported `python -m viscpm_hf` says no more of itself than -m.
    """
    name = sys.argv[0] if getattr(sys, "argv", None) and isinstance(sys.argv[0], str) else ""
    parent = getattr(sys.modules.get("multiprocessing.process"), "parent_process", None)
    if parent and parent() is not None:
        return False
    if name == "-m":
        return not {("-m", "viscpm_hf"), ("-m", "viscpm_hf.cli")}.isdisjoint(pairwise(sys.orig_argv))
    if os.path.basename(name) != "viscpm":
        return os.path.basename(name) == "viscpm.exe"
    try:
        with open(sys.modules["__main__"].__file__, "rb") as script:
            return b"viscpm_hf.cli" in script.read(10_000)
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return False


def leave_quietly_on_ctrl_c() -> None:
    """Ctrl-C ends the process with one line, unless somebody has another use for it.

    Libraries take seconds to import, with nothing to clean up, and some swallow what is raised meanwhile. Where the
    work of a command begins, it takes over.
    """

    def leave(signum, frame):
        os.write(2, b"error: interrupted\n")
        os._exit(130)

    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, leave)


def register() -> None:
    """Registers Chat and CPM-Bee with transformers' Auto classes, so that they load without `trust_remote_code`."""
    # optional quantizers comment on the machine whenever transformers is imported: not during this import
    with quiet("torchao", "torch.utils._pytree"):
        from transformers import (
            AutoConfig,
            AutoModel,
            AutoModelForCausalLM,
            AutoModelForImageTextToText,
            AutoModelForMultimodalLM,
            AutoProcessor,
            AutoTokenizer,
        )
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        from .remote_code.configuration_viscpm_chat import VisCPMChatConfig
        from .remote_code.generation_cpmbee import CpmBeeForCausalLM
        from .remote_code.image_processing_viscpm_chat import VisCPMChatImageProcessor
        from .remote_code.modeling_beit3 import Beit3VisionConfig, Beit3VisionModel
        from .remote_code.modeling_cpmbee import CpmBeeConfig, CpmBeeModel
        from .remote_code.modeling_viscpm_chat import VisCPMChatForConditionalGeneration, VisCPMChatModel
        from .remote_code.processing_viscpm_chat import VisCPMChatProcessor
        from .remote_code.tokenization_cpmbee import CpmBeeTokenizer

    for config, model in ((VisCPMChatConfig, VisCPMChatModel), (CpmBeeConfig, CpmBeeModel)):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
    AutoConfig.register(Beit3VisionConfig.model_type, Beit3VisionConfig, exist_ok=True)
    AutoModel.register(Beit3VisionConfig, Beit3VisionModel, exist_ok=True)
    AutoModelForCausalLM.register(CpmBeeConfig, CpmBeeForCausalLM, exist_ok=True)
    AutoModelForImageTextToText.register(VisCPMChatConfig, VisCPMChatForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(VisCPMChatConfig, VisCPMChatForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(VisCPMChatConfig, VisCPMChatProcessor, exist_ok=True)
    # one class for both backends: pixels must not depend on whether torchvision is installed
    AutoImageProcessor.register(
        VisCPMChatConfig,
        image_processor_classes={"pil": VisCPMChatImageProcessor, "torchvision": VisCPMChatImageProcessor},
        exist_ok=True,
    )
    # On the language model's configuration only: for a Chat repository transformers then finds the class by its name,
    # and prefers it to the repository's copy as it does for the other parts.
    AutoTokenizer.register(CpmBeeConfig, tokenizer_class=CpmBeeTokenizer, exist_ok=True)
    # `transformers serve` asks a table of names, which register() does not reach. Its name is public but in no manual:
    # a later version may lack it, and then only that command does not know Chat.
    with suppress(ImportError):
        from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as TABLE

        TABLE[VisCPMChatConfig.model_type] = VisCPMChatForConditionalGeneration.__name__
