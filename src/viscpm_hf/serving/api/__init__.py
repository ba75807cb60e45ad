"""The HTTP API: the original's endpoint and OpenAI's, over one engine.

* app.py: the application
* limits.py: size and time of requests, the key
* reading.py: JSON
* errors.py: whatever goes wrong, in OpenAI's shape
* hangups.py: who has hung up is not answered
* pictures.py, fetching.py: pictures of clients, from base64 or an address
* original.py: /viscpm
* messages.py, chat.py: what /v1/chat/completions takes, and does
* images.py: /v1/images/generations
* models.py, metrics.py: /v1/models; /health and /metrics
* page.py, examples.py: /docs; requests for it that work
"""

from .app import create_app

__all__ = ["create_app"]
