"""Texts in which the spans that give someone away are marked."""

import re

from helpers.data.holders.deidentify import Span

MARKED = re.compile(r"\{([A-Z_]+):([^{}]*)\}")


def parse_marked(line: str) -> tuple[str, list[Span]]:
    """A text and its spans, from one in which they are marked: `seen by Dr {PERSON:Vauchet}`."""
    text, position, spans = "", 0, []
    for mark in MARKED.finditer(line):
        text += line[position : mark.start()]
        spans.append(Span(len(text), len(text) + len(mark[2]), mark[1]))
        text += mark[2]
        position = mark.end()
    return text + line[position:], spans
