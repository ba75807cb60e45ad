"""The HTTP API: the original's endpoint and OpenAI's, over one engine.

* app.py: the application
* errors.py: whatever goes wrong, in OpenAI's shape
* hangups.py: who has hung up is not answered
* limits.py: size and time of requests, the key
"""

from .app import create_app

__all__ = ["create_app"]
