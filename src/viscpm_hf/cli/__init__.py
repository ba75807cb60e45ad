from .old import main  # noqa: F401
