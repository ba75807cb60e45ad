"""Proves a conversion: compares every tensor of a converted repository with the original checkpoint.

The same as `viscpm verify`, whose help tells the options.
"""

import sys

sys.argv[:1] = ["viscpm", "verify"]

from viscpm_hf.cli import main  # noqa: E402  the package looks at the name of the program

if __name__ == "__main__":
    sys.exit(main())
