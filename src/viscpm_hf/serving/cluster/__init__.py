"""The same work on several processes or machines, with Ray.

* connection.py: a Ray cluster, be it one of its own
* wire.py: questions, answers, pictures and errors on their way
* remote.py: an engine that is elsewhere, and what Ray runs several times
* service.py: replicas behind the HTTP server of this process, for `viscpm serve --ray`
* application.py: replicas behind Ray's own HTTP servers, for `serve deploy` and Kubernetes
* rows.py: rows of a file through Ray Data, for `viscpm batch` with `--ray`
"""

import os

# Ray reads these when it is imported
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # only where it is asked for
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # nothing is forked that uses it, and it would remark on that
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # it remarks on what Ray Data does, and on its own end with many lines
    "RAY_SERVE_LOG_TO_STDERR": "0",  # it has files of its own
    "RAY_COLOR_PREFIX": "0",  # of what replicas say, which goes to a journal as often as to a terminal
}
if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
    # a cluster of one's own stays on 127.0.0.1, on Linux, too; replicas listen everywhere, and want its token
    _SETTINGS |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
for name, value in _SETTINGS.items():
    os.environ.setdefault(name, value)


class RayGoneError(OSError):
    """Ray has ended while it was needed."""

    exit_code = 70  # of its own: to start the program again helps, as it does not after another error

    def __init__(self):
        super().__init__("Ray, which ran the models, is gone: give the same command again.")
