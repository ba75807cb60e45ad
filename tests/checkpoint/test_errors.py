"""Guards messages: one line whatever they hold, and bounded."""

from viscpm_hf.checkpoint import CheckpointError, listed


def test_what_a_terminal_would_act_on_is_escaped():
    error = CheckpointError("a\x1b[2J\nb\udcff\u202e 图")
    assert str(error) == r"a\x1b[2J\nb\udcff\u202e 图"
    assert listed(["\x1b]0;", "b"]) == r"\x1b]0;, b"


def test_messages_are_bounded():
    """A name in them may be megabytes."""
    text = str(CheckpointError(f"a.bin holds {'x' * 10_000_000}, which is wrong."))
    assert len(text) < 4000 and text.startswith("a.bin holds xxx") and text.endswith("xxx, which is wrong.")
