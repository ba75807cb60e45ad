"""From an original VisCPM-Paint checkpoint to a repository for `DiffusionPipeline`."""

from pathlib import Path

import torch

from . import parts
from .cards import write_card
from .errors import CheckpointError
from .job import Job, dtype_name
from .layout import configs, stable_diffusion
from .layout.keys import PAINT, check_family, with_unet
from .layout.unet import unet_for
from .pipeline_repo import write_pipeline

PAINT_VARIANTS = ("balance", "zhplus")  # of VisCPM-Paint, as published
OPTIONAL_PARTS = {
    "safety_checker": parts.safety_checker,
    "prompt_checker": parts.prompt_checker,
    "ranker": parts.ranker,
}


def convert_paint(
    checkpoint: str | Path,
    vocab: str | Path,
    sd_base: str | Path,
    output: str | Path,
    *,
    llm_config: str | Path | None = None,
    unet_config: str | Path | None = None,
    dtype: str = "keep",
    max_shard_size: str | int = "5GB",
    variant: str | None = None,
    safety_checker: str | Path | None = None,
    prompt_checker: str | Path | None = None,
    ranker: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Converts an original VisCPM-Paint checkpoint to a repository for `DiffusionPipeline.from_pretrained`.

    What is put in from elsewhere may be a folder, a Hub repository, or a folder in one, such as
    `openbmb/VisCPM-Paint/text-security-checker`; the result needs no other repository.

    Args:
        checkpoint: `.bin`, `.pt` or safetensors file with the original's names.
        vocab: the vocabulary file of CPM-Bee the checkpoint was trained with.
        sd_base: Stable Diffusion 2.1 base: gives `vae/` and, if it has one, `unet/config.json`.
        output: folder to create; it appears only when complete.
        llm_config: the original's JSON for the language model, if it is not the published one.
        unet_config: JSON for the UNet as diffusers writes it, instead of `sd_base`'s.
        dtype: `"keep"` leaves every byte as it is; or `"float16"`, `"bfloat16"`, `"float32"`, for what comes out of
            the checkpoint.
        max_shard_size: of one weight file, such as `"5GB"`.
        variant: `"balance"` or `"zhplus"`, for the model card.
        safety_checker: a Stable Diffusion safety checker, which blackens pictures.
        prompt_checker: a BERT that refuses prompts.
        ranker: a Chinese-CLIP that chooses the best of several pictures.
        progress: whether to show a progress bar on a terminal.

    Returns:
        The folder.

    Raises:
        CheckpointError: one sentence that says what is wrong; nothing is left behind.
    """
    if variant is not None and variant not in PAINT_VARIANTS:
        raise CheckpointError(f"Got variant {variant!r}, expected one of {', '.join(PAINT_VARIANTS)}.")
    job = Job(checkpoint, vocab, output, dtype, max_shard_size)
    check_family(PAINT, job.tensors, job.checkpoint)
    stable_diffusion.require_epsilon(str(sd_base))
    vae, latent_channels = stable_diffusion.vae(str(sd_base))
    option = "--unet-config"
    if unet_config is None:
        option, unet_config = "--sd-base", stable_diffusion.unet_config(str(sd_base))
    unet = unet_for(job.tensors, job.checkpoint, unet_config, option)
    job.fit(with_unet({name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}))
    if not unet.config.in_channels == unet.config.out_channels == latent_channels:
        raise CheckpointError(
            f"The UNet turns {unet.config.in_channels} channels into {unet.config.out_channels} but the VAE of "
            f"{sd_base} has {latent_channels}; give --sd-base the VAE the checkpoint was trained with."
        )
    language = configs.llm_config(job.match.sizes, job.tokenizer, llm_config, scale_down_proj_input=True)
    given = {"safety_checker": safety_checker, "prompt_checker": prompt_checker, "ranker": ranker}
    given = {name: str(source) for name, source in given.items() if source is not None}
    job.parts = [vae, *(part for name, source in given.items() for part in OPTIONAL_PARTS[name](source))]
    origins = {name: _shown(source) for name, source in {"vae": str(sd_base), **given}.items()}

    def write_rest(folder: Path, dtype: torch.dtype) -> None:
        write_pipeline(folder, job.tokenizer, language, unet, {part.folder for part in job.parts}, dtype)
        name = f"VisCPM-Paint {variant}" if variant else "VisCPM-Paint"
        source = job.checkpoint.name
        write_card(folder, "viscpm_paint.md", name=name, dtype=dtype_name(dtype), source=source, base=origins["vae"])

    return job.run(write_rest, progress, variant=variant, ready_made=origins)


def _shown(source: str) -> str:
    """A repository's id, or a folder's name without what lies above it."""
    return Path(source).absolute().name if Path(source).is_dir() else source
