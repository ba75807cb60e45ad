"""Converts an original CPM-Bee checkpoint, a text model, to a repository for transformers.

python conversion/convert_cpmbee.py --checkpoint pytorch_model.bin --vocab vocab.txt --output cpm-bee-10b
"""

import argparse
import sys

from viscpm_hf.checkpoint import DTYPES, convert_cpmbee, printable, push_to_hub
from viscpm_hf.cli.program import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="original .bin, .pt or safetensors file")
    parser.add_argument("--vocab", required=True, help="vocabulary file of CPM-Bee")
    parser.add_argument("--output", required=True, help="folder to create")
    parser.add_argument("--llm-config", help="the original's JSON; default: CPM-Bee-10B as published")
    parser.add_argument("--dtype", default="keep", choices=DTYPES, help="keep leaves every byte as it is (default)")
    parser.add_argument("--max-shard-size", default="5GB", help="of one weight file (default: 5GB)")
    parser.add_argument("--push-to-hub", metavar="REPO_ID", help="upload the result")
    parser.add_argument("--private", action="store_true", help="create the repository on the Hub private")
    args = parser.parse_args()
    folder = convert_cpmbee(
        args.checkpoint,
        args.vocab,
        args.output,
        llm_config=args.llm_config,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
    )
    print(printable(f"Converted {args.checkpoint} to {folder}"))
    if args.push_to_hub:
        print("Uploaded:", push_to_hub(folder, args.push_to_hub, private=args.private))


if __name__ == "__main__":
    sys.exit(run_script(main))
