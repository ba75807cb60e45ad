"""Uploads a converted repository to the Hub.

The same as `viscpm push`, whose help tells the options.
"""

import sys

sys.argv[:1] = ["viscpm", "push"]

from viscpm_hf.cli import main  # noqa: E402  the package looks at the name of the program

if __name__ == "__main__":
    sys.exit(main())
