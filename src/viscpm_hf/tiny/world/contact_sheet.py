"""Pictures side by side over their labels, for a look at many at once."""

from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_FONT_SIZE = 14
_CHINESE = Path(__file__).parents[1] / "chinese.ttf"
_OF_SYSTEMS = (  # where Pillow finds them by name; the first that is there is used
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc"),
    *("wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "Arial Unicode.ttf"),
    *("msyh.ttc", "simhei.ttf", "simsun.ttc"),
)
_MARKS = tuple("，。？！：、；）”")
_LINE = 18
_GAP = 8


def contact_sheet(pictures: list[Image.Image], labels: list[str], columns: int = 4, scale: int = 2) -> Image.Image:
    """Pictures side by side, enlarged, each over its label.

    Args:
        pictures (`list[PIL.Image.Image]`): of equal size.
        labels (`list[str]`): one per picture, its lines wrapped to the picture's width.
        columns (`int`, defaults to 4): pictures per row.
        scale (`int`, defaults to 2): enlargement.

    Returns:
        `PIL.Image.Image`
    """
    width, height = pictures[0].width * scale, pictures[0].height * scale
    wrapped = [[line for part in label.split("\n") for line in _wrap(part, width)] for label in labels]
    cell_width, cell_height = width + _GAP, height + _LINE * max(map(len, wrapped)) + 2 * _GAP
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell_width + _GAP, rows * cell_height + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, lines) in enumerate(zip(pictures, wrapped, strict=True)):
        left, top = _GAP + index % columns * cell_width, _GAP + index // columns * cell_height
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
        pen.rectangle((left - 1, top - 1, left + width, top + height), outline="#cccccc")
        for number, line in enumerate(lines):
            _write(pen, left, top + height + _GAP // 2 + number * _LINE, line)
    return sheet


def arranged(sheets: list[Image.Image], headings: list[str], width: int) -> Image.Image:
    """Sheets in rows as wide as `width` allows, each under its heading."""
    heading_height, left, top, row_height = _LINE + _GAP, 0, 0, 0
    places = []
    for sheet in sheets:
        if left and left + sheet.width > width:
            left, top, row_height = 0, top + row_height, 0
        places.append((left, top))
        left += sheet.width
        row_height = max(row_height, sheet.height + heading_height)
    page = Image.new("RGB", (max(width, *(sheet.width for sheet in sheets)), top + row_height), "white")
    pen = ImageDraw.Draw(page)
    for sheet, heading, (left, top) in zip(sheets, headings, places, strict=True):
        _write(pen, left + _GAP, top + _GAP, heading)
        page.paste(sheet, (left, top + heading_height))
    return page


@cache
def _fonts() -> list[ImageFont.FreeTypeFont]:
    """Latin; Chinese as shipped, for the tiny vocabulary only; and what the system has for all other words."""
    fonts = [ImageFont.load_default(_FONT_SIZE), ImageFont.truetype(_CHINESE, _FONT_SIZE)]
    for name in _OF_SYSTEMS:
        with suppress(OSError):
            return [*fonts, ImageFont.truetype(name, _FONT_SIZE)]
    return fonts


@cache
def _has(number: int, character: str) -> bool:
    """Whether a font has a character: else it draws the same as for one that no font has."""
    font = _fonts()[number]
    return character == " " or bytes(font.getmask(character)) != bytes(font.getmask("\U0010ffff"))


def can_write(text: str) -> bool:
    """Whether there are fonts for all of a text."""
    return all(any(_has(number, each) for number in range(len(_fonts()))) for each in text)


def _font(character: str) -> ImageFont.FreeTypeFont:
    order = (1, 2, 0) if ord(character) > 0x2E7F else (0, 1, 2)
    numbers = [number for number in order if number < len(_fonts())]
    return _fonts()[next((number for number in numbers if _has(number, character)), numbers[0])]


def _wrap(text: str, width: int) -> list[str]:
    """Lines that fit; English breaks at spaces, Chinese anywhere but before a mark."""
    pieces, word = [], ""
    for character, following in zip(text, f"{text[1:]} ", strict=False):
        word += character
        if character == " " or (ord(character) > 0x2E7F and following not in _MARKS):
            pieces, word = [*pieces, word], ""
    lines = [""]
    for piece in [*pieces, word]:
        if (
            lines[-1]
            and sum(_font(character).getlength(character) for character in lines[-1] + piece.rstrip()) > width
        ):
            lines.append("")
        lines[-1] += piece
    return lines


def _write(pen: ImageDraw.ImageDraw, left: float, top: float, line: str):
    for character in line:
        pen.text((left, top + _FONT_SIZE), character, fill="black", font=_font(character), anchor="ls")
        left += _font(character).getlength(character)
