"""Configuration of VisCPM-Chat: a CPM-Bee language model, a BEiT-3 vision tower, and what joins them."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .modeling_beit3 import Beit3VisionConfig
from .modeling_cpmbee import CpmBeeConfig


@strict
class VisCPMChatConfig(PreTrainedConfig):
    """Configuration of `VisCPMChatModel` and `VisCPMChatForConditionalGeneration`.

    Args:
        text_config (`CpmBeeConfig` or `dict`): The language model.
        vision_config (`Beit3VisionConfig` or `dict`): The vision tower.
        image_token_id (`int`, defaults to 1): Id of `<unk>`, which stands for a picture's features in the prompt. The
            first unknown word has the same id, so `mm_token_type_ids` says which is which.
    """

    model_type = "viscpm_chat"
    sub_configs = {"text_config": CpmBeeConfig, "vision_config": Beit3VisionConfig}
    keys_to_ignore_at_inference = ["past_key_values", "cache", "image_hidden_states", "image_outputs"]

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 1
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        # declaring `sub_configs_defaults` would do the same, but on transformers 5.20 and later only
        for name, config_class in self.sub_configs.items():
            part = getattr(self, name)
            if part is None or isinstance(part, dict):
                setattr(self, name, config_class(**(part or {})))
        super().__post_init__(**kwargs)

    @property
    def pad_token_id(self) -> int | None:
        """That of the language model; setting it sets it there."""
        # Seq2SeqTrainer pads generated ids with it
        return self.text_config.pad_token_id

    @pad_token_id.setter
    def pad_token_id(self, value: int | None) -> None:
        self.text_config.pad_token_id = value


# a saved copy carries this file, so that it loads where the package is not installed
VisCPMChatConfig.register_for_auto_class()

__all__ = ["VisCPMChatConfig"]
