"""Web pages over the engine: one that talks about a picture, one that paints; both in English and Chinese.

* app.py: where each page is found
* around.py: what gradio leaves out: a password, limits, the end
* chat.py, paint.py: the two pages
* common.py: what both are made of
* texts.py: every word
"""

from .app import create_pages

__all__ = ["create_pages"]
