"""Converts an original CPM-Bee checkpoint, a text model, to a repository for transformers.

The same as `viscpm convert cpmbee`, whose help tells the options.
"""

import sys

sys.argv[:1] = ["viscpm", "convert", "cpmbee"]

from viscpm_hf.cli import main  # noqa: E402  the package looks at the name of the program

if __name__ == "__main__":
    sys.exit(main())
