import sys

from .old import main

sys.exit(main())
