"""diffusers' classes for those who need them, imported without what optional quantizers say of the machine.

diffusers takes seconds to import, so whoever can do without it for a while imports this late.
"""

from ...libraries import SAID_BY_DIFFUSERS, quiet

with quiet(*SAID_BY_DIFFUSERS):
    from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
    from diffusers.utils import logging as diffusers_logging

__all__ = [
    "AutoencoderKL",
    "DDPMScheduler",
    "DiffusionPipeline",
    "SchedulerMixin",
    "UNet2DConditionModel",
    "diffusers_logging",
]
