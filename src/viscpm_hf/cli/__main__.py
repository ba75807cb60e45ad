"""`python -m viscpm_hf.cli`: the `viscpm` command."""

import sys

from .app import main

sys.exit(main())
