"""The same service on several processes or machines, with Ray Serve.

* replicas.py: how many, and what they take of a GPU; without Ray
* wire.py: questions, answers, pictures and errors on their way
* remote.py: an engine that is elsewhere, and what Ray runs several times
* service.py: replicas behind the HTTP server of this process, for `viscpm serve --ray`
* application.py: replicas behind Ray's own HTTP servers, for `serve deploy` and Kubernetes
"""
