"""Latency tables of ProxylessNAS and once-for-all.

They are YAML of `operator-input:HxWxC-output:HxWxC[-name:value..]: {mean: ms, ..}`.

The files say neither device nor unit; `mean` and `std` are milliseconds of one call at batch 1, on
the device the paper or file name says. Shapes are height x width x channels, without the batch. An
`expanded_conv` is a whole inverted residual block.

Sources: github.com/mit-han-lab/proxylessnas (latency_estimator.py),
github.com/mit-han-lab/once-for-all (latency tables of the tutorial); read, not copied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import SchemaError, UnsafeModelError
from hwbench.records.findings import Finding
from hwbench.records.tensors import Shape
from hwbench.records.untrusted import parse_seconds, parse_seconds_or_zero, parse_whole, quote

if TYPE_CHECKING:
    from yaml.nodes import Node

_MS = 1e3  # of which make a second
SIGNS = re.compile(r"^[ \t{?\"']*[A-Za-z]\w*-input:\d+(?:x\d+)*-output:\d", re.MULTILINE)
"""What such a file shows and no other format does."""
MAX_CHARACTERS = 4 << 20
"""Longest text that is parsed; the published tables are 15 to 400 kB."""

_KEY = re.compile(
    r"([A-Za-z]\w*)-input:(\d{1,9}(?:x\d{1,9})*)-output:(\d{1,9}(?:x\d{1,9})*)((?:-[a-z]+:\d{1,9})*)"
)
_PYTHON = re.compile(r"!!python/|tag:yaml\.org,2002:python/")


@dataclass(frozen=True, slots=True)
class OfaRow:
    """One entry of the table.

    Attributes:
        kind: `Conv`, `Conv_1`, `expanded_conv`, `Logits`, ...
        input: Height, width, channels; fewer where the map is gone.
        output: As `input`.
        attrs: The rest of the key in order: `expand`, `kernel`, `stride`, `idskip`, `se`, `hs`.
        mean_s: Mean latency in seconds.
        std_s: Standard deviation; None where not told.
        count: Measurements behind the mean; None where not told.
    """

    kind: str
    input: Shape
    output: Shape
    attrs: tuple[tuple[str, int], ...]
    mean_s: float
    std_s: float | None
    count: int | None


@dataclass(frozen=True, slots=True)
class OfaTable:
    """All entries of a file, in its order."""

    source: str
    rows: tuple[OfaRow, ...]
    findings: tuple[Finding, ...] = ()


def parse(text: str, source: str = "the table") -> OfaTable:
    """Read a latency table of ProxylessNAS or once-for-all.

    Raises:
        UnsafeModelError: The YAML would build Python objects.
        SchemaError: It is no such table, or damaged.
        OutputParseError: A latency is no number above 0.
    """
    if len(text) > MAX_CHARACTERS:
        raise SchemaError(
            f"{source} has {len(text)} characters; expected a latency table of at most"
            f" {MAX_CHARACTERS}"
        )
    entries = _entries(_compose(text, source), source)
    unit = Finding(
        "no_unit",
        "the file names no device and no unit; its numbers are taken as milliseconds of one call",
    )
    return OfaTable(
        source, tuple(_row(key, node, source) for key, node in entries.items()), (unit,)
    )


def _compose(text: str, source: str) -> Node | None:
    """The YAML as nodes of plain text, from which nothing is built."""
    import yaml

    if _PYTHON.search(text):
        raise UnsafeModelError(
            f"{source} is YAML that would build Python objects, and is not opened; write plain"
            " numbers instead"
        )
    try:
        found: Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise SchemaError(
            f"{source} is damaged YAML{where}:"
            f" {quote(getattr(error, 'problem', None) or str(error))}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{source} is damaged YAML: {quote(str(error))}") from error
    return found


def _entries(node: Node | None, source: str) -> dict[str, Node]:
    """A mapping as keys and nodes; YAML forbids a key twice, PyYAML would keep the last."""
    from yaml.nodes import MappingNode, ScalarNode

    if not isinstance(node, MappingNode):
        raise SchemaError(
            f"{source} is no latency table; expected YAML like"
            " 'Conv-input:224x224x3-output:112x112x32: {mean: 1.2}'"
        )
    found: dict[str, Node] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode) or key.value in found:
            raise SchemaError(
                f"{source}: {quote(key.value)} at line {key.start_mark.line + 1} is no key, or is"
                " given twice"
            )
        found[key.value] = value
    return found


def _row(key: str, node: Node, source: str) -> OfaRow:
    match = _KEY.fullmatch(key)
    if match is None:
        raise SchemaError(
            f"{source}: {quote(key)} is no key; expected"
            " OPERATOR-input:HxWxC-output:HxWxC[-name:value..]"
        )
    what = f"{source}: entry {quote(key)}"
    entry = {name: value.value for name, value in _entries(node, what).items()}
    if "mean" not in entry:
        raise SchemaError(f"{what} has no mean; expected {{mean: MILLISECONDS, count: N}}")
    return OfaRow(
        match[1],
        tuple(map(int, match[2].split("x"))),
        tuple(map(int, match[3].split("x"))),
        tuple((name, int(value)) for name, value in re.findall(r"-([a-z]+):(\d+)", match[4])),
        parse_seconds(entry["mean"], _MS, f"{what}: mean"),
        parse_seconds_or_zero(entry["std"], _MS, f"{what}: std") if "std" in entry else None,
        parse_whole(entry["count"], f"{what}: count") if "count" in entry else None,
    )
