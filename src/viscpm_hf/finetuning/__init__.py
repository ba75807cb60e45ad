"""Fine-tuning VisCPM-Chat: conversations about pictures, their model inputs, and the Trainer set-up."""

from .check import check_samples
from .collator import ChatCollator
from .dataset import ChatDataset, ChatStream
from .trainer import ChatTrainer, parameter_groups, resume_from

__all__ = [
    "ChatCollator",
    "ChatDataset",
    "ChatStream",
    "ChatTrainer",
    "check_samples",
    "parameter_groups",
    "resume_from",
]
