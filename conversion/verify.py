"""Proves a conversion: compares every tensor of a converted repository with the original checkpoint.

python conversion/verify.py --checkpoint pytorch_model.v1.bin --repo VisCPM-Chat
"""

import argparse
import sys

from viscpm_hf.checkpoint import listed, verify
from viscpm_hf.cli.program import run_script


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="original .bin, .pt or safetensors file")
    parser.add_argument("--repo", required=True, help="folder that was converted from it")
    args = parser.parse_args()
    results = verify(args.checkpoint, args.repo)
    print(f"{'part':<16}{'tensors':>9}{'bytes':>16}  result")
    for part, result in results.items():
        verdict = f"{len(result.differences)} DIFFER" if result.differences else "OK"
        print(f"{part:<16}{result.tensors:>9}{result.nbytes:>16}  {verdict}")
    differences = [difference for result in results.values() for difference in result.differences]
    if differences:
        print("First differences:", listed(differences, 5))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(run_script(main))
