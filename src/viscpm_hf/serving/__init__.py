"""Serving: many people ask the same models.

* batcher.py: requests that wait for one model, and the thread that runs them, several at once where they are alike
* engine.py: questions and prompts → answers and pictures; the one place where requests meet models
* batch/: rows of a file, offline, in processes of their own
* stops.py: texts that end an answer, in an answer that comes in pieces
* cluster/: the same on several processes or machines, with Ray
* replicas.py: how many of them, without Ray
"""
