"""Writes the original checkpoint of a converted repository again.

The same as `viscpm export`, whose help tells the options.
"""

import sys

sys.argv[:1] = ["viscpm", "export"]

from viscpm_hf.cli import main  # noqa: E402  the package looks at the name of the program

if __name__ == "__main__":
    sys.exit(main())
