"""Converts an original VisCPM-Paint checkpoint to a repository for diffusers.

The same as `viscpm convert paint`, whose help tells the options.
"""

import sys

sys.argv[:1] = ["viscpm", "convert", "paint"]

from viscpm_hf.cli import main  # noqa: E402  the package looks at the name of the program

if __name__ == "__main__":
    sys.exit(main())
