"""VisCPM on today's Hugging Face stack.

Importing the package registers VisCPM-Chat and CPM-Bee with transformers' Auto classes, so that converted checkpoints
load without `trust_remote_code`.
"""

from importlib import import_module

from .quiet import quiet

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

for _config, _model in ((VisCPMChatConfig, VisCPMChatModel), (CpmBeeConfig, CpmBeeModel)):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
AutoConfig.register(Beit3VisionConfig.model_type, Beit3VisionConfig)
AutoModel.register(Beit3VisionConfig, Beit3VisionModel)
AutoModelForCausalLM.register(CpmBeeConfig, CpmBeeForCausalLM)
AutoModelForImageTextToText.register(VisCPMChatConfig, VisCPMChatForConditionalGeneration)
AutoModelForMultimodalLM.register(VisCPMChatConfig, VisCPMChatForConditionalGeneration)
AutoProcessor.register(VisCPMChatConfig, VisCPMChatProcessor)
# one class for both backends: pixels must not depend on whether torchvision is installed
AutoImageProcessor.register(
    VisCPMChatConfig,
    image_processor_classes={"pil": VisCPMChatImageProcessor, "torchvision": VisCPMChatImageProcessor},
)
# On the language model's configuration only: for a Chat repository transformers then finds the class by its name, and
# prefers it to the repository's copy as it does for the other parts.
AutoTokenizer.register(CpmBeeConfig, tokenizer_class=CpmBeeTokenizer)

# Loaded on first use: they bring libraries that plain model loading does not need.
_LAZY = {
    "VisCPMChat": "viscpm_hf.chat",
    "VisCPMPaint": "viscpm_hf.paint",
    "UnsafeContentError": "viscpm_hf.safety",
    "pack_linears": "viscpm_hf.packing",
    "VisCPMPaintPipeline": "viscpm_hf.remote_code.pipeline_viscpm_paint",
    "VisCPMPaintTextProjection": "viscpm_hf.remote_code.modeling_viscpm_paint",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'viscpm_hf' has no attribute {name!r}")


__all__ = [
    "Beit3VisionConfig",
    "Beit3VisionModel",
    "CpmBeeConfig",
    "CpmBeeForCausalLM",
    "CpmBeeModel",
    "CpmBeeTokenizer",
    "UnsafeContentError",
    "VisCPMChat",
    "VisCPMChatConfig",
    "VisCPMChatForConditionalGeneration",
    "VisCPMChatImageProcessor",
    "VisCPMChatModel",
    "VisCPMChatProcessor",
    "VisCPMPaint",
    "VisCPMPaintPipeline",
    "VisCPMPaintTextProjection",
    "pack_linears",
]
