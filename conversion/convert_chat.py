"""Converts an original VisCPM-Chat checkpoint to a repository for transformers.

python conversion/convert_chat.py --checkpoint pytorch_model.v1.bin --vocab bee.txt --output VisCPM-Chat
"""

import argparse
import sys

from viscpm_hf.checkpoint import DTYPES, VARIANTS, convert_chat, printable, push_to_hub
from viscpm_hf.cli.program import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="original .bin, .pt or safetensors file")
    parser.add_argument("--vocab", required=True, help="vocabulary file of CPM-Bee (bee.txt or vocab.txt)")
    parser.add_argument("--output", required=True, help="folder to create")
    parser.add_argument("--llm-config", help="the original's JSON for the language model; default: as published")
    parser.add_argument("--vision-config", help="JSON with torchscale's names and query_num; default: as published")
    parser.add_argument("--dtype", default="keep", choices=DTYPES, help="keep leaves every byte as it is (default)")
    parser.add_argument("--max-shard-size", default="5GB", help="of one weight file (default: 5GB)")
    parser.add_argument("--variant", choices=VARIANTS, help="which release it is, for the model card")
    parser.add_argument(
        "--safety-checker",
        default="none",
        help="folder or Hub repository of an image safety checker, or none (default)",
    )
    parser.add_argument("--push-to-hub", metavar="REPO_ID", help="upload the result")
    parser.add_argument("--private", action="store_true", help="create the repository on the Hub private")
    args = parser.parse_args()
    safety_checker = None if args.safety_checker == "none" else args.safety_checker
    folder = convert_chat(
        args.checkpoint,
        args.vocab,
        args.output,
        llm_config=args.llm_config,
        vision_config=args.vision_config,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        variant=args.variant,
        safety_checker=safety_checker,
    )
    print(printable(f"Converted {args.checkpoint} to {folder}"))
    if safety_checker is None:
        print("Note: no image safety checker was put in; add one with --safety-checker.")
    if args.push_to_hub:
        print("Uploaded:", push_to_hub(folder, args.push_to_hub, private=args.private))


if __name__ == "__main__":
    sys.exit(run_script(main))
