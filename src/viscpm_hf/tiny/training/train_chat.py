"""Trains the tiny VisCPM-Chat from scratch and writes it in the original's layout.

    torchrun --nproc-per-node 2 -m viscpm_hf.tiny.training.train_chat --output DIR

First the vision tower alone learns to say what is in every cell, through throw-away heads on its queries; then the
whole model learns to answer on its own loss, with two small additions: the heads' loss, and that of another
throw-away head which says, from the picture's tokens half-way up the language model, which object is meant.
One process per core is faster than one process with several threads. The same command resumes from the last checkpoint
in DIR.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...remote_code.configuration_viscpm_chat import VisCPMChatConfig
from ...remote_code.modeling_beit3 import Beit3VisionConfig
from ...remote_code.modeling_cpmbee import CpmBeeConfig
from ...remote_code.modeling_viscpm_chat import VisCPMChatForConditionalGeneration
from ..measures.exact_answers import answer_questions, format_table
from ..world.questions import LANGUAGES, held_out_questions
from ..world.scenes import BACKGROUNDS, CELLS, COLOURS, IMAGE_SIZE, SHAPES, SIZES
from .batches import (
    QUERY_NUM,
    PictureBatches,
    PreparedWorld,
    WorldBatches,
    WorldSampler,
    prepare_world,
    tiny_processor,
)
from .export import write_original
from .fit import adamw, computed_once, fit

SCENE_LOSS_WEIGHT = 0.3
MEANT_LOSS_WEIGHT = 0.3
WEIGHT_DECAY = 0.05
MEANT_LAYER = 2  # of four: below, words find their object; above, the answer reads it


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
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=QUERY_NUM + 2,
            query_num=QUERY_NUM,
        ),
        image_token_id=tokenizer.unk_token_id,
        attn_implementation="eager",  # with a bias that learns, faster on a CPU than sdpa
    )


class SceneReader(nn.Module):
    """Heads on a vision tower: its first nine queries say what is in the nine cells, the tenth the background."""

    classes = (1 + len(SHAPES), 1 + len(COLOURS), 1 + len(SIZES))

    def __init__(self, vision_tower: nn.Module, cell_head: nn.Linear, background_head: nn.Linear):
        super().__init__()
        self.vision_tower, self.cell_head, self.background_head = vision_tower, cell_head, background_head

    def forward(self, pixel_values: torch.Tensor, scene_labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.loss(self.vision_tower(pixel_values).pooler_output, scene_labels)}

    def loss(self, queries: torch.Tensor, scene_labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy; `queries` (pictures, query_num, hidden), `scene_labels` (pictures, 28)."""
        cells = self.cell_head(queries[:, : len(CELLS)]).float()  # (pictures, 9, classes)
        per_cell = scene_labels[:, :-1].unflatten(1, (len(CELLS), len(self.classes)))  # (pictures, 9, 3)
        losses = [
            nn.functional.cross_entropy(logits.flatten(0, 1), per_cell[..., i].flatten())
            for i, logits in enumerate(cells.split(self.classes, dim=-1))
        ]
        background = self.background_head(queries[:, len(CELLS)]).float()
        return sum(losses) + nn.functional.cross_entropy(background, scene_labels[:, -1])


class ChatLearner(VisCPMChatForConditionalGeneration):
    """VisCPM-Chat with throw-away heads that learn alongside; several questions share a picture.

    Without the head for the object that is meant, the answer alone teaches it: which of two objects "the red one" is
    came last, after thousands of steps, and Chinese later than English.
    """

    _auto_class = None  # its checkpoints are for resuming only and carry no code

    def __init__(self, config: VisCPMChatConfig):
        super().__init__(config)
        width = config.vision_config.hidden_size
        self.cell_head = nn.Linear(width, sum(SceneReader.classes))
        self.background_head = nn.Linear(width, len(BACKGROUNDS))
        self.meant_head = nn.Linear(config.text_config.hidden_size, 1, bias=False)
        embeddings = self.model.vision_tower.embeddings
        # from scratch a tower learns much sooner where patches, positions and queries are about equally loud
        nn.init.normal_(embeddings.patch_embedding.weight, std=0.07)
        nn.init.normal_(embeddings.position_embedding["A"].weight, std=0.3)
        nn.init.normal_(embeddings.position_embedding["B"].weight, std=0.3)
        nn.init.normal_(self.model.vision_tower.query_tokens, std=1.0)

    def reader(self) -> SceneReader:
        """The scene reader over this model's own tower and heads."""
        return SceneReader(self.model.vision_tower, self.cell_head, self.background_head)

    def chat(self) -> VisCPMChatForConditionalGeneration:
        """A copy without the heads, which answers questions."""
        chat = VisCPMChatForConditionalGeneration(self.config)
        chat.load_state_dict(self.state_dict(), strict=False)
        return chat.to(self.device).eval()

    def forward(
        self,
        pixel_values: torch.Tensor,
        scene_labels: torch.Tensor,
        picture_of: torch.Tensor,
        meant_cells: torch.Tensor,
        **inputs: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        features = self.get_image_features(pixel_values)
        queries = features.last_hidden_state[:, -QUERY_NUM:]  # before the connector
        features.pooler_output = features.pooler_output[picture_of]  # (batch, query_num, hidden)
        output = super().forward(
            mm_encoder_outputs={"image": features}, use_cache=False, output_hidden_states=True, **inputs
        )
        hidden_states = output.hidden_states[MEANT_LAYER]
        picture_tokens = hidden_states[inputs["mm_token_type_ids"] == 1].view(-1, QUERY_NUM, hidden_states.shape[-1])
        return {
            "loss": output.loss
            + SCENE_LOSS_WEIGHT * self.reader().loss(queries, scene_labels)
            + MEANT_LOSS_WEIGHT * self.meant_loss(picture_tokens, meant_cells)
        }

    def meant_loss(self, picture_tokens: torch.Tensor, meant_cells: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over the cells, for the questions about one object.

        `picture_tokens` (batch, query_num, hidden), `meant_cells` (batch,), -1 where a question is about the picture.
        """
        scores = self.meant_head(picture_tokens[:, : len(CELLS)]).squeeze(-1).float()  # (batch, 9)
        losses = nn.functional.cross_entropy(scores, meant_cells, ignore_index=-1, reduction="sum")
        return losses / (meant_cells >= 0).sum().clamp(min=1)


class PrintAnswers(TrainerCallback):
    """Prints exact answers to a few held-out questions now and then."""

    def __init__(self, model: ChatLearner, every: int, questions: int):
        self.model, self.every = model, every
        self.samples = {language: held_out_questions(language, n=questions, seed=1) for language in LANGUAGES}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.every == 0 and state.is_world_process_zero:
            print_answers(self.model.chat(), self.samples, f"step {state.global_step}")


class WorldTrainer(Trainer):
    """Trainer whose batches `WorldSampler` composes."""

    def _get_train_sampler(self, train_dataset=None):
        return WorldSampler(self.data_collator.world, self.args.per_device_train_batch_size, self.args.seed)


def print_answers(model: VisCPMChatForConditionalGeneration, samples: dict[str, list], title: str) -> None:
    """Greedy exact answers per language and kind, as a table."""
    answers = {
        language: answer_questions(model, tiny_processor(), asked, num_beams=1, max_new_tokens=64)
        for language, asked in samples.items()
    }
    print(format_table(samples, answers, title), flush=True)


def train(args: argparse.Namespace) -> ChatLearner:
    torch.manual_seed(args.seed)
    drawing = (args.scenes, args.questions_per_scene, args.seed, args.workers)
    world = PreparedWorld(**computed_once(args.output / "world.pt", lambda: vars(prepare_world(*drawing))))
    model = ChatLearner(tiny_config())
    if args.start_from:
        model.load_state_dict(load_file(args.start_from), strict=False)  # the tied head is stored once
    rate = args.learning_rate

    reader = model.reader()
    folder = args.output / "checkpoints"
    reading = adamw(reader, {"": args.vision_learning_rate}, WEIGHT_DECAY)
    fit(Trainer, reader, PictureBatches(world), reading, folder / "vision", args.vision_steps, 64, args)
    answering = adamw(
        model,
        {
            r"language_model\.(embed_tokens|layers.*_proj)": rate * math.sqrt(model.config.text_config.hidden_size),
            "position_bias": rate * 5,  # a table of raw attention scores
            "vision_tower": rate * 0.5,
            "": rate,
        },
        WEIGHT_DECAY,
    )
    fit(
        WorldTrainer,
        model,
        WorldBatches(world),
        answering,
        folder / "chat",
        args.steps,
        args.batch_size,
        args,
        callbacks=[PrintAnswers(model, args.eval_steps, min(args.questions, 100))],
    )
    return model


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for world, checkpoints and finished model")
    parser.add_argument("--start-from", type=Path, help="weights to start from: model.safetensors of another run")
    parser.add_argument("--vision-steps", type=int, default=1000, help="on the vision tower alone, 64 pictures each")
    parser.add_argument("--steps", type=int, default=5000, help="on the whole model")
    parser.add_argument("--batch-size", type=int, default=64, help="questions per process and step")
    # More makes both stall: the tower stays blind to shapes, the language model cannot tell which object is meant.
    parser.add_argument("--vision-learning-rate", type=float, default=6e-4)
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="of the whole model")
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--questions-per-scene", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument("--questions", type=int, default=550, help="held-out questions per language at the end")
    parser.add_argument("--eval-steps", type=int, default=1500)
    parser.add_argument("--save-steps", type=int, default=500)
    parser.add_argument("--logging-steps", type=int, default=50)
    args = parser.parse_args(argv)

    model = train(args).chat()
    if PartialState().is_main_process:
        write_original(model, args.output)
        size = (args.output / "pytorch_model.bin").stat().st_size
        print(f"wrote {args.output}/pytorch_model.bin ({size / 1e6:.2f} MB)")
        samples = {language: held_out_questions(language, args.questions) for language in LANGUAGES}
        print_answers(model, samples, "held-out questions, greedy, float32")
    return 0


if __name__ == "__main__":
    sys.exit(main())
