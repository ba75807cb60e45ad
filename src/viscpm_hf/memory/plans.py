"""Every way to run a model and what it costs, computed before anything is loaded.

* weights: what the files say, in the precision they are loaded in. On a CPU, weights that keep their stored precision
  stay mapped from their files: the system holds those pages while memory is free, and else reads them again;
* KV cache: 2 · layers · heads · head size for each token of the prompt and each token of each beam, which is the most:
  what no beam follows any more is dropped now and then;
* activations: of the largest step, with factors measured with torch's profiler (CPU) and fake tensors (CUDA);
* seconds: the bytes that must move for a token or an image over the bandwidth they move at: the least it takes. Where
  arithmetic takes longer, as in a UNet on a CPU, the truth is slower. For Chat on a CPU they come from products that
  timing.py has measured there, where there are any.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ..remote_code.beams_cpmbee import GrowingCacheLayer
from .machine import Machine
from .sizes import CHECKERS, LANGUAGE, Model

CUDA_CONTEXT = 600_000_000  # bytes the driver, cuBLAS and cuDNN take of a GPU
LIBRARIES = {"chat": 280_000_000, "paint": 350_000_000}  # bytes a process has before it loads a model
RUNTIME = {"chat": 15_000_000, "paint": 130_000_000}  # kernels made and kept when first used, on a CPU
VOCABULARY_ENTRY = 900  # bytes of the tokenizer for each
INT8, NF4 = 1.0, 0.516  # bytes for a weight; NF4 with its doubly quantized scales
NF4_ON_CPU, NF4_BLOCK = 0.531, 64  # bitsandbytes repacks it there: each block of a row has a bfloat16 scale
BITSANDBYTES, REPACKING = 40_000_000, 8  # bytes of the library; for each weight of the matrix that is being repacked
UNET_UNITS = 26.5  # activations of a UNet in widths of its first block, for each image
PROMPT_ROWS = 128  # of the longest product that is measured; more take as much longer as they are more
# what is measured of a kernel: seconds for each weight of a product with a token of each beam, with a prompt, of the
# head; seconds of a block beside its products, of a step beside blocks and head, of a layer of the vision tower
TIMES = ("token", "prompt", "head", "layer token", "layer prompt", "step token", "step prompt", "vision")
VAE_UNITS = {"cuda": 3.1, "cpu": 3.8, "cpu half": 4.8}  # of a decoder in widths of its second block


@dataclass(frozen=True)
class Workload:
    """What is done at once.

    Args:
        prompt_tokens: of a Chat turn, the picture's included.
        new_tokens: of the answer, for memory; by default the most that Chat writes unless told otherwise.
        answer_tokens: of an answer as people get it, for its seconds.
        beams: of the search.
        images: painted for one prompt; by default 4 where a ranker chooses, else 1.
        steps: of denoising.
    """

    prompt_tokens: int = 128
    new_tokens: int = 514
    answer_tokens: int = 64
    beams: int = 3
    images: int | None = None
    steps: int = 50

    def images_of(self, model: Model) -> int:
        """How many images a model paints at once."""
        return self.images or (4 if "ranker" in model.parts else 1)


@dataclass(frozen=True)
class Plan:
    """One way to run a model, with its predicted cost.

    Args:
        method: `resident`, `int8`, `4bit`, `stream`, `stream more`, `stream all`, `spread` or `disk`.
        title: for people.
        device_memory: bytes of the GPU at the peak, by what they hold; empty on a CPU.
        host_memory: the same of main memory, for the whole process.
        mapped: how many bytes of `host_memory` are pages of files, which the system may drop and read again.
        seconds: for a token of Chat or an image of Paint.
        encode_seconds: for reading the prompt.
        answer_seconds: for a whole answer of Chat, prompt included; of Paint for an image.
        measured: whether these come from products measured on this machine; else they are the least it takes.
        in_place: whether no weights have to move for a token of Chat or a step of Paint, which reads its prompt once.
        lossless: whether every weight keeps its value.
        dtypes: to load parts in, by name; None as stored.
        packed: whether the linear layers of Chat's language model are packed for the CPU, see packing.py.
        kernel: how a CPU multiplies with Chat's matrices (`mapped` from files, `plain`, `packed`, `int8`, `4bit`) and
            in which precision, such as `"packed bfloat16"`, by which `Machine.times` has its times; empty where none
            are measured.
    """

    method: str
    title: str
    device_memory: Mapping[str, int]
    host_memory: Mapping[str, int]
    mapped: int
    seconds: float
    encode_seconds: float
    answer_seconds: float
    in_place: bool
    lossless: bool
    dtypes: Mapping[str, torch.dtype | None]
    packed: bool = False
    measured: bool = False
    kernel: str = ""

    @property
    def host_peak(self) -> int:
        """Bytes of main memory, of all components together."""
        return sum(self.host_memory.values())

    @property
    def unmapped(self) -> int:
        """Bytes of main memory that it cannot do without; Linux calls them anonymous."""
        return self.host_peak - self.mapped

    @property
    def peak(self) -> int:
        """Bytes of what the budget is for: the GPU, on a CPU main memory."""
        return sum(self.device_memory.values()) if self.device_memory else self.host_peak


def list_plans(
    model: Model,
    machine: Machine,
    budget: int | None = None,
    dtype: torch.dtype | Mapping[str, torch.dtype] | None = None,
    workload: Workload | None = None,
) -> list[Plan]:
    """Every way to run a model, fastest first: by the seconds of a whole answer of Chat or an image of Paint.

    Args:
        model: what to run.
        machine: where.
        budget: bytes; only the plan that fills a budget depends on it.
        dtype: that the user asked for, of all parts or by part; None as the drop-in classes load them.
        workload: what to do.
    """
    plans, precisions = [], _precisions(model, machine, dtype)
    rounded = _to_round(precisions, machine)
    for number, (dtypes, label, lossless) in enumerate(precisions):
        costs = _Costs(model, machine, dtypes, workload or Workload())
        found = costs.on_cuda(budget) if machine.device == "cuda" else costs.on_cpu(number == rounded)
        plans += [replace(plan, title=plan.title + label, lossless=plan.lossless and lossless) for plan in found]
    # what is in RAM comes before what is read from files, however busy the machine was when it was measured
    return sorted(plans, key=lambda plan: (plan.method == "disk", plan.answer_seconds))


def default_dtypes(model: Model) -> dict[str, torch.dtype | None]:
    """What the drop-in classes load each part in unless told otherwise; None as it is, quantized."""
    stored = {name: part.dtype for name, part in model.parts.items()}
    language = None if model.quantized else stored["blocks"]
    if model.kind == "chat":  # from_pretrained gives all parts one type
        return {**dict.fromkeys(stored, language), **_checker_of_chat(model)}
    painting = ("text_projection", "unet", "vae")
    return {**stored, **dict.fromkeys(LANGUAGE, language), **dict.fromkeys(painting, torch.float32)}


def _precisions(model, machine, dtype):
    """Precisions to plan for: types by part, a label, whether every weight keeps its value."""
    stored, default = {name: part.dtype for name, part in model.parts.items()}, default_dtypes(model)
    if isinstance(dtype, torch.dtype):
        return [({**dict.fromkeys(stored, dtype), **_checker_of_chat(model)}, "", True)]
    if dtype is not None:  # by part, as diffusers takes it
        other = dtype.get("default", torch.float32)
        given = {**dict.fromkeys(LANGUAGE, dtype.get("text_encoder", other)), **dtype}
        return [({name: given.get(name, other) for name in stored}, "", True)]
    found, language = [(default, "", True)], default["blocks"]
    if language is None:
        return found
    if machine.device == "cpu" and model.kind == "chat" and language != torch.float32:
        found.append((dict.fromkeys(stored, torch.float32), ", float32", True))
    half = torch.bfloat16 if machine.device == "cpu" else language if language.itemsize == 2 else torch.float16
    halves = {**dict.fromkeys(stored, half), **{name: default[name] for name in CHECKERS if name in stored}}
    if halves != default:
        exact = all(stored[name] == halves[name] for name in stored if name not in CHECKERS)
        found.append((halves, f", {str(half).removeprefix('torch.')}", exact))
    return found


def _to_round(precisions, machine):
    """Which of them is beside 8-bit or 4-bit blocks on a CPU: what is stored or asked for, unless it is slow there."""
    fast = [i for i, (dtypes, *_) in enumerate(precisions) if dtypes["blocks"] not in machine.slow_dtypes]
    return 0 if 0 in fast or not fast else fast[-1]  # of the others bfloat16 comes last


def _checker_of_chat(model):
    return {"safety_checker": torch.float32} if model.kind == "chat" and "safety_checker" in model.parts else {}


class _Costs:
    """Arithmetic for the plans of one model in one precision."""

    def __init__(self, model, machine, dtypes, workload):
        self.model, self.machine, self.dtypes, self.workload = model, machine, dtypes, workload
        self.kind, self.parts, self.others = model.kind, model.parts, model.others()
        self.sizes = {name: part.nbytes(dtypes[name]) for name, part in model.parts.items()}
        self.block, self.count = self.sizes["blocks"], model.blocks
        self.sizes["blocks"] *= self.count
        self.outside = self.sizes["embedding"] + self.sizes["language rest"]  # of the blocks
        self.libraries = {
            "libraries": LIBRARIES[self.kind],
            "vocabulary": VOCABULARY_ENTRY * model.language_config["vocab_size"],
        }

    # On a GPU

    def on_cuda(self, budget):
        blocks, rest = self.sizes["blocks"], {name: self.sizes[name] for name in self.others}
        found = [self._cuda("resident", "all on the GPU", {"language model": self.outside + blocks, **rest})]
        if self.model.quantized:
            return found
        for method, each, title in (("int8", INT8, "8-bit language model"), ("4bit", NF4, "4-bit language model")):
            rounded = self._rounded(each)
            weights = {"language model": self.outside + rounded, **rest}
            found.append(self._cuda(method, title, weights, blocks=rounded, lossless=False))

        # of what is streamed, two blocks are there: the one at work and the next
        streaming, title = {"language model": self.outside + 2 * self.block}, "language model streamed"
        pinned = self.count * self.parts["blocks"].pinned(self.dtypes["blocks"])
        found.append(self._cuda("stream", title, {**streaming, **rest}, streamed=blocks, pinned=pinned))
        if self.kind == "chat":
            layers = self.model.configs[""]["vision_config"]["num_hidden_layers"]
            vision = {"vision_tower": 2 * self.sizes["vision_tower"] // layers}
            pinned += self._pinned(["vision_tower"])
            found.append(
                self._cuda("stream all", "all streamed", {**rest, **streaming, **vision}, blocks, pinned=pinned)
            )
        else:
            checkers = [name for name in CHECKERS if name in self.others]
            if checkers:
                kept = {name: size for name, size in rest.items() if name not in checkers}
                more, title = pinned + self._pinned(checkers), title + ", checkers too"
                found.append(self._cuda("stream more", title, {**streaming, **kept}, blocks, pinned=more))
            at_work = {name: 2 * self.parts[name].largest(self.dtypes[name]) for name in ("blocks", *self.others)}
            reading = self.sizes["embedding"] + at_work["blocks"]
            painting = max(at_work[name] for name in self.others)
            pinned += self._pinned(self.others) + self._pinned(["embedding", "language rest"])
            weights = {"layers at work": max(painting, reading - self._paint_work("cuda"))}
            found.append(self._cuda("stream all", "all streamed", weights, blocks, pinned, streamed_image=True))
        if budget is not None:
            found += self._spread(budget)
        return found

    def _rounded(self, bytes_each):
        return int(bytes_each * self.parts["blocks"].parameters) * self.count

    def _pinned(self, names):
        return sum(self.parts[name].pinned(self.dtypes[name]) for name in names)

    def _cuda(self, method, title, weights, streamed=0, pinned=0, *, blocks=None, lossless=True, streamed_image=False):
        read = (self.sizes["blocks"] if blocks is None else blocks) + self._head()
        memory, link = self.machine.speed("gpu memory"), self.machine.speed("link")
        one_pass = max(read / memory, streamed / link)
        work = self._work("cuda")
        if self.kind == "paint" and streamed:  # the language model is gone when the image is painted
            work["activations"] = max(work["activations"] - weights.get("language model", 0), 0)
        seconds = one_pass + self._image_bytes() / (link if streamed_image else memory)
        return Plan(
            method,
            title,
            device_memory={**weights, **work, "CUDA": CUDA_CONTEXT},
            host_memory={**self.libraries, "pinned weights": pinned},
            mapped=0,
            seconds=seconds,
            encode_seconds=one_pass,
            answer_seconds=self._answer(seconds, one_pass),
            in_place=not streamed_image if self.kind == "paint" else method in ("resident", "int8", "4bit"),
            lossless=lossless,
            dtypes=self.dtypes,
        )

    def _spread(self, budget):
        """The plan that fills the budget with blocks and leaves the others where they are."""
        rest = {name: self.sizes[name] for name in self.others}
        whole, least = self.outside + self.sizes["blocks"], self.outside + self.block
        room = budget - sum(rest.values()) - sum(self._work("cuda").values()) - CUDA_CONTEXT
        inside = max(min(room, whole), least)
        if inside == whole:
            return []
        away, unmapped = whole - inside, self._unmapped("blocks")
        plan = self._cuda("spread", "language model spread over GPU and RAM", {"language model": inside, **rest})
        fits = away + self.libraries["libraries"] <= self.machine.ram
        late = away / self.machine.speed("pageable" if fits else "disk") - away / self.machine.speed("gpu memory")
        return [
            replace(
                plan,
                title=plan.title if fits else plan.title + " and disk",
                host_memory={**self.libraries, "weights": away},
                mapped=0 if unmapped else away,
                seconds=plan.seconds + late,
                encode_seconds=plan.encode_seconds + late,
                answer_seconds=self._answer(plan.seconds + late, plan.encode_seconds + late),
            )
        ]

    # On a CPU

    def on_cpu(self, is_rounded):
        found = [self._cpu("resident", "all in RAM")]
        if found[0].mapped:
            found.append(self._cpu("disk", "weights read from the files when needed"))
        if is_rounded and not self.model.quantized:  # in one precision: in another it would be the same once more
            found.append(self._cpu("int8", "8-bit language model"))
            if all(width % NF4_BLOCK == 0 for width in self.model.widths):
                found.append(self._cpu("4bit", "4-bit language model"))
        return found

    def _cpu(self, method, title):
        unmapped = {name: self._unmapped(name) for name in self.sizes}
        sizes = dict(self.sizes)
        extra = {}
        if method in ("int8", "4bit"):
            sizes["blocks"] = unmapped["blocks"] = self._rounded(INT8 if method == "int8" else NF4_ON_CPU)
        rounded = method == "int8" or self.model.quantized == "torchao" or self._is_4bit(method)
        packed = self.kind == "chat" and (rounded or (method == "resident" and self._is_in_bfloat16()))
        if packed:  # the head can no longer be the embedding
            each = INT8 if rounded else self.dtypes["blocks"].itemsize
            extra["head"] = int(each * self.parts["embedding"].parameters)
        if method == "4bit":
            extra["repacking"] = BITSANDBYTES + REPACKING * max(count for count, _ in self.parts["blocks"].tensors)
        kept = unmapped if method == "disk" else sizes
        weights = {"language model": sum(kept[name] for name in LANGUAGE)} | {name: kept[name] for name in self.others}
        slowdown = 10 if self.dtypes["blocks"] in self.machine.slow_dtypes else 1
        speed = self.machine.speed("disk" if method == "disk" else "memory") / slowdown
        read = sizes["blocks"] + extra.get("head", self._head())
        seconds, encode_seconds = read / speed + self._image_bytes() / self.machine.speed("memory"), read / speed
        kernel = self._kernel(method, packed) if self.kind == "chat" else ""
        times = self.machine.times.get(kernel)
        if times:
            late = read / self.machine.speed("disk") if method == "disk" else 0
            seconds, encode_seconds = late + self._token(times), late + self._prompt(times)
        return Plan(
            method,
            title,
            device_memory={},
            host_memory={**weights, **self.libraries, "kernels": RUNTIME[self.kind], **extra, **self._work("cpu")},
            mapped=sum(kept.values()) - sum(unmapped.values()),
            seconds=seconds,
            encode_seconds=encode_seconds,
            answer_seconds=self._answer(seconds, encode_seconds),
            in_place=method != "disk",
            lossless=method not in ("int8", "4bit"),
            dtypes=self.dtypes,
            packed=packed,
            measured=bool(times),
            kernel=kernel,
        )

    def _kernel(self, method, packed):
        """How Chat's blocks are multiplied, see `Plan`."""
        if self._is_4bit(method):
            way = "4bit"
        elif packed:
            way = "packed" if self._is_in_bfloat16() and method == "resident" else "int8"
        elif self.model.quantized:
            return ""
        else:
            way = "plain" if self._unmapped("blocks") else "mapped"
        dtype = self.dtypes["language rest"] or self.parts["language rest"].dtype
        return f"{way} {str(dtype).removeprefix('torch.')}"

    def _is_4bit(self, method):
        stored = self.model.quantized == "bitsandbytes" and self.parts["blocks"].dtype == torch.uint8
        return method == "4bit" or stored

    def _token(self, times):
        """Seconds of a step with all beams, as measured; keys and values are read besides."""
        read = self.workload.prompt_tokens + self.workload.beams * self.workload.answer_tokens / 2
        cache = read * self._cache_of_a_token() / self.machine.speed("memory")
        return self._pass(times, "token", 1) + cache

    def _prompt(self, times):
        """Seconds of a picture and a prompt with it, as measured."""
        longer = max(1, self.workload.prompt_tokens / PROMPT_ROWS)
        layers = self.model.configs[""]["vision_config"]["num_hidden_layers"]
        return self._pass(times, "prompt", longer) + layers * times["vision"]

    def _pass(self, times, what, longer):
        hidden, intermediate, inner = self.model.widths
        weights = hidden * (4 * inner + 3 * intermediate)  # of a block
        blocks = self.count * (weights * times[what] + times[f"layer {what}"])
        head = self.model.language_config["vocab_size"] * hidden * times["head"]
        return longer * (blocks + times[f"step {what}"]) + head

    def _is_in_bfloat16(self):
        """Whether weights lie in memory, not in their files, in a type that the CPU multiplies fast when packed."""
        dtype = self.dtypes["blocks"]
        return dtype == torch.bfloat16 and dtype not in self.machine.slow_dtypes and self._unmapped("blocks") > 0

    def _unmapped(self, name):
        """Bytes of a part that do not stay in the files when loaded on a CPU."""
        if self.model.quantized and name in LANGUAGE:
            return self.sizes[name]
        return self.parts[name].unmapped(self.dtypes[name]) * (self.count if name == "blocks" else 1)

    # On either

    def _answer(self, seconds, encode_seconds):
        """Seconds of all that is waited for; the prompt gives the first token."""
        if self.kind == "paint":
            return seconds
        return encode_seconds + (self.workload.answer_tokens - 1) * seconds

    def _cache_of_a_token(self):
        """Bytes of keys and values."""
        language = self.model.language_config
        return (
            2 * self.count * language["num_attention_heads"] * language["head_dim"] * self._itemsize("language rest")
        )

    def _head(self):
        """Bytes of the vocabulary that a token of Chat is chosen from."""
        return self.sizes["embedding"] if self.kind == "chat" else 0

    def _image_bytes(self):
        return 0 if self.kind == "chat" else self.workload.steps * self.sizes["unet"] + self.sizes["vae"]

    def _work(self, device):
        """Bytes at the peak that are not weights."""
        return self._chat_work(device) if self.kind == "chat" else {"activations": self._paint_work(device)}

    def _chat_work(self, device):
        language, vision = self.model.language_config, self.model.configs[""]["vision_config"]
        size, length, beams = self._itemsize("language rest"), self.workload.prompt_tokens, self.workload.beams
        heads = language["num_attention_heads"]
        cache = (length + self.workload.new_tokens * beams + GrowingCacheLayer.room) * self._cache_of_a_token()
        growth = cache // self.count  # it moves to larger memory layer by layer
        bias = length**2 * (2.3 * heads * size + 28)
        rows = length * (3 * language["intermediate_size"] + 6 * language["hidden_size"]) * size
        positions = (vision["image_size"] // vision["patch_size"]) ** 2 + 1 + vision["query_num"]
        seeing = positions * vision["intermediate_size"] * (size + 8)
        choosing = 6 * beams * language["vocab_size"] * 4
        return {"KV cache": cache, "activations": int(max(growth, bias + rows, seeing) + choosing)}

    def _paint_work(self, device):
        unet, vae = self.model.configs["unet"], self.model.configs["vae"]
        images = self.workload.images_of(self.model)
        side = unet["sample_size"]
        latent = math.prod(side) if isinstance(side, list) else side**2
        size, channels = self._itemsize("unet"), vae["block_out_channels"]
        drawing = UNET_UNITS * unet["block_out_channels"][0] * latent * size * 2 * images  # guidance doubles them
        pixels, size = latent * 4 ** (len(channels) - 1), self._itemsize("vae")
        units = VAE_UNITS["cpu half" if device == "cpu" and size == 2 else device]
        return int(max(drawing, units * channels[min(1, len(channels) - 1)] * pixels * size))  # decoded one by one

    def _itemsize(self, name):
        return (self.dtypes[name] or self.parts[name].dtype).itemsize
