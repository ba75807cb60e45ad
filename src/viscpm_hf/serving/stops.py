"""Texts that end an answer and are no part of it."""

from collections.abc import Sequence


def until_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop texts in it."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


class StopTexts:
    """A text that comes in pieces, up to a stop text.

    Args:
        stops: none of them empty.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops, self._held, self._stopped = stops, "", False

    def read(self, piece: str) -> str:
        """What can be shown by now: all but an end that a stop text may begin with."""
        if self._stopped:
            return ""
        text = self._held + piece
        shown = until_stop(text, self._stops)
        if len(shown) < len(text):
            self._stopped, self._held = True, ""
            return shown
        longest = max(
            (size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
        )
        self._held = text[len(text) - longest :]
        return text[: len(text) - longest]

    def end(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held
