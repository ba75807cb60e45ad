"""Cuts chinese.ttf for the contact sheets out of Droid Sans Fallback (Apache-2.0): only what the vocabulary has.

    python -m viscpm_hf.tiny.training.make_font DroidSansFallbackFull.ttf

The font is Debian's: `apt-get install fonts-droid-fallback`. It needs fontTools; nothing else does.
"""

import sys
from pathlib import Path

from .. import VOCABULARY

FONT = Path(__file__).parents[1] / "chinese.ttf"


def characters() -> str:
    """Those of the vocabulary that a Latin font lacks."""
    return "".join(sorted({c for c in VOCABULARY.read_text(encoding="utf-8") if ord(c) > 0x2E7F}))


def main(argv: list[str] | None = None) -> int:
    from fontTools.subset import main as subset

    (source,) = sys.argv[1:] if argv is None else argv
    options = [
        "--layout-features=",
        "--no-hinting",
        "--notdef-outline",
        "--name-IDs=0,1,2,13",
        "--drop-tables+=GSUB,GPOS",
    ]
    subset([source, f"--text={characters()}", f"--output-file={FONT}", *options])
    print(f"wrote {FONT} ({FONT.stat().st_size / 1000:.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
