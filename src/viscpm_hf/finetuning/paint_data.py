"""Pictures with captions as training samples of Paint: rows, what is computed of them once, batches."""

import random
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageOps
from tqdm import tqdm

from ..language import say
from ..remote_code.modeling_cpmbee import CpmBeeModel
from ..remote_code.tokenization_cpmbee import CpmBeeTokenizer
from .dataset import ChatDataset, ChatSample
from .paint_cache import TensorCache, digest_of
from .rows import BrokenRow, Row
from .sources import Source

# mirrored or cut, a picture would no longer show what such a caption says
_SIDES = re.compile(r"\b(left|right)(most|hand|ward|wards)?\b|[左右]", re.IGNORECASE)
_MOST_CHARACTERS = 4096  # that the pipeline takes
_PADDING = "padding"  # the name of a padded place's state


class PaintDataset(ChatDataset):
    """Pictures with captions; of several captions one is drawn in every epoch.

    Args:
        records, image_folder: see `ChatDataset`.
        resolution (`int`, pixels): pictures are made as large by scaling, and by cutting what stands over in the
            middle.
        random_crop, random_flip (`bool`): whether to cut elsewhere and to mirror, but for captions that say left or
            right.
        options: `split`, `language`, `min_side`, `seed`, `strict` as of `ChatDataset`.

    Items have a `caption`, a `seed` of all that is drawn for them, and the `picture`, or its name in a cache once
    `prepare_latents` has put it there.
    """

    def __init__(
        self,
        records: Any,
        image_folder: str | Path | None = None,
        *,
        resolution: int,
        random_crop: bool = False,
        random_flip: bool = False,
        **options: Any,
    ):
        self.resolution, self.random_crop, self.random_flip, self.names = resolution, random_crop, random_flip, None
        super().__init__(records, image_folder, **options)

    def read(self, row: Any) -> Row:
        """See `ChatDataset`; conversations are broken rows."""
        read = super().read(row)
        if any(question is not None for version in read.versions for question, _ in version):
            raise BrokenRow("a conversation where a caption is wanted", "no text or caption column")
        return read

    def texts(self) -> list[str]:
        """Captions that may be drawn, each once."""
        rows = (self.row(index)[0] for index in range(len(self)))
        return list(dict.fromkeys(version[0][1] for row in rows for version in row.versions))

    def fitted(self, picture: Image.Image, row: Row, rng: random.Random | None = None) -> Image.Image:
        """The picture as large as it is trained with; `rng` varies it if that was asked for."""
        size, centre = (self.resolution, self.resolution), (0.5, 0.5)
        varied = rng is not None and not any(_SIDES.search(version[0][1]) for version in row.versions)
        if varied and self.random_crop:
            centre = rng.random(), rng.random()
        picture = ImageOps.fit(picture, size, Image.Resampling.BICUBIC, centering=centre)
        return ImageOps.mirror(picture) if varied and self.random_flip and rng.random() < 0.5 else picture

    def sample(self, row: Row, turn: int, picture: Any, rng: random.Random) -> ChatSample:
        """A caption with its picture, or with the name of what it became.

        Args:
            row (`Row`): see `ChatDataset`.
            turn (`int`): 0, as a caption is the only one of its row.
            picture (`PIL.Image` or `str`): or its name in a cache.
            rng (`random.Random`): draws one of the captions and what varies the picture.
        """
        sample = {"caption": rng.choice(row.versions)[0][1], "seed": rng.getrandbits(62)}
        picture = picture if isinstance(picture, str) else self.fitted(picture, row, rng)
        return ChatSample(sample, picture=picture)

    def __getitem__(self, index: int | tuple[int, int]) -> ChatSample:
        if self.names is None:
            return super().__getitem__(index)
        epoch, index = index if isinstance(index, tuple) else (0, index)
        number, row, turn = map(int, self.places[index])
        return self.sample(self.row(index)[0], turn, self.names[number, row], self.draw(epoch, number, row, turn))


class PaintCollator:
    """Batches of what the learner takes; all that is random depends on the samples' seeds alone.

    Args:
        tokenizer (`CpmBeeTokenizer`): of the model.
        channels, size (`int`): of latents.
        timesteps (`int`): of the scheduler.
        max_length (`int`): tokens of a caption.
        states, latents (`TensorCache`, *optional*): see `prepare_states` and `prepare_latents`.
        caption_dropout, padding, offset_noise: see `PaintSettings`.
    """

    def __init__(
        self,
        tokenizer: CpmBeeTokenizer,
        channels: int,
        size: int,
        timesteps: int,
        max_length: int,
        states: TensorCache | None = None,
        latents: TensorCache | None = None,
        caption_dropout: float = 0.0,
        padding: str = "own",
        offset_noise: float = 0.0,
    ):
        self.reader = tokenizer  # under the name `tokenizer` Trainer would save it with every checkpoint
        self.shape, self.timesteps, self.max_length = (channels, size, size), timesteps, max_length
        self.states, self.latents = states, latents
        self.caption_dropout, self.padding, self.offset_noise = caption_dropout, padding, offset_noise
        self.processor = VaeImageProcessor(do_resize=False)

    def encode(self, sample: ChatSample) -> dict[str, Any]:
        """The caption of a `ChatSample` in tokens, as painting has it.

        Raises:
            ValueError: it is too long, or cannot be encoded.
        """
        encoding = encode_caption(self.reader, sample["answer"])
        length = len(encoding["input_ids"])
        if length > self.max_length or len(sample["answer"]) > _MOST_CHARACTERS:
            raise ValueError(f"Got a caption of {length} tokens, at most {self.max_length} are wanted.")
        return encoding

    def __call__(self, samples: list[ChatSample]) -> dict[str, torch.Tensor]:
        """A batch of what the learner takes, states padded on the right."""
        drawn = [self._drawn(sample) for sample in samples]
        batch = {name: torch.stack([each[name] for each in drawn]) for name in ("timesteps", "vae_noise", "noise")}
        states = [each["states"] for each in drawn]
        longest = max(map(len, states))
        batch["states"] = torch.stack([self.padded(each, longest) for each in states])
        if self.padding == "own" and min(map(len, states)) < longest:
            batch["states_mask"] = torch.arange(longest) < torch.tensor([len(each) for each in states])[:, None]
        pictures = [sample["picture"] for sample in samples]
        if isinstance(pictures[0], str):
            return batch | {"moments": torch.stack([self.latents[name] for name in pictures]).float()}
        return batch | {"pixel_values": torch.cat([self.processor.preprocess(picture) for picture in pictures])}

    def _drawn(self, sample: ChatSample) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(sample["seed"])
        states = self.states_of(sample["caption"])
        if torch.rand((), generator=generator) < self.caption_dropout:
            # as painting pads it, to the length of the prompt whose place it takes
            states = self.padded(self.states_of(""), len(states) if self.padding == "own" else 0)
        drawn = {
            "vae_noise": torch.randn(self.shape, generator=generator),
            "noise": torch.randn(self.shape, generator=generator),
            "timesteps": torch.randint(self.timesteps, (), generator=generator),
            "states": states,
        }
        if self.offset_noise:
            drawn["noise"] += self.offset_noise * torch.randn(self.shape[0], 1, 1, generator=generator)
        return drawn

    def states_of(self, caption: str) -> torch.Tensor:
        """States `(length, hidden_size)` of a caption that was read before."""
        return self.states[digest_of(caption)]

    def padded(self, states: torch.Tensor, length: int) -> torch.Tensor:
        """States with those of padding behind them, which do not depend on the text."""
        return torch.cat([states, self.states[_PADDING].expand(max(length - len(states), 0), -1)])


def encode_caption(tokenizer: CpmBeeTokenizer, caption: str) -> dict[str, Any]:
    """What the language model reads when this is painted."""
    return tokenizer.encode_data({"caption": tokenizer.escape(caption), "objects": ""})


@torch.no_grad()
def prepare_states(
    cache: TensorCache,
    captions: Iterable[str],
    tokenizer: CpmBeeTokenizer,
    load: Any,
    device: torch.device,
    progress: bool = False,
    tokens: int = 4096,
) -> None:
    """Has the language model read what a cache does not have yet; it is in memory no longer than that.

    Args:
        cache (`TensorCache`): is added to; states `(length, hidden_size)` by the digest of their caption.
        captions (`Iterable[str]`): the empty one is always added.
        tokenizer (`CpmBeeTokenizer`): of the model.
        load (callable): returns the `CpmBeeModel`; called only if there is something to read.
        device (`torch.device`): where it reads.
        progress (`bool`): whether to say on stderr what is done, with a bar on a terminal.
        tokens (`int`, defaults to 4096): of a batch, padding included.
    """
    wanted = dict.fromkeys(["", *captions])
    if _PADDING in cache and all(digest_of(caption) in cache for caption in wanted):
        return
    with cache.adding():
        encodings = [(c, encode_caption(tokenizer, c)) for c in wanted if digest_of(c) not in cache]
        if not encodings and _PADDING in cache:  # another process was faster
            return
        encodings.sort(key=lambda pair: len(pair[1]["input_ids"]))
        model = load().to(device).eval()
        if progress:
            type_name = str(model.dtype).removeprefix("torch.")
            english = f"reading {len(encodings)} captions with the language model, on {device.type} in {type_name}"
            chinese = f"语言模型正在读取 {len(encodings)} 条描述，设备 {device.type}，类型 {type_name}"
            print(say(english, chinese), file=sys.stderr, flush=True)
        if _PADDING not in cache:
            encoding = encode_caption(tokenizer, "")
            cache.add(_PADDING, _states(model, tokenizer, [encoding], device, 1)[0, -1])
        with tqdm(total=len(encodings), desc="captions", disable=None if progress else True, leave=False) as bar:
            while encodings:
                rows = max(tokens // len(encodings[-1][1]["input_ids"]), 1)  # the longest first
                batch, encodings = encodings[-rows:], encodings[:-rows]
                states = _states(model, tokenizer, [encoding for _, encoding in batch], device)
                for (caption, encoding), own in zip(batch, states, strict=True):
                    cache.add(digest_of(caption), own[: len(encoding["input_ids"])])
                bar.update(len(batch))


def _states(model: CpmBeeModel, tokenizer, encodings, device, more: int = 0) -> torch.Tensor:
    """States `(captions, longest + more, hidden_size)`."""
    batch = tokenizer.pad_encodings(encodings, padding_side="right")
    for key in ("input_ids", "attention_mask", "segment_ids", "context_mask"):
        batch[key] = torch.nn.functional.pad(batch[key], (0, more))
    return model(**batch.to(device), use_cache=False).last_hidden_state


@torch.no_grad()
def prepare_latents(
    cache: TensorCache,
    datasets: list[PaintDataset],
    vae: AutoencoderKL,
    device: torch.device,
    progress: bool = False,
    rows: int = 4,
) -> None:
    """Encodes the pictures that a cache does not have yet, and has the data sets give their names from then on.

    Args:
        cache (`TensorCache`): is added to; mean and log variance `(2 · channels, height, width)`.
        datasets (`list[PaintDataset]`): changed in place.
        vae (`AutoencoderKL`): of the model.
        device (`torch.device`): where to encode.
        progress (`bool`): whether to say on stderr what is done, with a bar on a terminal.
        rows (`int`, defaults to 4): pictures at a time.
    """
    processor, waiting, samples = VaeImageProcessor(do_resize=False), {}, sum(map(len, datasets))
    silent, told = None if progress else True, not progress

    def encode():
        pixels = torch.cat([processor.preprocess(picture) for picture in waiting.values()])
        parameters = vae.encode(pixels.to(device, vae.dtype)).latent_dist.parameters
        for name, own in zip(waiting, parameters, strict=True):
            cache.add(name, own)
        waiting.clear()

    with cache.adding():
        for dataset in datasets:
            names = {}
            for index in tqdm(range(len(dataset)), "pictures", disable=silent, leave=False):
                place = tuple(map(int, dataset.places[index][:2]))
                row, source = dataset.row(index)
                names[place], picture = _name(dataset, row, source)
                if names[place] in cache or names[place] in waiting:
                    continue
                vae.to(device)
                if not told:
                    english = f"encoding the pictures of {samples} samples that are not in the cache, on {device.type}"
                    chinese = f"正在编码 {samples} 个样本中尚未缓存的图片，设备 {device.type}"
                    print(say(english, chinese), file=sys.stderr, flush=True)
                    told = True
                picture = dataset.picture(row, source) if picture is None else picture
                waiting[names[place]] = dataset.fitted(picture, row)
                if len(waiting) == rows:
                    encode()
            dataset.names = names
        if waiting:
            encode()


def _name(dataset: PaintDataset, row: Row, source: Source) -> tuple[str, Image.Image | None]:
    """What a picture is called: by the bytes of its file if there is one, else by its pixels."""
    content, picture = row.picture, None
    if isinstance(content, dict):
        content = content["bytes"] if content.get("bytes") is not None else content.get("path")
    if isinstance(content, (str, Path)) and not str(content).startswith(("http://", "https://", "data:")):
        with suppress(OSError, ValueError):  # no name of a file, but the picture itself as text
            content = (source.folder / str(content).removeprefix("file://")).read_bytes()
    if not isinstance(content, (bytes, bytearray)):
        picture = dataset.picture(row, source)
        content = f"{picture.size}".encode() + picture.tobytes()
    return digest_of(f"{dataset.resolution} {digest_of(bytes(content))}"), picture
