"""What a step of fine-tuning VisCPM-Chat needs of memory, computed before anything is loaded.

* frozen weights: in the precision they are loaded in, or in 4 bits;
* trained weights: 4 bytes each, as much again for a gradient and twice as much for Adam;
* logits: 12 bytes for each token and entry of the vocabulary (log-probabilities, their gradient, the logits' own);
* saved states: with gradient checkpointing what goes into each layer, else what the factors below say.

The step has two moments at which it needs most: when the loss has been computed and goes back into the logits, and at
the end, when all gradients are there. Factors were counted with torch's fake tensors and checked against processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..remote_code.modeling_beit3 import POSITION_OFFSET, Beit3VisionConfig
from .machine import Machine
from .plans import BITSANDBYTES, CUDA_CONTEXT, NF4, NF4_ON_CPU, REPACKING, VOCABULARY_ENTRY
from .sizes import LANGUAGE, Model

VISION = ("vision_tower", "connector")
LIBRARIES = 560_000_000  # bytes a process has that trains, before it loads a model
LOGIT = 12  # bytes
ADAM = 8  # bytes for each trained weight
# bytes that a layer saves for each token, in units of hidden_size, intermediate_size, and the heads' width together:
# of frozen layers, of layers with LoRA, of trained ones; in half precision and in float32
SAVED = {
    ("frozen", 2): (12, 6, 8),
    ("frozen", 4): (16, 12, 16),
    ("lora", 2): (23, 8.4, 10.6),
    ("lora", 4): (16, 16, 20),
    ("full", 2): (26, 8, 10),
    ("full", 4): (24, 16, 20),
}
SEEN = {2: (38, 9), 4: (36, 12)}  # the same of a layer of the vision tower: hidden_size, intermediate_size


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Args:
        mode: `"full"`, `"lora"` or `"qlora"`.
        tune_llm, tune_vision: what is trained, as for `viscpm finetune chat`.
        batch: samples a device has at once.
        length: tokens of each, the picture's included.
        checkpointing: whether states inside of layers are computed twice instead of saved.
        dtype: products are computed in; of frozen weights, too.
        r: rank of LoRA.
    """

    mode: str = "lora"
    tune_llm: bool = False
    tune_vision: bool = False
    batch: int = 1
    length: int = 512
    checkpointing: bool = True
    dtype: torch.dtype = torch.bfloat16
    r: int = 8

    @property
    def tokens(self) -> int:
        """Of a batch."""
        return self.batch * self.length


@dataclass(frozen=True)
class TrainingPlan:
    """A way to train, with its predicted cost.

    Args:
        training: the way.
        trained: how many weights are trained.
        memory: bytes at the peak by what they hold, of the GPU, on a CPU of the process.
        mapped: how many of these are pages of files, which the system may drop and read again.
        loading: bytes of main memory while the model is loaded, for a GPU.
    """

    training: Training
    trained: int
    memory: Mapping[str, int]
    mapped: int = 0
    loading: int = 0

    @property
    def peak(self) -> int:
        """Bytes of all components together."""
        return sum(self.memory.values())

    @property
    def unmapped(self) -> int:
        """Bytes it cannot do without; Linux calls them anonymous."""
        return self.peak - self.mapped


def plan_training(model: Model, machine: Machine, training: Training) -> TrainingPlan:
    """What a step needs at its peak.

    Args:
        model: a Chat model.
        machine: where; only its device counts.
        training: how.
    """
    cuda, trained = machine.device == "cuda", trained_weights(model, training)
    memory, mapped = _frozen(model, training, cuda)
    memory |= {"trained weights": 4 * trained, "Adam": ADAM * trained}
    memory |= max(_moments(model, training, trained), key=lambda moment: sum(moment.values()))
    if cuda:
        whole = model.language_parameters + sum(model.parts[name].parameters for name in VISION)
        everywhere = training.mode == "full" and training.tune_llm
        loading = LIBRARIES + whole * (4 if everywhere else training.dtype.itemsize)
        return TrainingPlan(training, trained, {**memory, "CUDA": CUDA_CONTEXT}, 0, loading)
    memory["libraries"] = LIBRARIES + VOCABULARY_ENTRY * model.language_config["vocab_size"]
    return TrainingPlan(training, trained, memory, mapped)


def trained_weights(model: Model, training: Training) -> int:
    """How many weights are trained."""
    config, vision = model.language_config, model.configs[""]["vision_config"]
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    seen, seen_wide, depth = vision["hidden_size"], vision["intermediate_size"], vision["num_hidden_layers"]
    if training.mode != "full":
        inner = config["num_attention_heads"] * config["head_dim"]
        ends = model.blocks * (4 * (hidden + inner) + 3 * (hidden + wide))  # inputs and outputs of layers with LoRA
        if training.tune_vision:
            ends += depth * 2 * (4 * 2 * seen + 2 * (seen + seen_wide)) + seen + 3 * hidden
        return training.r * ends
    side = vision["image_size"] // vision["patch_size"]
    picture = (3 * vision["patch_size"] ** 2 + 2) * seen  # embedding of patches, and what stands before them
    places, queries = (side**2 + 1 + POSITION_OFFSET) * seen, vision["query_num"] * seen
    places_of_queries = Beit3VisionConfig.max_position_embeddings * seen
    tower = model.parts["vision_tower"].parameters - picture
    if not training.tune_vision:  # layers exist twice, for picture and queries
        tower = (tower - places - places_of_queries - queries) // 2 + places_of_queries + queries
    return tower + model.parts["connector"].parameters + training.tune_llm * model.language_parameters


def _frozen(model, training, cuda):
    """Bytes of what is not trained, and how many of them stay pages of files."""
    frozen = mapped = 0
    extra = {}
    for name in (*LANGUAGE, *VISION):
        part, copies = model.parts[name], model.blocks if name == "blocks" else 1
        if training.mode == "qlora" and name == "blocks":
            frozen += int((NF4 if cuda else NF4_ON_CPU) * part.parameters) * copies
            if not cuda:
                extra["repacking"] = BITSANDBYTES + REPACKING * max(count for count, _ in part.tensors)
            continue
        if training.mode == "full" and (training.tune_llm or name not in LANGUAGE):
            frozen += 4 * part.parameters * copies  # what is trained of them is taken off below
            continue
        frozen += part.nbytes(training.dtype) * copies
        if not cuda:
            mapped += (part.nbytes(training.dtype) - part.unmapped(training.dtype)) * copies
    if training.mode == "full":
        frozen -= 4 * trained_weights(model, training)
    return {"frozen weights": frozen, **extra}, mapped


def _moments(model, training, trained):
    """Bytes beside weights at both moments."""
    config, vision = model.language_config, model.configs[""]["vision_config"]
    full, size = training.mode == "full", training.dtype.itemsize
    kind = "lora" if not full else "full" if training.tune_llm else "frozen"
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    between = 4 if kind == "full" else size  # bytes of a number between layers
    tokens, scores = training.batch * training.length, training.batch * training.length**2
    layer = tokens * _times(SAVED[kind, size], (hidden, config["intermediate_size"], heads * config["head_dim"]))
    if kind == "full":  # where the position bias learns, each layer saves it in its own precision
        layer += scores * heads * size
    saved = model.blocks * (tokens * hidden * between if training.checkpointing else layer)
    seeing = 0
    if full or training.tune_vision:
        places = training.batch * ((vision["image_size"] // vision["patch_size"]) ** 2 + 1 + vision["query_num"])
        seeing = places * _times(SEEN[size], (vision["hidden_size"], vision["intermediate_size"]))
        saved += vision["num_hidden_layers"] * (
            places * vision["hidden_size"] * 4 if training.checkpointing else seeing
        )
    bias = scores * (2.3 * heads * between + 28)
    casts = 2 * trained if full and size == 2 else 0
    logits = {"saved states": int(saved + bias), "logits": LOGIT * tokens * config["vocab_size"], "gradients": casts}
    # a layer at work; the vocabulary's gradients of its two uses meet at the very end, when nothing is saved any more
    work = 1.5 * max(layer, seeing) + bias
    sums = 8 * model.parts["embedding"].parameters if kind == "full" else 0
    end = {"saved states": int(work + (0 if kind == "full" else saved)), "gradients": 4 * trained + sums}
    return logits, end


def _times(factors, sizes):
    return sum(factor * size for factor, size in zip(factors, sizes, strict=True))
