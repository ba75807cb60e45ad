"""The `viscpm` command: a file for each verb or group of verbs. Help and errors import nothing that takes long.

* app.py: the command line's root, `main`; program.py: signals, errors in one line, exit codes; options.py: options
  that several verbs have
* convert.py: `viscpm convert chat|paint|cpmbee`; repositories.py: verify, export, push; memory.py: fit, quantize
* chat.py: `viscpm chat`, conversation.py: what is said without --question; paint.py: `viscpm paint`, painting.py: its
  pictures; examples.py: what the tiny models understand; remarks.py: what both say on stderr
"""

from .app import main

__all__ = ["main"]
