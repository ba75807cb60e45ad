"""diffusers' classes for the modules that need them, imported without what optional quantizers say of the machine.

Only Paint's modules import this one, and late: diffusers takes seconds to import.
"""

import logging

_noisy = {
    name: logging.getLogger(name)
    for name in ("bitsandbytes.backends.cpu.ops", "diffusers.quantizers.torchao.torchao_quantizer")
}
_levels = {name: logger.level for name, logger in _noisy.items()}
for _logger in _noisy.values():
    _logger.setLevel(logging.ERROR)

from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel  # noqa: E402
from diffusers.utils import logging as diffusers_logging  # noqa: E402

for _name, _logger in _noisy.items():
    _logger.setLevel(_levels[_name])

__all__ = ["AutoencoderKL", "DDPMScheduler", "DiffusionPipeline", "UNet2DConditionModel", "diffusers_logging"]
