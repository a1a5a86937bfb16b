"""What TensorRT's names of engine layers say of the ONNX nodes they were made of.

An engine layer is called after its nodes and their weights, joined by ` + `. TensorRT has names of
its own for what it made: `PWN(a, b)` is a chain of pointwise operators, `{ForeignNode[a...b]}` a
part of the network in one piece, `reshape_after_a` a change of shape behind a node, and
`(Unnamed Layer* 306) [Shuffle]` a layer of the parser's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

_PIECE = re.compile(r"\{?ForeignNode\[(.+?)\.\.\.(.+)\]\}?")
_BESIDE = re.compile(r"(?:copied_)?[a-z]+(?:_node)?_(?:after|before)_(.+)")
"""A layer that was put beside another one, whose name follows."""
_OWN = re.compile(r"\(Unnamed Layer\*|^Reformatting |^ONNXTRT_|^[a-z]+_between_.+_and_")
"""Layers of TensorRT's and its parser's own."""
_SCALED = re.compile(r"_(?:de)?quantize_scale_node$")
"""What TensorRT 8 adds to the name of a QuantizeLinear or DequantizeLinear."""


@dataclass(frozen=True, slots=True)
class NamedNodes:
    """The nodes that an engine layer was made of.

    Attributes:
        places: Places in the graph of those that were found, in order, each once.
        unknown: Parts of the name that are neither nodes, nor weights, nor TensorRT's own.
        is_piece: Whether the name only says where a part of the network begins and ends.
    """

    places: tuple[int, ...]
    unknown: tuple[str, ...] = ()
    is_piece: bool = False


def split_name(name: str) -> tuple[str, ...]:
    """Split the name of an engine layer into the nodes, weights and chains that it joins."""
    if name.startswith("Reformatting "):
        return ()
    # ` || ` joins layers that read the same tensor and were put side by side.
    return (name,) if _PIECE.fullmatch(name) else tuple(re.split(r" \+ | \|\| ", name))


def find_nodes(
    origins: Sequence[str],
    places: Mapping[str, int],
    weights: Mapping[str, int] = MappingProxyType({}),
) -> NamedNodes:
    """Find the nodes that an engine layer was made of.

    Args:
        origins: What its metadata says, or `split_name`.
        places: Places in the graph by the names of the nodes that TensorRT was given.
        weights: The place of the first node that reads a weight, by the weight's name; -1 where it
            is not known.
    """
    found: dict[int, None] = {}
    unknown = []
    is_piece = False
    for part in _split_chains(origins, places):
        piece = _PIECE.fullmatch(part)
        beside = _BESIDE.fullmatch(part)
        what = beside[1] if beside else part
        plain = _SCALED.sub("", part)
        if part in places or plain in places:
            found[places[part if part in places else plain]] = None
        elif piece:
            first, last = (_find_end(name, places, weights) for name in piece.groups())
            if first is None or last is None:
                unknown.append(part)
            else:
                is_piece = True
                found.update(dict.fromkeys(range(min(first, last), max(first, last) + 1)))
        elif not (what in weights or _OWN.search(what) or what in places):
            unknown.append(part)  # what stands beside a node was inserted, and is of none
    return NamedNodes(tuple(found), tuple(unknown), is_piece)


def _split_chains(origins: Sequence[str], places: Mapping[str, int]) -> list[str]:
    """Write chains of pointwise operators out: `PWN(PWN(a), b)` are a and b."""
    parts = []
    for origin in origins:
        if origin in places or "PWN(" not in origin:
            parts.append(origin)
            continue
        for piece in re.split(r"(?:PWN\()+|, ", origin):
            name = piece.strip()
            while name not in places and name.endswith(")") and name.count("(") < name.count(")"):
                name = name[:-1]
            if name:
                parts.append(name)
    return parts


def _find_end(text: str, places: Mapping[str, int], weights: Mapping[str, int]) -> int | None:
    """Find the place of a node at an end of a piece, which may itself be named by several parts."""
    for part in text.split(" + "):
        # TensorRT may have added a number to the name.
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in places:
                return places[name]
            if weights.get(name, -1) >= 0:
                return weights[name]
    return None
