"""How fast a middle-sized random Chat answers on a CPU, next to a stand-in for the original and the original itself.

    python benchmarks/chat_speed.py [--settings float32 bfloat16 compiled ...] [--rounds 3]

Settings take turns in every round, and the fastest round counts, since other work on the machine only slows down. The
first is a stand-in for the original's own code (stand_in.py), which cannot run beside ours. What the original itself
took on these sizes stands beside it: in seconds of another day, and in ratios to our settings of one hour.
"""

import argparse
import time

import torch
from stand_in import StandIn
from transformers import CompileConfig
from transformers.cache_utils import DynamicCache

from viscpm_hf import VisCPMChatConfig, VisCPMChatForConditionalGeneration
from viscpm_hf.memory.packing import pack_chat
from viscpm_hf.memory.placement import quantization_config

PROMPT, QUERIES, NEW_TOKENS, BATCH = 603, 64, 64, 8
LONG_PROMPT, LONG_ANSWER, LONG_SETTING = 128, 514, "bfloat16 packed"  # tokens; the longest that Chat writes unasked
# seconds recorded of the original: float32, 2 threads, where a float32 product ran at 204 GFLOP/s
RECORDED = {"vision": 0.301, "prefill": 5.874, "decode": 8.053, "turn": 14.228}
# how many times longer the original's own code took than ours, both on two threads in one hour (prefill, decode, turn)
ORIGINAL = {
    "float32": (5.2, 2.2, 2.7),
    "float32 compiled": (None, None, 3.0),
    "bfloat16 packed": (None, None, 4.2),
    "int8 packed compiled": (None, None, 6.0),
}
STAND_IN = "float32, stand-in for the original"
SIZES = {
    "text_config": {
        "vocab_size": 86583,
        "hidden_size": 1024,
        "intermediate_size": 2560,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "head_dim": 64,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 6,
        "num_attention_heads": 16,
        "image_size": 224,
        "query_num": QUERIES,
    },
}
BEAMS = {"num_beams": 3, "beam_temperature": 0.7, "repetition_penalty": 1.1, "length_penalty": 3.0}
SETTINGS = (
    STAND_IN,
    "float32",
    "float32 compiled",
    "bfloat16",
    "bfloat16 packed",
    "bfloat16 packed compiled",
    "int8 packed",
    "int8 packed compiled",
)


def build(setting: str) -> VisCPMChatForConditionalGeneration:
    """A random model; `int8` and `packed` are what `VisCPMChat` does on a CPU for them."""
    torch.manual_seed(0)
    dtype = torch.float32 if setting.startswith("float32") else torch.bfloat16
    model = VisCPMChatForConditionalGeneration(VisCPMChatConfig(**SIZES)).to(dtype).eval()
    if setting.startswith("int8"):
        from torchao.quantization import quantize_

        config = quantization_config("int8", torch.device("cpu"), dtype)
        quantize_(model.model.language_model.layers, config.quant_type)
    if "packed" in setting:
        pack_chat(model)
    if setting == STAND_IN:
        model.set_attn_implementation({"vision_config": "eager"})
    return model


def make_inputs(model, batch_size: int = 1, length: int = PROMPT) -> dict:
    """Three segments of random words, with a picture in the first."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, SIZES["text_config"]["vocab_size"], (1, length), generator=generator)
    position = torch.arange(length)[None]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "segment_ids": (position >= QUERIES + 4).long() + (position >= length - 10),
        "context_mask": (position < length - 1).long(),
        "segment_rel": torch.arange(9).view(1, 3, 3),
        "mm_token_type_ids": ((position >= 2) & (position < QUERIES + 2)).long(),
        "ext_table_ids": torch.ones(1, 1, dtype=torch.long),
        "ext_table_subs": torch.zeros(1, 1, dtype=torch.long),
        "ext_table_mask": torch.zeros(1, 1, dtype=torch.long),
        "unk_allowed": torch.zeros(1, dtype=torch.bool),
        "pixel_values": torch.randn(1, 3, 224, 224, generator=generator).to(model.dtype),
    }
    return {key: value.repeat_interleave(batch_size, dim=0) for key, value in inputs.items()}


def compiling(setting: str) -> dict:
    """Arguments of generate() that compile the reading of a token."""
    if not setting.endswith("compiled"):
        return {}
    config = CompileConfig(fullgraph=True, mode="default")
    config._compile_all_devices = True  # transformers does so by itself on accelerators only
    return {"cache_implementation": "static", "compile_config": config}


def seconds(function, *args, **kwargs) -> float:
    start = time.perf_counter()
    function(*args, **kwargs)
    return time.perf_counter() - start


def gflops() -> float:
    matrix = torch.randn(1024, 1024)
    return 2 * 1024**3 / min(seconds(torch.mm, matrix, matrix) for _ in range(20)) / 1e9


@torch.no_grad()
def measure(model, setting: str) -> dict[str, float]:
    """Seconds of each part of a turn with three beams."""
    inputs, options = make_inputs(model), compiling(setting)
    times = {"vision": seconds(model.get_image_features, inputs["pixel_values"])}
    features = model.get_image_features(inputs.pop("pixel_values"))
    if setting == STAND_IN:
        stand_in = StandIn(model, BEAMS)
        times["prefill"] = seconds(stand_in.prefill, inputs, features.pooler_output)
        times["decode"] = seconds(stand_in.decode, NEW_TOKENS)
        return times | {"turn": sum(times.values())}
    inputs["mm_encoder_outputs"] = {"image": features}
    inputs |= BEAMS | options
    times["prefill"] = seconds(model.generate, **inputs, max_new_tokens=1)
    times["decode"] = seconds(model.generate, **inputs, max_new_tokens=NEW_TOKENS + 1) - times["prefill"]
    return times | {"turn": sum(times.values())}


def measure_batch(model) -> list[float]:
    """Answers a second with three beams to one short question, and to several at once."""
    rates = []
    for batch_size in (1, BATCH):
        inputs = make_inputs(model, batch_size, length=QUERIES + 36)
        taken = seconds(model.generate, **inputs, **BEAMS, max_new_tokens=NEW_TOKENS)
        rates.append(batch_size / taken)
    return rates


def measure_long(model) -> str:
    """How long a long answer takes, and for how many tokens its cache ends with room."""
    inputs, cache = make_inputs(model, length=LONG_PROMPT), DynamicCache(config=model.config.text_config)
    limits = {"max_new_tokens": LONG_ANSWER, "min_new_tokens": LONG_ANSWER}
    taken = seconds(model.generate, **inputs, **BEAMS, **limits, past_key_values=cache)
    read, room = LONG_PROMPT + BEAMS["num_beams"] * (LONG_ANSWER - 1), cache.layers[0].key_memory.shape[2]
    return f"{LONG_ANSWER} tokens in {taken:.1f} s, the cache with room for {room} tokens of {read} that were read"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    models = {setting: build(setting) for setting in args.settings}
    for setting, model in models.items():
        taken = seconds(measure, model, setting)
        print(f"{setting}: first turns and compilation {taken:.0f} s", flush=True)
    best, rates, speed = {setting: {} for setting in models}, {setting: [0, 0] for setting in models}, 0
    for _ in range(args.rounds):
        for setting, model in models.items():
            speed = max(speed, gflops())
            for name, taken in measure(model, setting).items():
                best[setting][name] = min(taken, best[setting].get(name, taken))
            if setting != STAND_IN and not setting.endswith("compiled"):
                rates[setting] = [max(pair) for pair in zip(rates[setting], measure_batch(model), strict=True)]

    print(f"\n{torch.get_num_threads()} threads, a float32 product at {speed:.0f} GFLOP/s\n")
    print("| | " + " | ".join(RECORDED) + " |\n" + "|---" * (len(RECORDED) + 1) + "|")
    print("| recorded of the original | " + " | ".join(f"{taken:.2f} s" for taken in RECORDED.values()) + " |")
    first = next(iter(best.values()))
    for setting, times in best.items():
        cells = [f"{times[name]:.2f} s, {first[name] / times[name]:.1f} ×" for name in RECORDED]
        print(f"| {setting} | " + " | ".join(cells) + " |")
    print("\nRatios are to the first setting. The original's own code, in another hour, took longer than ours by")
    for setting, ratios in ORIGINAL.items():
        parts = zip(("prefill", "decode", "turn"), ratios, strict=True)
        print(f"{setting}: " + ", ".join(f"{name} {ratio} ×" for name, ratio in parts if ratio))
    print()
    for setting, (alone, together) in rates.items():
        if together:
            gain = f"{together / alone:.1f} ×"
            print(f"{setting}: {alone:.2f} answers/s one by one, {together:.2f} with {BATCH} at once: {gain}")
    if LONG_SETTING in models:
        print(f"\nA long answer, {LONG_SETTING}: {measure_long(models[LONG_SETTING])}")


if __name__ == "__main__":
    main()
