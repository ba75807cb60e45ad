"""Trains the tiny models and writes them in the original layout."""
