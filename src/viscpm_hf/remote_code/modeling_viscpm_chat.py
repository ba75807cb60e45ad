"""VisCPM-Chat: BEiT-3 sees the picture, a connector maps its queries into CPM-Bee's width, CPM-Bee answers."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .configuration_viscpm_chat import VisCPMChatConfig
from .generation_cpmbee import CpmBeeGenerationMixin
from .modeling_beit3 import Beit3VisionModel
from .modeling_cpmbee import CACHE, CpmBeeModel, CpmBeePreTrainedModel, as_quantized, check_embeddings, one_cache


@dataclass
class VisCPMChatModelOutputWithPast(BaseModelOutputWithPast):
    """`BaseModelOutputWithPast`, the pictures' features `(images, query_num, hidden)` and what they come from."""

    image_hidden_states: torch.FloatTensor | None = None
    image_outputs: BaseModelOutputWithPooling | None = None


@dataclass
class VisCPMChatCausalLMOutputWithPast(CausalLMOutputWithPast):
    """`CausalLMOutputWithPast`, the pictures' features `(images, query_num, hidden)` and what they come from."""

    image_hidden_states: torch.FloatTensor | None = None
    image_outputs: BaseModelOutputWithPooling | None = None


class VisCPMChatConnector(nn.Module):
    """Two-layer MLP from the vision tower's width to the language model's."""

    def __init__(self, config: VisCPMChatConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.linear_2 = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(nn.functional.gelu(self.linear_1(image_features)))


class VisCPMChatPreTrainedModel(PreTrainedModel):
    config: VisCPMChatConfig
    config_class = VisCPMChatConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["CpmBeeDecoderLayer", "Beit3Layer", "Beit3Embeddings"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def _init_weights(self, module):
        # The two towers initialise differently; what is neither (the connector) is ordinary, like the vision side.
        if module is getattr(self, "lm_head", None):
            CpmBeePreTrainedModel._init_weights(self, module)
        else:
            super()._init_weights(module)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """See `CpmBeePreTrainedModel.resize_token_embeddings`."""
        return CpmBeePreTrainedModel.resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """See `CpmBeePreTrainedModel.save_pretrained`."""
        super().save_pretrained(save_directory, *args, **as_quantized(self, kwargs))


class VisCPMChatModel(VisCPMChatPreTrainedModel):
    """Vision tower, connector and language model without the vocabulary head."""

    def __init__(self, config: VisCPMChatConfig):
        super().__init__(config)
        self.vision_tower = Beit3VisionModel._from_config(config.vision_config)
        self.connector = VisCPMChatConnector(config)
        self.language_model = CpmBeeModel._from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The language model's embeddings."""
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the language model's embeddings."""
        self.language_model.embed_tokens = value

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.FloatTensor, **kwargs: Any) -> BaseModelOutputWithPooling | tuple:
        """Features of pictures in the language model's width.

        Args:
            pixel_values: `(images, 3, image_size, image_size)`, scaled to [-1, 1].

        Returns:
            The vision tower's output with `pooler_output` mapped by the connector, `(images, query_num, hidden)`.
        """
        output = self.vision_tower(pixel_values, **kwargs, return_dict=True)
        output.pooler_output = self.connector(output.pooler_output)
        return output

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        context_mask: torch.LongTensor | None = None,
        segment_rel: torch.LongTensor | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        ext_table_ids: torch.LongTensor | None = None,
        ext_table_subs: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_features: torch.FloatTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> VisCPMChatModelOutputWithPast | tuple:
        """Run the model; see `CpmBeeModel.forward` for the inputs of the language side.

        Args:
            mm_token_type_ids: 1 where a picture's feature takes the place of the token `(batch, length)`.
            pixel_values: `(images, 3, image_size, image_size)`, one per sample that has a picture, in order.
            image_features: `pooler_output` of `get_image_features`, in place of `pixel_values`.
            mm_encoder_outputs: `{"image": output of get_image_features}`, the same in transformers' form.

        Raises:
            ValueError: If pictures and placeholders do not match in number.
        """
        cache = one_cache(cache, past_key_values)
        check_embeddings(inputs_embeds, segment_ids, cache)
        # of what is not said the parts' configurations decide
        output_hidden_states = output_hidden_states or self.config.output_hidden_states or output_hidden_states
        output_attentions = output_attentions or self.config.output_attentions or output_attentions
        if inputs_embeds is None:
            inputs_embeds = self.language_model.embed(input_ids, ext_table_ids, ext_table_subs)

        image_outputs = self.picture_outputs(
            pixel_values,
            kwargs.get("mm_encoder_outputs"),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        if image_outputs is not None:
            image_features = image_outputs.pooler_output
        if image_features is not None:
            inputs_embeds = self._insert_image_features(inputs_embeds, image_features, mm_token_type_ids)

        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            segment_ids=segment_ids,
            context_mask=context_mask,
            segment_rel=segment_rel,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            cache=cache,
            return_dict=True,
        )
        return VisCPMChatModelOutputWithPast(
            **outputs, image_hidden_states=image_features, image_outputs=image_outputs
        )

    def picture_outputs(
        self, pixel_values: torch.FloatTensor | None = None, mm_encoder_outputs: dict | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling | None:
        """What `get_image_features` returns of pictures in either form, None if there are none."""
        encoded = mm_encoder_outputs.get("image") if mm_encoder_outputs else None
        if encoded is not None and pixel_values is not None:
            raise ValueError("Got pixel_values and mm_encoder_outputs, expected the picture in one of them.")
        if pixel_values is None:
            return encoded
        return self.get_image_features(pixel_values, **kwargs, return_dict=True)

    def _insert_image_features(self, inputs_embeds, image_features, mm_token_type_ids):
        if image_features.ndim != 3 or image_features.shape[2] != inputs_embeds.shape[2]:
            raise ValueError(
                f"Got picture features of shape {tuple(image_features.shape)}, expected "
                f"(pictures, tokens, {inputs_embeds.shape[2]}): those of this model's get_image_features."
            )
        expected = image_features.shape[0] * image_features.shape[1]
        places = 0 if mm_token_type_ids is None else int((mm_token_type_ids == 1).sum())
        if places != expected:
            raise ValueError(
                f"Got {image_features.shape[0]} picture(s) of {image_features.shape[1]} tokens but {places} "
                "placeholder tokens in mm_token_type_ids; pass the processor's output unchanged, "
                "one picture per conversation."
            )
        # with prompt lookup, candidate tokens already follow the prompt here
        missing = inputs_embeds.shape[1] - mm_token_type_ids.shape[1]
        mask = nn.functional.pad(mm_token_type_ids == 1, (0, missing))[..., None].to(inputs_embeds.device)
        return inputs_embeds.masked_scatter(mask, image_features.to(inputs_embeds))


class VisCPMChatForConditionalGeneration(CpmBeeGenerationMixin, VisCPMChatPreTrainedModel):
    """VisCPM-Chat with its vocabulary head: answers questions about a picture.

    Example:
        >>> inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        >>> output = model.generate(**inputs)
        >>> processor.post_process_image_text_to_text(output[:, inputs["input_ids"].shape[1]:])
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: VisCPMChatConfig):
        super().__init__(config)
        self.model = VisCPMChatModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_image_features(self, pixel_values: torch.FloatTensor, **kwargs: Any) -> BaseModelOutputWithPooling | tuple:
        """See `VisCPMChatModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def _with_pictures(self, model_kwargs: dict) -> dict:
        given = {key: model_kwargs.pop(key, None) for key in ("pixel_values", "mm_encoder_outputs")}
        with torch.no_grad():
            pictures = self.model.picture_outputs(**given)
        # transformers repeats a tensor's rows for beams, each in its place; of mm_encoder_outputs it would count
        # placeholders by their id, which unknown words have, too
        return model_kwargs if pictures is None else {**model_kwargs, "image_features": pictures.pooler_output}

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        context_mask: torch.LongTensor | None = None,
        segment_rel: torch.LongTensor | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        ext_table_ids: torch.LongTensor | None = None,
        ext_table_subs: torch.LongTensor | None = None,
        ext_table_mask: torch.LongTensor | None = None,
        unk_allowed: torch.Tensor | None = None,
        ext_table_words: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_features: torch.FloatTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> VisCPMChatCausalLMOutputWithPast | tuple:
        """Logits for the next token; see `VisCPMChatModel.forward` and `CpmBeeForCausalLM.forward` for the inputs.

        Args:
            labels: Targets `(batch, length)` aligned with `input_ids`, -100 where there is none; shifted inside.
            shift_labels: Targets already shifted: the token after each position. Takes the place of `labels`. (Not
                named in the signature, where Trainer would look for a second kind of labels.)
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            segment_ids=segment_ids,
            context_mask=context_mask,
            segment_rel=segment_rel,
            mm_token_type_ids=mm_token_type_ids,
            ext_table_ids=ext_table_ids,
            ext_table_subs=ext_table_subs,
            pixel_values=pixel_values,
            image_features=image_features,
            mm_encoder_outputs=kwargs.pop("mm_encoder_outputs", None),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            cache=one_cache(cache, past_key_values),
            return_dict=True,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self._lm_logits(outputs.last_hidden_state[:, kept], ext_table_ids, ext_table_subs, ext_table_mask)
        loss = self._lm_loss(logits, labels, **kwargs)
        return VisCPMChatCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            image_outputs=outputs.image_outputs,
            **{CACHE: outputs[CACHE] if CACHE in outputs else None},
        )


# a saved copy carries these files, so that it loads where the package is not installed
VisCPMChatModel.register_for_auto_class("AutoModel")
VisCPMChatForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = [
    "VisCPMChatConfig",
    "VisCPMChatForConditionalGeneration",
    "VisCPMChatModel",
    "VisCPMChatPreTrainedModel",
]
