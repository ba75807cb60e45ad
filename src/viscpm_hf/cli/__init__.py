"""The `viscpm` command: a file for each verb or group of verbs. Help and errors import nothing that takes long.

* app.py: the command line's root, `main`; program.py: signals, errors in one line, exit codes; options.py: options
  that several verbs have
* convert.py: `viscpm convert chat|paint|cpmbee`; repositories.py: verify, export, push; memory.py: fit, quantize
"""

from .app import main

__all__ = ["main"]
