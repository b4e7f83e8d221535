"""SVG by hand: boxes, lines, arrows and text on a light card, so that a picture can be read on any page.

Units are pixels, y grows downwards, every picture is `WIDTH` wide. The same calls always give the same bytes.
"""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

import yaml

from helpers.report.figures import GRID, INK

WIDTH = 800
PAPER = "#ffffff"
FONT = "system-ui, 'Segoe UI', Roboto, 'Liberation Sans', Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, Menlo, Consolas, 'Liberation Mono', 'DejaVu Sans Mono', monospace"
Point = tuple[float, float]


def tint(colour: str, share: float) -> str:
    """A hex colour mixed with white: `share` of it, 0 to 1."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in parts)


class Words:
    """The words of one picture, of `words/<language>.yaml`: `say("leak")` gives lines of text."""

    def __init__(self, language: str, picture: str) -> None:
        words = yaml.safe_load((Path(__file__).with_name("words") / f"{language}.yaml").read_text("utf-8"))
        self.own: dict[str, str] = words[picture]
        self.marks = str.maketrans(dict(zip(",.-", words["marks"], strict=True)))

    def __call__(self, name: str, **values: object) -> list[str]:
        """Lines of text, with values in their places."""
        return self.own[name].format(**values).splitlines()

    def number(self, value: float, digits: int = 0) -> str:
        """A number with so many decimals, written as the language does."""
        return f"{value:,.{digits}f}".translate(self.marks)


class Picture:
    """A drawing of `WIDTH` x `height` on a card with rounded corners; `title` is what it shows, in a sentence."""

    def __init__(self, height: float, title: str) -> None:
        self.height, self.title = height, title
        self.parts: list[str] = []
        self.box(0.5, 0.5, WIDTH - 1, height - 1, radius=14)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = PAPER,
        edge: str = GRID,
        line: float = 1,
        radius: float = 6,
        dash: bool = False,
    ) -> None:
        """A rectangle from its upper left corner."""
        dashed = ' stroke-dasharray="5 4"' if dash else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" '
            f'stroke="{edge}" stroke-width="{line:g}"{dashed}/>'
        )

    def circle(self, x: float, y: float, radius: float, *, fill: str = "none", edge: str = "none") -> None:
        """A circle around a point."""
        border = "" if edge == "none" else f' stroke="{edge}" stroke-width="2"'
        self.parts.append(f'<circle cx="{x:.4g}" cy="{y:.4g}" r="{radius:g}" fill="{fill}"{border}/>')

    def text(
        self,
        x: float,
        y: float,
        *lines: str,
        size: float = 14,
        colour: str = INK,
        bold: bool = False,
        mono: bool = False,
        anchor: str = "start",
    ) -> None:
        """Lines of text below each other; `y` is the first one's baseline, `anchor` start, middle or end."""
        style = "".join(
            (
                f' font-size="{size:g}"' if size != 14 else "",
                f' fill="{colour}"' if colour != INK else "",
                ' font-weight="700"' if bold else "",
                f' font-family="{MONO}"' if mono else "",
                f' text-anchor="{anchor}"' if anchor != "start" else "",
            )
        )
        for number, words in enumerate(lines):
            place = y + number * round(1.36 * size, 1)
            self.parts.append(f'<text x="{x:g}" y="{place:.4g}"{style}>{escape(words, quote=False)}</text>')

    def line(
        self,
        *points: Point,
        colour: str = INK,
        width: float = 2,
        radius: float = 0,
        dash: bool = False,
        head: float = 0,
    ) -> None:
        """A line through points, its corners rounded by `radius`, with an arrow's head of `head` pixels at the end."""
        shown = list(points)
        if head:  # the line ends inside the head, or it would show beyond the tip
            (x, y), (to_x, to_y) = points[-2:]
            far = math.dist((x, y), (to_x, to_y))
            along_x, along_y = (to_x - x) / far, (to_y - y) / far
            base = to_x - head * along_x, to_y - head * along_y
            shown[-1] = base
            half = 0.45 * head
            corners = [
                (base[0] - half * along_y, base[1] + half * along_x),
                (base[0] + half * along_y, base[1] - half * along_x),
                (to_x, to_y),
            ]
            tip = " ".join(f"{a:.4g},{b:.4g}" for a, b in corners)
            self.parts.append(f'<polygon points="{tip}" fill="{colour}"/>')
        dashed = ' stroke-dasharray="5 4"' if dash else ""
        path = f"M{shown[0][0]:.4g} {shown[0][1]:.4g}"
        for before, corner, after in zip(shown, shown[1:-1], shown[2:], strict=False):
            for_x, for_y = _towards(corner, before, radius)
            then_x, then_y = _towards(corner, after, radius)
            path += f"L{for_x:.4g} {for_y:.4g}Q{corner[0]:.4g} {corner[1]:.4g} {then_x:.4g} {then_y:.4g}"
        path += f"L{shown[-1][0]:.4g} {shown[-1][1]:.4g}"
        self.parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>')

    def svg(self) -> str:
        """The picture as a file's text."""
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height:g}" '
            f'viewBox="0 0 {WIDTH} {self.height:g}" role="img" font-family="{FONT}" font-size="14" fill="{INK}">\n'
            f"<title>{escape(self.title, quote=False)}</title>\n{body}\n</svg>\n"
        )


def _towards(corner: Point, other: Point, far: float) -> Point:
    """The point `far` pixels from a corner on the way to another point, at most half of the way."""
    whole = math.dist(corner, other)
    share = min(far, whole / 2) / whole
    return corner[0] + share * (other[0] - corner[0]), corner[1] + share * (other[1] - corner[1])
