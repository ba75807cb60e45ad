"""Tiny configurations and inputs as transformers' testers ask for them."""

import torch
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from viscpm_hf import Beit3VisionConfig, CpmBeeConfig, VisCPMChatConfig

LANGUAGE = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
    "position_bias_num_buckets": 32,
    "position_bias_num_segment_buckets": 8,
    "position_bias_max_distance": 64,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "unk_token_id": 1,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
    "query_num": 3,
    "max_source_positions": 16,
}
BATCH, LENGTH = 3, 12


class ModelTester:
    """What the testers read: sizes, a configuration, and inputs."""

    is_training = True
    batch_size = BATCH

    def __init__(self, parent):
        self.parent = parent

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), self.inputs()


def text_inputs():
    ids = torch.randint(4, LANGUAGE["vocab_size"], (BATCH, LENGTH))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def pictures():
    return torch.rand(BATCH, 3, VISION["image_size"], VISION["image_size"])


class CpmBeeTester(ModelTester):
    seq_length = LENGTH
    vocab_size, hidden_size = LANGUAGE["vocab_size"], LANGUAGE["hidden_size"]
    num_hidden_layers, num_attention_heads = LANGUAGE["num_hidden_layers"], LANGUAGE["num_attention_heads"]

    def get_config(self):
        return CpmBeeConfig(**LANGUAGE)

    def inputs(self):
        return text_inputs()


class Beit3Tester(ModelTester):
    hidden_size, image_size, patch_size = VISION["hidden_size"], VISION["image_size"], VISION["patch_size"]
    num_hidden_layers, num_attention_heads = VISION["num_hidden_layers"], VISION["num_attention_heads"]
    seq_length = encoder_seq_length = (image_size // patch_size) ** 2 + 1 + VISION["query_num"]

    def get_config(self):
        return Beit3VisionConfig(**VISION)

    def inputs(self):
        return {"pixel_values": pictures()}


class ChatTester(CpmBeeTester):
    text_config, vision_config = LANGUAGE, VISION

    def get_config(self):
        return VisCPMChatConfig(text_config=LANGUAGE, vision_config=VISION)

    def inputs(self):
        inputs = text_inputs()
        places = torch.zeros_like(inputs["input_ids"])
        places[:, 2 : 2 + VISION["query_num"]] = 1
        inputs["input_ids"][places.bool()] = LANGUAGE["unk_token_id"]
        return {**inputs, "mm_token_type_ids": places, "pixel_values": pictures()}


# by these names the testers know which models take labels
MODEL_MAPPING_NAMES.update(
    {"cpmbee": "CpmBeeModel", "viscpm_chat": "VisCPMChatModel", "beit3_vision": "Beit3VisionModel"}
)
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["cpmbee"] = "CpmBeeForCausalLM"
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["viscpm_chat"] = "VisCPMChatForConditionalGeneration"
