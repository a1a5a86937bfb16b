"""Lines of a log without what other programs put before them.

Continuous integration, containers, loggers and terminals put a time, a name or an indentation
before every line of a log. The prefix of one line that is known by what follows it gives the shape
of all: the same text, with other digits, another number of spaces and another letter of severity.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\ufeff")
"""Colours and the like of a terminal, and a mark of the order of bytes."""
_PIECE = re.compile(r"\d+|\s+|\b[VDIWEF]\b|.")
_LONGEST = 200
"""Characters of the longest prefix; what is longer is text that the tool wrote."""


def strip_prefixes(text: str, anchors: re.Pattern[str]) -> list[str]:
    """Split a log into lines, without the prefixes that other programs put before them.

    Args:
        text: The log.
        anchors: The beginnings of lines that the tool itself writes.
    """
    lines = [_ESCAPE.sub("", line) for line in text.splitlines()]
    shapes = dict.fromkeys(_find_shapes(lines, anchors))
    if not shapes:
        return lines
    longest_first = sorted(shapes, key=len, reverse=True)
    prefix = re.compile("|".join(longest_first))
    return [prefix.sub("", line, count=1) if prefix.match(line) else line for line in lines]


def _find_shapes(lines: list[str], anchors: re.Pattern[str]) -> Iterator[str]:
    """Find the shapes of what stands before the beginnings of lines."""
    for line in lines:
        match = anchors.search(line)
        prefix = line[: match.start()] if match else ""
        if prefix.strip() and len(prefix) <= _LONGEST:
            yield "".join(map(_generalise, _PIECE.findall(prefix)))


def _generalise(piece: str) -> str:
    """Write the pattern of what stands in the place of a piece of a prefix in other lines."""
    if piece.isdigit():
        return r"\d+"
    if piece.isspace():
        return r"\s*"
    if re.fullmatch("[VDIWEF]", piece):
        return "[VDIWEF]"
    return re.escape(piece)
