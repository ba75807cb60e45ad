"""Uploads a converted repository to the Hub.

python conversion/push_to_hub.py VisCPM-Chat user/VisCPM-Chat --private
"""

import argparse
import sys

from viscpm_hf.checkpoint import push_to_hub
from viscpm_hf.cli.program import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="converted repository")
    parser.add_argument("repo_id", help="user/name on the Hub")
    parser.add_argument("--private", action="store_true", help="create it private if it does not exist")
    args = parser.parse_args()
    print("Uploaded:", push_to_hub(args.folder, args.repo_id, private=args.private))


if __name__ == "__main__":
    sys.exit(run_script(main))
