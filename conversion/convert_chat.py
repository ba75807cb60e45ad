"""Converts an original VisCPM-Chat checkpoint to a repository for transformers.

The same as `viscpm convert chat`, whose help tells the options.
"""

import sys

sys.argv[:1] = ["viscpm", "convert", "chat"]

from viscpm_hf.cli import main  # noqa: E402  the package looks at the name of the program

if __name__ == "__main__":
    sys.exit(main())
