"""Fine-tuning VisCPM-Chat: conversations about pictures, their model inputs, and the Trainer set-up."""

from .collator import ChatCollator
from .dataset import ChatDataset
from .trainer import parameter_groups, resume_from

__all__ = ["ChatCollator", "ChatDataset", "parameter_groups", "resume_from"]
