"""Writes the original checkpoint of a converted repository again: original names, every tensor's type and bytes.

python conversion/export_original.py --repo VisCPM-Chat --checkpoint pytorch_model.bin
"""

import argparse
import sys

from viscpm_hf.checkpoint import export_original, printable
from viscpm_hf.cli.program import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", required=True, help="converted repository, also after fine-tuning")
    parser.add_argument("--checkpoint", required=True, help="file to create; safetensors if it ends so")
    args = parser.parse_args()
    print("Wrote", printable(str(export_original(args.repo, args.checkpoint))))


if __name__ == "__main__":
    sys.exit(run_script(main))
