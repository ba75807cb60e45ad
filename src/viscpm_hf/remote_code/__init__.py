"""The model files that ship verbatim into Hub repositories; they know nothing of the rest of the package."""
