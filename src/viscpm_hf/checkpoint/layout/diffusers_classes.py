"""diffusers' classes for those who need them, imported without what optional quantizers say of the machine.

diffusers takes seconds to import, so whoever can do without it for a while imports this late.
"""

from ...libraries import quiet

with quiet("bitsandbytes.backends.cpu.ops", "diffusers.quantizers.torchao.torchao_quantizer"):
    from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
    from diffusers.utils import logging as diffusers_logging

__all__ = ["AutoencoderKL", "DDPMScheduler", "DiffusionPipeline", "UNet2DConditionModel", "diffusers_logging"]
