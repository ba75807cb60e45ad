"""The original's way of answering, with the weights of a model of ours: a stand-in for the original's own code.

That code needs a GPU and libraries of 2023, so it cannot run beside ours. The stand-in computes what it computes, in
its order and with its copies: every beam is a row of its own from the first token of the prompt on, all positions of a
prompt get scores for the whole vocabulary, each product is divided after it, scores are masked before and after the
softmax, keys and values are copied when a token is added and again when beams change places, and what the search
decides is decided in Python. On the same inputs it chooses the tokens that `generate()` chooses (test_benchmarks.py).
"""

import math

import torch
from torch import nn


class StandIn:
    """A Chat model used as the original uses its own.

    Args:
        model (`VisCPMChatForConditionalGeneration`): in float32 on a CPU.
        beams (`dict`): num_beams, beam_temperature and repetition_penalty.
    """

    def __init__(self, model, beams):
        self.model, self.stack = model, model.model.language_model
        self.beams, self.temperature = beams["num_beams"], beams["beam_temperature"]
        self.penalty = beams["repetition_penalty"]

    @torch.inference_mode()
    def prefill(self, inputs, image_features):
        """Reads a prompt, once for each beam.

        Args:
            inputs (`dict`): of one conversation, as the processor gives them; the answer's `<s>`, the last token, is
                read with the first step.
            image_features (`torch.Tensor`): (1, query_num, hidden).
        """
        rows, length = self.beams, inputs["input_ids"].shape[1] - 1
        embeddings = self.stack.embed_tokens(inputs["input_ids"][:, :length])
        places = (inputs["mm_token_type_ids"][:, :length] == 1)[..., None]
        embeddings = embeddings.masked_scatter(places, image_features)
        self.relations = inputs["segment_rel"].flatten(1).repeat(rows, 1)  # (beams, segments * segments)
        self.count = inputs["segment_rel"].shape[-1]
        self.answer_segment = inputs["segment_ids"][:, -1:].repeat(rows, 1)
        position = torch.arange(length)[None].repeat(rows, 1)
        self.segments = self.positions = torch.empty(rows, 0, dtype=torch.long)
        self.context = torch.empty(rows, 0, dtype=torch.bool)
        self.cache = [None] * len(self.stack.layers)
        self._read(embeddings.repeat(rows, 1, 1), inputs["segment_ids"][:, :length].repeat(rows, 1), position)
        self.tokens = inputs["input_ids"][:, -1:].repeat(rows, 1)  # (beams, 1 + written)
        self.scores = torch.full((rows,), -1e9)
        self.scores[0] = 0

    @torch.inference_mode()
    def decode(self, steps):
        """Writes that many tokens with all beams; returns those of the best."""
        for step in range(steps):
            embeddings = self.stack.embed_tokens(self.tokens[:, -1:])
            logits = self._read(embeddings, self.answer_segment, torch.full((self.beams, 1), step))[:, -1]
            logits[:, self.model.config.text_config.unk_token_id] = -10000
            for row in range(self.beams):
                for token in set(self.tokens[row].tolist()):
                    if logits[row, token] < 0:
                        logits[row, token] *= self.penalty
                    else:
                        logits[row, token] /= self.penalty
            scores = nn.functional.log_softmax(logits / self.temperature, dim=-1) + self.scores[:, None]
            best, places = scores.view(-1).topk(2 * self.beams)
            chosen = [
                (place.item() // scores.shape[1], place.item() % scores.shape[1], score.item())
                for place, score in zip(places, best, strict=True)
            ][: self.beams]
            parents = [parent for parent, _, _ in chosen]
            self.scores = torch.tensor([score for _, _, score in chosen])
            written = torch.tensor([[token] for _, token, _ in chosen])
            self.tokens = torch.cat([self.tokens[parents], written], dim=1)
            self.cache = [(key[parents], value[parents]) for key, value in self.cache]
            self.segments, self.positions = self.segments[parents], self.positions[parents]
            self.context = self.context[parents]
        return self.tokens[0, 1:]

    def _read(self, hidden_states, segments, positions):
        """Logits (beams, length, vocabulary) of new tokens behind those that were read."""
        self.segments = torch.cat([self.segments, segments], dim=1)
        self.positions = torch.cat([self.positions, positions], dim=1)
        self.context = torch.cat([self.context, torch.ones_like(segments, dtype=torch.bool)], dim=1)
        relation = (segments[:, :, None] * self.count + self.segments[:, None, :]).flatten(1)
        relation = self.relations.gather(1, relation).view(*segments.shape, -1)
        hidden = ~(self.context[:, None, :] | (self.positions[:, None, :] <= positions[:, :, None]))
        distance = self.positions[:, None, :] - positions[:, :, None]
        bias = self.stack.position_bias(relation, distance).contiguous()
        for index, layer in enumerate(self.stack.layers):
            attention = self._attend(
                index, layer.self_attn, layer.input_layernorm(hidden_states), bias, hidden[:, None]
            )
            hidden_states = (hidden_states + attention) / 1.05
            mlp, normed = layer.mlp, layer.post_attention_layernorm(hidden_states)
            inner = nn.functional.gelu(_product(mlp.gate_proj, normed)) * _product(mlp.up_proj, normed)
            hidden_states = (hidden_states + mlp.down_proj(inner / math.sqrt(inner.shape[-1]))) / 1.05
        hidden_states = self.stack.norm(hidden_states)
        logits = self.model.lm_head(hidden_states / math.sqrt(hidden_states.shape[-1]))
        unknown = hidden_states @ hidden_states.new_empty(hidden_states.shape[-1], 0)  # words outside the vocabulary
        return torch.cat([logits, unknown], dim=-1)

    def _attend(self, index, block, hidden_states, bias, hidden):
        query, key, value = (
            _product(projection, hidden_states).view(*hidden_states.shape[:2], -1, block.head_dim).transpose(1, 2)
            for projection in (block.q_proj, block.k_proj, block.v_proj)
        )
        if self.cache[index] is not None:
            key = torch.cat([self.cache[index][0], key], dim=2)
            value = torch.cat([self.cache[index][1], value], dim=2)
        self.cache[index] = key, value
        scores = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(block.head_dim) + bias
        weights = nn.functional.softmax(scores.masked_fill(hidden, -math.inf), dim=-1).masked_fill(hidden, 0)
        attention = torch.matmul(weights, value).transpose(1, 2).flatten(2)
        return _product(block.o_proj, attention)


def _product(linear, hidden_states):
    return linear(hidden_states) / math.sqrt(linear.in_features)
