"""`python -m viscpm_hf`: the `viscpm` command."""

import sys

from .cli import main

sys.exit(main())
