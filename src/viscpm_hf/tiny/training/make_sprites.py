"""Draws world/sprites.png from Noto Color Emoji: `python -m viscpm_hf.tiny.training.make_sprites [FONT]`.

The font is Debian's: `apt-get install fonts-noto-color-emoji`. Nothing else needs it.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..world.sprites import COLUMNS, SHEET, SPRITE_SIZE
from ..world.things import THINGS

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
_FONT_SIZE = 109  # the only one the font has


def pictogram(emoji: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """An emoji cropped to its ink, centred in a square of `SPRITE_SIZE`, RGBA."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((10, 10), emoji, font=font, embedded_color=True)
    ink = canvas.crop(canvas.getchannel("A").point(lambda level: 255 * (level > 8)).getbbox())
    side = max(ink.size)
    square = Image.new("RGBA", (side, side))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return square.resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    font = ImageFont.truetype(arguments[0] if arguments else FONT, _FONT_SIZE)
    rows = -(-len(THINGS) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * SPRITE_SIZE, rows * SPRITE_SIZE))
    for number, thing in enumerate(THINGS):
        row, column = divmod(number, COLUMNS)
        sheet.paste(pictogram(thing.emoji, font), (column * SPRITE_SIZE, row * SPRITE_SIZE))
    sheet.save(SHEET, optimize=True)
    print(f"wrote {SHEET} ({Path(SHEET).stat().st_size / 1000:.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
