"""The `viscpm` command: a file for each verb or group of verbs. Help and errors import nothing that takes long.

* app.py: the command line's root, `main`; program.py: `@verb`, signals, standard files, errors in one line, exit codes
* usage.py: what is said of a wrong command line; pages.py: how help looks; options.py: those that several verbs
  have; remarks.py: warnings and progress on stderr
* convert.py: `viscpm convert chat|paint|cpmbee`; repositories.py: verify, export, push; refresh.py: refresh;
  memory.py: fit, quantize
* chat.py: `viscpm chat`, conversation.py: what is said without --question; paint.py: `viscpm paint`, painting.py: its
  pictures; examples.py: what the tiny models understand
* serve.py: `viscpm serve`, demo.py: `viscpm demo`, engines.py: their models; batch.py: `viscpm batch chat|paint`,
  batching.py: what it does
* finetune.py, finetune_paint.py: `viscpm finetune chat|paint`, finetune_options.py: what they
  share; merge.py: `viscpm merge`
* evaluate.py: `viscpm evaluate`; evaluate_qa90.py, evaluate_images.py, evaluate_tiny.py: its tables
"""

from .app import main

__all__ = ["main"]
