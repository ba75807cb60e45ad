"""Sentences for values of settings that mean nothing."""

import math
import re
import sys
from collections.abc import Sequence
from typing import Any


class SettingsError(ValueError):
    """A setting that means nothing; the message is one sentence."""


def require_choices(settings: Any, choices: dict[str, Sequence[str]]) -> None:
    """Raises a SettingsError for a text that is none of those which its setting can be; None is not given.

    Args:
        settings: with texts as attributes.
        choices (`dict[str, Sequence[str]]`): name → what it can be.
    """
    for name, wanted in choices.items():
        value = getattr(settings, name)
        if value is not None and value not in wanted:
            raise SettingsError(f"Got {value!r} as {name}, expected one of {', '.join(wanted)}.")


def require_numbers(settings: Any, *limits: tuple[str, float, float | None]) -> None:
    """Raises a SettingsError for a number that is out of its limits; None is no number.

    Args:
        settings: with numbers as attributes.
        limits: name, the least, and the most if there is one.
    """
    for name, least, most in limits:
        value = getattr(settings, name)
        if value is not None and not (least <= value <= (sys.float_info.max if most is None else most)):
            wanted = f"{least} or more" if most is None else f"a number from {least} to {most}"
            raise SettingsError(f"Got {value} as {name}, expected {wanted}.")


def require_lora(settings: Any) -> None:
    """Raises a SettingsError for a strength of LoRA that is none, or layers that no expression names.

    Args:
        settings: with `lora_alpha` and `lora_targets`.
    """
    if not 0 < settings.lora_alpha < math.inf:
        raise SettingsError(f"Got {settings.lora_alpha} as lora_alpha, expected a number above 0.")
    if settings.lora_targets is not None:
        try:
            re.compile(settings.lora_targets)
        except re.error as error:
            raise SettingsError(f"Got {settings.lora_targets!r} as lora_targets, no expression ({error}).") from error


def require_rates(learning_rates: dict[str, float] | None) -> None:
    """Raises a SettingsError unless there is a learning rate for each regular expression.

    Args:
        learning_rates (`dict[str, float]`, *optional*): see `parameter_groups`.
    """
    for pattern, rate in (learning_rates or {}).items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise SettingsError(f"Got {pattern!r} in learning_rates, which is no expression ({error}).") from error
        if not 0 < rate < math.inf:
            raise SettingsError(f"Got {rate} in learning_rates for {pattern!r}, expected a rate above 0.")
