"""Paper for pictures: text, marks and colour bars in Pillow's own font, nothing else.

Coordinates are pixels, origin at the top left. The font has no more than Latin-1; other signs are spelt or lost.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from nphm_core.report.colour_map import error_colours

Colour = tuple[int, int, int]
Pixels = int | float
INK: Colour = (32, 36, 42)
SOFT: Colour = (104, 110, 118)
RESIDUAL: Colour = (200, 30, 30)
_SPELT = str.maketrans({"≥": ">", "≤": "<", "–": "-", "—": "-", "’": "'", "“": '"', "”": '"', "→": "->", "\t": " "})
_MARK_SCALE = 4


@cache
def _font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    return ImageFont.load_default(size)


def printable(text: str) -> str:
    """Give the text with the signs that the font has."""
    return text.translate(_SPELT).encode("latin-1", "replace").decode("latin-1")


def text_width(text: str, size: int) -> Pixels:
    """Give the width of one line of text."""
    return _font(size).getlength(printable(text))


def wrapped(text: str, size: int, width: Pixels) -> list[str]:
    """Break text at blanks into lines of at most this width; its own line breaks stay, long words are cut."""
    out: list[str] = []
    for line in printable(text).split("\n"):
        current = ""
        for word in line.split(" "):
            while text_width(word, size) > width:
                fits = next(n for n in range(len(word), 0, -1) if n == 1 or text_width(word[:n], size) <= width)
                out += [current] if current else []
                out.append(word[:fits])
                current, word = "", word[fits:]
            longer = f"{current} {word}" if current else word
            if text_width(longer, size) > width:
                out.append(current)
                current = word
            else:
                current = longer
        out.append(current)
    return out


class Sheet:
    """A white page to put tiles and text on."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x: Pixels, y: Pixels, text: str, size: int, colour: Colour = INK) -> Pixels:
        """Write one line, its top left at a point; give the x where it ends."""
        self._draw.text((x, y), printable(text), font=_font(size), fill=colour)
        return x + text_width(text, size)

    def paragraph(
        self, x: Pixels, y: Pixels, text: str, size: int, width: Pixels, *, max_lines: int = 99, colour: Colour = INK
    ) -> Pixels:
        """Write broken lines and give the y below them; what does not fit ends in dots."""
        lines = wrapped(text, size, width)
        if len(lines) > max_lines:
            lines = [*lines[: max_lines - 1], f"{lines[max_lines - 1]} …"]
        for line in lines:
            self.text(x, y, line, size, colour)
            y += round(1.35 * size)
        return y

    def badge(self, x: Pixels, y: Pixels, text: str, size: int, colour: Colour) -> Pixels:
        """Write white text on a coloured plate; give the x where it ends."""
        pad = round(0.45 * size)
        end = x + text_width(text, size) + 2 * pad
        self._draw.rounded_rectangle((x, y - 0.2 * size, end, y + 1.25 * size), radius=0.35 * size, fill=colour)
        self.text(x + pad, y, text, size, (255, 255, 255))
        return end

    def paste(self, tile: UInt8[ndarray, "height width 3"], x: int, y: int) -> None:
        """Put a picture with its top left at a point."""
        self.image.paste(Image.fromarray(tile), (x, y))

    def frame(self, x: int, y: int, width: int, height: int) -> None:
        """Draw a thin frame."""
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), outline=(218, 221, 225))

    def line(self, x: Pixels, y: Pixels, length: Pixels, colour: Colour) -> None:
        """Draw a horizontal line."""
        self._draw.line((x, y, x + length, y), fill=colour, width=1)

    def swatch(self, x: Pixels, y: Pixels, size: int, colour: Colour) -> Pixels:
        """Draw a filled square for a legend; give the x where text may begin."""
        self._draw.rectangle((x, y, x + size, y + size), fill=colour, outline=(150, 154, 160))
        return x + size + 6

    def colour_bar(self, x: int, y: int, width: int, height: int, largest_mm: float, size: int) -> None:
        """Draw the error map's colours with a scale in mm under it."""
        index = np.linspace(0, 255, width).round().astype(int)
        self.paste(np.ascontiguousarray(np.broadcast_to(error_colours()[index], (height, width, 3))), x, y)
        for k in range(5):
            value = largest_mm * k / 4
            label = f"{value:.3g}" if k < 4 else f"{value:.3g} mm or more"
            at = x + round((width - 1) * k / 4)
            self._draw.line((at, y + height, at, y + height + 3), fill=SOFT)
            left = at - (0 if k in (0, 4) else text_width(label, size) / 2)
            if k == 4:
                left = at + 6 - text_width(f"{value:.3g}", size) / 2 - 6
            self.text(left, y + height + 4, label, size, SOFT)


def with_marks(
    tile: UInt8[ndarray, "height width 3"],
    points: Float[ndarray, "n 2"],
    ends: Float[ndarray, "n 2"],
    colours: UInt8[ndarray, "n 3"],
    radius: Pixels = 2.0,
) -> UInt8[ndarray, "height width 3"]:
    """Draw dots, and from each a line to where it should lie; smooth edges."""
    height, width = tile.shape[:2]
    scale = _MARK_SCALE
    layer = Image.new("RGBA", (width * scale, height * scale), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for a, b, colour in zip(points * scale, ends * scale, colours, strict=True):
        draw.line((*a, *b), fill=(*RESIDUAL, 255), width=round(0.9 * scale))
        r = radius * scale
        draw.ellipse((a[0] - r, a[1] - r, a[0] + r, a[1] + r), fill=(*(int(c) for c in colour), 255))
    small = layer.resize((width, height), Image.Resampling.BOX)
    out = Image.fromarray(tile).convert("RGBA")
    out.alpha_composite(small)
    return np.asarray(out.convert("RGB"))
