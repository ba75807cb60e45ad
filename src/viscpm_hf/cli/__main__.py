"""`python -m viscpm_hf.cli`: the `viscpm` command."""

import sys

from .app import main

if __name__ == "__main__":
    sys.exit(main())
