"""Trains the tiny VisCPM-Chat from scratch and writes it in the original's layout.

    python -m viscpm_hf.tiny.training.train_chat --output DIR [--device cuda] [--minutes 8]

First the vision tower alone learns to say what is in every cell, through throw-away heads on its queries; then the
whole model learns to answer on its own loss, with two small additions: the heads' loss, and that of another
throw-away head which says, from the picture's tokens half-way up the language model, which thing is meant.
Questions are prepared once (`--prepare` stops after that), pictures are drawn on the device. Every minute the state is
saved, and the model as it then is; the same command goes on from there. At the end it prints what the model answers.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...remote_code.configuration_viscpm_chat import VisCPMChatConfig
from ...remote_code.modeling_beit3 import Beit3VisionConfig
from ...remote_code.modeling_cpmbee import CpmBeeConfig
from ...remote_code.modeling_viscpm_chat import VisCPMChatForConditionalGeneration
from ..measures.exact_answers import print_tables
from ..world.pictures import IMAGE_SIZE
from ..world.scenes import CELLS
from .batches import (
    ANSWER,
    EXTENSIONS,
    IGNORED,
    LAYOUTS,
    NOTHING,
    QUERY_NUM,
    SCENE_CLASSES,
    Batches,
    Layout,
    assembled,
    prepare,
    shared,
    tiny_processor,
)
from .export import read_original, write_original
from .optimizer import adamw, rate_factor

WEIGHT_DECAY = 0.05
MEANT_LAYER = 2  # of four: below, words find their thing; above, the answer reads it
# cuDNN's knows no gradient of a bias
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_BANNED = -10000.0  # logit of unknown words that a row does not have


def tiny_config() -> VisCPMChatConfig:
    """Sizes of the tiny checkpoint."""
    tokenizer = tiny_processor().tokenizer
    return VisCPMChatConfig(
        text_config=CpmBeeConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            head_dim=32,
            position_bias_num_buckets=32,
            position_bias_num_segment_buckets=64,  # relation values reach 64
            position_bias_max_distance=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            unk_token_id=tokenizer.unk_token_id,
        ),
        vision_config=Beit3VisionConfig(
            image_size=IMAGE_SIZE,
            patch_size=8,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=5,
            num_attention_heads=4,
            max_position_embeddings=QUERY_NUM + 2,
            query_num=QUERY_NUM,
        ),
        image_token_id=tokenizer.unk_token_id,
    )


class ChatLearner(VisCPMChatForConditionalGeneration):
    """VisCPM-Chat with throw-away heads that learn alongside; several questions share a picture.

    Without the head for the thing that is meant, the answer alone teaches it: which of two things "the red one" is
    came last, after thousands of steps, and Chinese later than English.
    """

    _auto_class = None  # its checkpoints are for resuming only and carry no code
    weights = (0.3, 0.3)  # of the scene's and the meant thing's losses

    def __init__(self, config: VisCPMChatConfig):
        super().__init__(config)
        width = config.vision_config.hidden_size
        self.cell_head = nn.Linear(width, sum(SCENE_CLASSES))
        self.background_head = nn.Linear(width, NOTHING + 1)
        self.meant_head = nn.Linear(config.text_config.hidden_size, 1, bias=False)
        embeddings = self.model.vision_tower.embeddings
        # from scratch a tower learns much sooner where patches, positions and queries are about equally loud
        nn.init.normal_(embeddings.patch_embedding.weight, std=0.07)
        nn.init.normal_(embeddings.position_embedding["A"].weight, std=0.3)
        nn.init.normal_(embeddings.position_embedding["B"].weight, std=0.3)
        nn.init.normal_(self.model.vision_tower.query_tokens, std=1.0)

    def chat(self) -> VisCPMChatForConditionalGeneration:
        """A copy without the heads, which answers questions."""
        chat = VisCPMChatForConditionalGeneration(self.config)
        chat.load_state_dict(self.state_dict(), strict=False)
        return chat.to(self.device).eval()

    def compile_layers(self) -> None:
        """Compiles each layer, all of a kind once."""
        torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
        torch._dynamo.config.recompile_limit = 64
        for layer in self.compiled_layers():
            layer.compile(dynamic=False)

    def compiled_layers(self) -> list[nn.Module]:
        return [*self.model.vision_tower.layers, *self.model.language_model.layers]

    def scene_loss(self, queries: torch.Tensor, scene_labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of the heads, and how many things they name right.

        Nine queries say what is in the nine cells, the tenth the background.

        `queries` (pictures, query_num, hidden), `scene_labels` (pictures, 19).
        """
        cells = self.cell_head(queries[:, : len(CELLS)]).float()  # (pictures, 9, classes)
        names, sizes = (each.flatten(0, 1) for each in cells.split(SCENE_CLASSES, dim=-1))
        named, sized = (scene_labels[:, :-1].view(-1, 2, len(CELLS))[:, i].flatten() for i in range(2))
        there = named > 0
        right = ((names.argmax(-1) == named) & there).sum() / there.sum().clamp(min=1)
        losses = nn.functional.cross_entropy(names, named, reduction="none")
        # most cells are empty: each half counts by itself
        empty, full = ((losses * which).sum() / which.sum().clamp(min=1) for which in (~there, there))
        size = nn.functional.cross_entropy(sizes, sized)
        background = self.background_head(queries[:, len(CELLS)]).float()
        return full + empty + size + 0.3 * nn.functional.cross_entropy(background, scene_labels[:, -1]), right

    def read(
        self, layout: Layout, pictures: torch.Tensor | None, input_ids: torch.Tensor, real: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the language model makes of rows that `assembled` made.

        Args:
            layout (`Layout`): of the rows.
            pictures (`torch.Tensor`, *optional*): `(pictures, query_num, hidden)` in place of the placeholders, each
                for a group of rows.
            input_ids, real (`torch.Tensor`): `(rows, length)`.

        Returns:
            logits `(rows, 1 + answer, vocabulary + extensions)`, hidden states `(rows, length, hidden)` half-way up.
        """
        language_model, common = self.model.language_model, shared(layout, input_ids.device)
        # unknown words are `<unk>`, rotated by their number: the same few for every row
        numbers = torch.arange(1, EXTENSIONS + 1, device=input_ids.device)[None]
        unknown = torch.full_like(numbers, tiny_processor().tokenizer.unk_token_id)
        extension = language_model.extension_embeddings(unknown, numbers)[0]  # (extensions, hidden)
        width = self.config.text_config.hidden_size
        table = torch.cat([language_model.embed_tokens.weight / math.sqrt(width), extension])
        embeds = nn.functional.embedding(input_ids, table)
        if pictures is not None:
            pictures = pictures.repeat_interleave(layout.group, 0).to(embeds)
            before, after = embeds[:, : common.picture], embeds[:, common.picture + QUERY_NUM :]
            embeds = torch.cat([before, pictures, after], dim=1)

        segments = common.segment_ids[None]
        bias = language_model.attention_bias(
            0,
            input_ids.shape[1],
            input_ids.shape[1],
            1,
            input_ids.device,
            segment_ids=segments,
            context_mask=(segments != ANSWER).long(),
            segment_rel=common.segment_rel[None],
        )
        if torch.is_autocast_enabled(input_ids.device.type):
            bias = bias.to(torch.get_autocast_dtype(input_ids.device.type))
        bias = torch.where(real[:, None, None], bias, torch.finfo(bias.dtype).min)
        output = language_model(
            inputs_embeds=embeds, attention_mask=bias, use_cache=False, output_hidden_states=True, return_dict=True
        )
        hidden_states = output.last_hidden_state[:, common.first[ANSWER] - 1 :]  # (rows, 1 + answer, hidden)
        logits = self.lm_head(hidden_states / math.sqrt(width)).float()
        unknown_logits = (hidden_states @ extension.to(hidden_states).T).float()
        has = input_ids.amax(1, keepdim=True) - self.config.text_config.vocab_size >= numbers - 1  # (rows, extensions)
        logits = torch.cat([logits, unknown_logits.masked_fill(~has[:, None], _BANNED)], dim=-1)
        return logits, output.hidden_states[MEANT_LAYER]

    def forward(
        self,
        layout: str,
        input_ids: torch.Tensor,
        real: torch.Tensor,
        labels: torch.Tensor,
        pixel_values: torch.Tensor,
        scene_labels: torch.Tensor,
        cells: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Loss and share of exact answers of a batch, as `Batches` and `assembled` make it."""
        features = self.get_image_features(pixel_values)
        queries = features.last_hidden_state[:, -QUERY_NUM:]  # before the connector
        logits, half_way = self.read(LAYOUTS[layout], features.pooler_output, input_ids, real)
        answer_loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

        first = shared(LAYOUTS[layout], input_ids.device).picture
        scores = self.meant_head(half_way[:, first : first + len(CELLS)]).squeeze(-1).float()  # (rows, 9)
        meant = nn.functional.cross_entropy(scores, cells, ignore_index=-1, reduction="sum")
        meant = meant / (cells >= 0).sum().clamp(min=1)
        scene, seen = self.scene_loss(queries, scene_labels)
        with torch.no_grad():
            exact = ((logits.argmax(-1) == labels) | (labels == IGNORED)).all(1).float().mean()
        return {
            "loss": answer_loss + self.weights[0] * scene + self.weights[1] * meant,
            "answer": answer_loss.detach(),
            "scene": scene.detach(),
            "meant": meant.detach(),
            "seen": seen,
            "exact": exact,
        }


def learning_rates(rate: float) -> dict[str, float]:
    """Of the parts of the model, for `parameter_groups`."""
    return {
        r"language_model\.(embed_tokens|layers.*_proj)": rate * math.sqrt(tiny_config().text_config.hidden_size),
        "position_bias": rate * 5,  # a table of raw attention scores
        "vision_tower": rate * 0.5,
        "": rate,
    }


def optimizers(model: ChatLearner, args: argparse.Namespace) -> dict[str, torch.optim.Optimizer]:
    """One for each phase."""
    return {
        "vision": adamw(model, {"": args.vision_learning_rate}, WEIGHT_DECAY),
        "chat": adamw(model, learning_rates(args.learning_rate), WEIGHT_DECAY),
    }


class Training:
    """The state of a run, saved every minute and loaded where there is one.

    Args:
        args (`argparse.Namespace`): as of the command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, torch.device(args.device)
        self.path = args.output / "checkpoint.pt"
        torch.manual_seed(args.seed)
        self.model = ChatLearner(tiny_config()).to(self.device)
        if self.device.type == "cpu":
            self.model.set_attn_implementation("eager")  # with a bias that learns, faster on a CPU than sdpa
        if args.start_from:
            config = self.model.config
            layers = {"language_model": config.text_config.num_hidden_layers}
            layers["vision_tower"] = config.vision_config.num_hidden_layers
            self.model.load_state_dict(read_original(args.start_from, layers), strict=False)
        if args.language_only:
            self.model.model.vision_tower.requires_grad_(False)
        self.optimizers = optimizers(self.model, args)
        for each in self.optimizers.values():
            for group in each.param_groups:
                group["initial_lr"] = group["lr"]
        self.progress = {"step": 0, "spent": 0.0, "seconds": 0.0}
        if self.path.exists():
            self.load()
            print(f"going on after step {self.progress['step']}, {self.progress['spent']:.0f} s", flush=True)
        self.batches = Batches(args.world, self.device, args.pictures, args.seed + self.progress["step"])

    def load(self) -> None:
        saved = torch.load(self.path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        for name, state in saved["optimizers"].items():
            self.optimizers[name].load_state_dict(state)
        self.progress = saved["progress"]

    def save(self) -> None:
        """Saves the state and the model as it is; after a step into the void, takes the last state instead."""
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            print("the weights are no numbers any more", flush=True)
            spent = self.progress["spent"]
            self.load()  # there is none in the first minute: then this ends here
            self.progress["spent"] = spent
            return
        state = {
            "model": self.model.state_dict(),
            "optimizers": {name: each.state_dict() for name, each in self.optimizers.items()},
            "progress": self.progress,
        }
        torch.save(state, self.path.with_suffix(".partial"))
        self.path.with_suffix(".partial").rename(self.path)
        write_original(self.model, self.args.output)

    def warm_up(self) -> None:
        """One batch of each shape, so that compiling is not counted; without it where that fails."""
        if self.args.compile:
            self.model.compile_layers()
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        try:
            for layout in (None, *LAYOUTS):
                self._backward("vision" if layout is None else "chat", layout)
        except Exception as error:  # whatever a compiler says
            if not self.args.compile:
                raise
            print(f"not compiled: {error!r}"[:2000], flush=True)
            for layer in self.model.compiled_layers():
                layer._compiled_call_impl = None
        self.model.zero_grad(set_to_none=True)
        self.model.load_state_dict(state)

    def run(self, deadline: float) -> None:
        """All steps until the time is over; `deadline` on the monotonic clock counts for a fresh run."""
        self.model.train()
        with sdpa_kernel(KERNELS):
            self.warm_up()
            now = time.monotonic()
            self.progress["seconds"] = self.progress["seconds"] or max(deadline - now, 1)
            left = f"{self.progress['seconds'] - self.progress['spent']:.0f} s"
            print(f"training for {f'{self.args.steps} steps' if self.args.steps else left}", flush=True)
            self._steps(self.progress, self.progress["seconds"])
        self.save()

    def _backward(self, phase: str, layout: str | None = None) -> dict[str, torch.Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16):
            measured = self.vision_step() if phase == "vision" else self.chat_step(layout)
        measured["loss"].backward()
        return measured

    def _steps(self, progress: dict, seconds: float) -> None:
        args = self.args
        last = saved = time.monotonic()
        sums: dict[str, torch.Tensor] = {}
        counted, phase = 0, None
        while True:
            share = progress["step"] / args.steps if args.steps else progress["spent"] / seconds
            if share >= 1:
                return
            before, phase = phase, "vision" if share < args.vision_share else "chat"
            if before != phase:
                sums, counted = {}, 0
            within = (
                share / args.vision_share
                if phase == "vision"
                else (share - args.vision_share) / (1 - args.vision_share)
            )
            optimizer = self.optimizers[phase]
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate_factor(within, args.warm_share)
            measured = self._backward(phase)
            nn.utils.clip_grad_norm_(self.model.parameters(), args.clip)
            optimizer.step()
            self.model.zero_grad(set_to_none=True)
            progress["step"] += 1
            counted += 1
            for name, value in measured.items():
                sums[name] = sums.get(name, 0) + value.detach()
            if progress["step"] % args.logging_steps == 0 or progress["step"] < 3:
                values = ", ".join(f"{name} {float(value) / counted:.3f}" for name, value in sums.items())
                print(f"{progress['spent']:6.1f} s, step {progress['step']}, {phase}: {values}", flush=True)
                sums, counted = {}, 0
            if self.device.type == "cuda" and progress["step"] % 16 == 0:
                torch.cuda.synchronize()  # the clock counts what is done, not what is queued
            now = time.monotonic()
            progress["spent"] += now - last
            last = now
            if now - saved > args.save_seconds:
                self.save()
                saved = time.monotonic()

    def vision_step(self) -> dict[str, torch.Tensor]:
        pixels, labels = self.batches.pictures()
        with torch.set_grad_enabled(not self.args.start_from):  # a tower that can see waits for its new heads
            queries = self.model.model.vision_tower(pixels).pooler_output
        loss, right = self.model.scene_loss(queries, labels)
        return {"loss": loss, "seen": right}

    def chat_step(self, layout: str | None = None) -> dict[str, torch.Tensor]:
        batch = self.batches.batch(layout)
        inputs = assembled(batch["rows"], LAYOUTS[batch["layout"]], self.batches.generator)
        names = ("layout", "pixel_values", "scene_labels", "cells")
        return self.model(**inputs, **{name: batch[name] for name in names})


def main(argv: list[str] | None = None) -> int:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--output", type=Path, required=True, help="folder for the state and the finished model")
    parser.add_argument("--world", type=Path, help="folder for what is prepared; by default `world` in the other one")
    parser.add_argument("--start-from", type=Path, help="pytorch_model.bin of a model that is to learn more")
    parser.add_argument("--language-only", action="store_true", help="the vision tower stays as it is")
    parser.add_argument(
        "--hard", type=float, default=0.0, help="share of relations, sizes, twins: what is learned last"
    )
    parser.add_argument("--prepare", action="store_true", help="prepare and stop")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if cuda else "cpu")
    parser.add_argument("--minutes", type=float, default=8 if cuda else 150, help="for preparing and all steps")
    parser.add_argument("--steps", type=int, help="in place of minutes: all steps, of both phases")
    parser.add_argument("--rows", type=int, default=1_600_000 if cuda else 600_000, help="questions to prepare")
    parser.add_argument("--unknown", type=int, default=6000, help="pictures of nothing to prepare")
    parser.add_argument("--workers", type=int, default=14 if cuda else 2, help="processes that prepare")
    parser.add_argument(
        "--pictures", type=int, default=256 if cuda else 32, help="of a batch; two or four questions each"
    )
    parser.add_argument("--vision-share", type=float, default=0.12, help="of the time, for the vision tower alone")
    parser.add_argument("--vision-learning-rate", type=float, default=8e-4 if cuda else 6e-4)
    # More makes both stall: the tower stays blind to shapes, the language model cannot tell which thing is meant.
    parser.add_argument("--learning-rate", type=float, default=7e-4 if cuda else 5e-4, help="of the whole model")
    parser.add_argument("--warm-share", type=float, default=0.04, help="of a phase, until its whole learning rate")
    parser.add_argument("--clip", type=float, default=0.5, help="norm of the gradient")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=cuda, help="the layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=1020, help="held-out questions per language at the end")
    parser.add_argument("--save-seconds", type=float, default=60)
    parser.add_argument("--logging-steps", type=int, default=100)
    args = parser.parse_args(argv)

    args.world = args.world or args.output / "world"
    args.output.mkdir(parents=True, exist_ok=True)
    prepare(args.world, args.rows, args.seed, args.workers, args.unknown, args.hard)
    print(f"prepared after {time.monotonic() - started:.0f} s", flush=True)
    if args.prepare:
        return 0
    if args.device == "cuda":
        torch.set_float32_matmul_precision("high")
    training = Training(args)
    training.run(started + 60 * args.minutes)
    size = (args.output / "pytorch_model.bin").stat().st_size
    print(f"wrote {args.output}/pytorch_model.bin ({size / 1e6:.2f} MB) after {time.monotonic() - started:.0f} s")
    print_tables(training.model.chat(), tiny_processor(), args.questions, args.output / "answers.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
