"""Serving: many people ask the same models.

* batcher.py: requests that wait for one model, and the thread that runs them, several at once where they are alike
* engine.py: questions and prompts → answers and pictures; the one place where requests meet models
* stops.py: texts that end an answer, in an answer that comes in pieces
* api/: OpenAI's API and the original's endpoint
* server.py: the program around it; connections.py: their deadlines and number; log.py: what it says
* batch/: rows of a file, offline, in processes of their own
* cluster/: the same on several processes or machines, with Ray
* replicas.py: how many of them, without Ray
"""
