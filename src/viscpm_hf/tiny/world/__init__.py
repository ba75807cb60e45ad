"""What the tiny models know: drawn pictures (scenes.py), questions about them, prompts for them, and their words."""
