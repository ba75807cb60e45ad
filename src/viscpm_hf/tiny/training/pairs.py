"""What english_only.py learns from: scenes with a description, questions and answers in both languages.

Everything lies on the device and a step draws its own rows and pictures, so that `train_for` can replay it.
"""

import random
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from torch import nn

from ..world.pictures import random_jitter, render, scene_row
from ..world.questions import LANGUAGES, Question, ask
from ..world.scenes import random_scene
from ..world.words import description
from .batches import IGNORED, Layout, assembled, encode, noisy, padded, scene_labels, shared
from .paint_data import in_processes
from .train_chat import ChatLearner

# what a description answers, for those who know what is yellow and what can fly
KINDS_ASKED = (
    *("what", "description", "count", "exists", "where", "place"),
    *("size", "background", "kind", "fact", "colour"),
)
COUNTS = (1, 2)  # things of a scene
GROUP = 4  # questions about a picture
DESCRIBED = Layout(24, 16, 26, 1)  # the scene is described in the context
SEEN = Layout(0, 16, 26, GROUP)  # the scene is a picture
ENGLISH, BILINGUAL, BLIND = ARMS = ("English pairs", "bilingual pairs", "bilingual pairs without their pictures")
BLANK = 128  # level of what is seen instead of a picture
_PICTURE_SEGMENTS = (1, 2)
_CHUNK = 500


@dataclass
class Pairs:
    """N scenes, each in both languages, `LANGUAGES`: questions of one kind about one thing, not translations.

    Args:
        scenes (`torch.Tensor`): `(N, 20)` int16, see `scene_rows`.
        descriptions (`torch.Tensor`): `(N, 2, 24)` int16.
        questions (`torch.Tensor`): `(N, 2, GROUP, 42)` int16, questions and their answers.
    """

    scenes: torch.Tensor
    descriptions: torch.Tensor
    questions: torch.Tensor

    def to(self, device: str | torch.device) -> "Pairs":
        return Pairs(*(getattr(self, each.name).to(device) for each in fields(self)))

    def choose(self, number: int) -> torch.Tensor:
        """Numbers of scenes."""
        return torch.randint(len(self.scenes), (number,), device=self.scenes.device)

    def choose_languages(self, *shape: int) -> torch.Tensor:
        """Indices into `LANGUAGES`, each half of the time."""
        return torch.randint(len(LANGUAGES), shape, device=self.scenes.device)

    def described(self, number: int) -> torch.Tensor:
        """Rows of `DESCRIBED`: the description in one language, question and answer in the same or the other one."""
        scenes, group = self.choose(number), torch.randint(GROUP, (number,), device=self.scenes.device)
        context = self.descriptions[scenes, self.choose_languages(number)]
        return torch.cat([context, self.questions[scenes, self.choose_languages(number), group]], dim=1).long()

    def pictures(self, scenes: torch.Tensor) -> torch.Tensor:
        """Pictures `(n, 3, 96, 96)` of scenes, each time with other flips, shifts and shades."""
        return noisy(render(random_jitter(self.scenes[scenes])))


def prepare_pairs(scenes: int, seed: int = 0, workers: int | None = None) -> dict[str, torch.Tensor]:
    """The tensors of `Pairs`; scene i depends on seed and i alone."""
    chunks = in_processes(
        partial(_prepare_chunk, scenes=scenes, seed=seed), range(0, scenes, _CHUNK), workers, "asking"
    )
    names = [each.name for each in fields(Pairs)]
    return {
        name: torch.from_numpy(np.concatenate(each))
        for name, each in zip(names, zip(*chunks, strict=True), strict=True)
    }


def _prepare_chunk(start: int, scenes: int, seed: int) -> tuple[np.ndarray, ...]:
    rows, descriptions, questions = [], [], []
    for index in range(start, min(start + _CHUNK, scenes)):
        rng = random.Random(f"pairs {seed} {index}")
        while True:
            scene = random_scene(rng, count=rng.choice(COUNTS))
            written = [encode(Question("", each, "", "", description(scene, each))) for each in LANGUAGES]
            if max(len(ids) for ids, _, _ in written) <= DESCRIBED.context:
                break
        asked: dict[str, list] = {each: [] for each in LANGUAGES}
        while len(asked["en"]) < GROUP:
            kind, about = rng.choice(KINDS_ASKED), rng.choice(scene.things)
            both = [ask(scene, kind, each, rng, about) for each in LANGUAGES]
            if all(both):
                encoded = [encode(each) for each in both]
                if all(len(q) <= SEEN.question and len(a) <= SEEN.answer for _, q, a in encoded):
                    for language, texts in zip(LANGUAGES, encoded, strict=True):
                        asked[language].append(padded(texts, SEEN))
        rows.append(scene_row(scene))
        descriptions.append([[*ids, *[0] * (DESCRIBED.context - len(ids))] for ids, _, _ in written])
        questions.append([asked[each] for each in LANGUAGES])
    return tuple(np.array(each, np.int16) for each in (rows, descriptions, questions))


def answer_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


class LanguageLearner(nn.Module):
    """The language model learns to answer in both languages about scenes that are described in either.

    Args:
        chat (`ChatLearner`): what else it has is not used.
        pairs (`Pairs`): on its device.
        rows (`int`): of a batch.
    """

    def __init__(self, chat: ChatLearner, pairs: Pairs, rows: int):
        super().__init__()
        self.language_model, self._chat, self.pairs, self.rows = chat.model.language_model, [chat], pairs, rows

    def forward(self) -> torch.Tensor:
        inputs = assembled(self.pairs.described(self.rows), DESCRIBED)
        labels, segments = inputs.pop("labels"), shared(DESCRIBED, self.pairs.scenes.device).segment_ids
        # no picture, and none of the words around it
        inputs["real"] &= torch.stack([segments != each for each in _PICTURE_SEGMENTS]).all(0)
        logits, _ = self._chat[0].read(DESCRIBED, None, **inputs)
        return answer_loss(logits, labels)


class TowerLearner(nn.Module):
    """The vision tower learns to say what is where, in numbers; it never sees a word.

    Args:
        chat (`ChatLearner`): its tower and its heads for the tower; what else it has is not used.
        pairs (`Pairs`): on its device.
        pictures (`int`): of a batch.
    """

    def __init__(self, chat: ChatLearner, pairs: Pairs, pictures: int):
        super().__init__()
        self.vision_tower, self._chat, self.pairs, self.number = chat.model.vision_tower, [chat], pairs, pictures
        self.heads = nn.ModuleList([chat.cell_head, chat.background_head])

    def forward(self) -> torch.Tensor:
        scenes = self.pairs.choose(self.number)
        queries = self.vision_tower(self.pairs.pictures(scenes)).pooler_output
        loss, seen = self._chat[0].scene_loss(queries, scene_labels(self.pairs.scenes[scenes]))
        self.loss_parts = seen.detach()[None]  # how many things it names right
        return loss


class ArmsLearner(nn.Module):
    """Vision sides of one frozen language model, which see the same pictures and learn from different pairs.

    They go through the language model together, but none learns from another: each has its own loss, parameters and
    (with `apart=learner.sides` of `train_for`) gradient norm.

    Args:
        chat (`ChatLearner`): the language model, frozen here.
        sides (`nn.ModuleList`): for each of `ARMS` a tower and a connector.
        pairs (`Pairs`): on their device.
        pictures (`int`): of a batch.
    """

    def __init__(self, chat: ChatLearner, sides: nn.ModuleList, pairs: Pairs, pictures: int):
        super().__init__()
        chat.requires_grad_(False)
        self.sides, self._chat, self.pairs, self.number = sides, [chat], pairs, pictures

    def forward(self) -> torch.Tensor:
        scenes = self.pairs.choose(self.number)
        questions = self.pairs.questions[scenes]  # (pictures, languages, group, room)
        english, chinese = (questions[:, LANGUAGES.index(each)] for each in ("en", "zh"))
        in_english = self.pairs.choose_languages(self.number, GROUP, 1) == LANGUAGES.index("en")
        mixed = torch.where(in_english, english, chinese)
        rows = {ENGLISH: english, BILINGUAL: mixed, BLIND: mixed}
        pixels = self.pairs.pictures(scenes)
        blank = torch.full_like(pixels[:1], BLANK / 127.5 - 1)
        features = [
            connector(tower(blank if arm == BLIND else pixels).pooler_output).expand(self.number, -1, -1)
            for arm, (tower, connector) in zip(ARMS, self.sides, strict=True)
        ]
        inputs = assembled(torch.cat([rows[arm].flatten(0, 1) for arm in ARMS]).long(), SEEN)
        labels = inputs.pop("labels")
        logits, _ = self._chat[0].read(SEEN, torch.cat(features), **inputs)
        losses = [answer_loss(*each) for each in zip(logits.chunk(len(ARMS)), labels.chunk(len(ARMS)), strict=True)]
        self.loss_parts = torch.stack(losses).detach()
        return sum(losses)
