"""One HTML file with everything inside: pages, style, scripts and the charting library.

Names in a store are hostile until shown otherwise: they arrive as JSON in which no character can
end the script element, are put on the page as text alone, and a content security policy, with the
hash of each of the scripts, lets nothing else run or load.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from hwbench.errors import SchemaError
from hwbench.render.units import moment, seconds
from hwbench.report.nouns import encode
from hwbench.version import __version__

if TYPE_CHECKING:
    from hwbench.report.contents import Contents
    from hwbench.report.nouns import Page

SCRIPTS = (
    "dom.js",
    "tip.js",
    "table.js",
    "scales.js",
    "charts.js",
    "charts_of_tables.js",
    "charts_of_series.js",
    "app.js",
)
"""Our own scripts, joined in this order into one module."""
TIME_SCALES = (1.0, 1e-3, 1e-6, 1e-9)
"""Seconds of each unit that the axes of pictures may have.

What it is called, `render.units` knows.
"""
_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def html(pages: Sequence[Page], contents: Contents, since: str | None, notes: Sequence[str]) -> str:
    """The whole file.

    Args:
        pages: What it shows.
        contents: What it was made of; its newest record dates it.
        since: As the user gave it.
        notes: What holds for all pages.

    Raises:
        SchemaError: A vendored file is not what its manifest says.
    """
    data = {
        "version": __version__,
        "stamp": moment(contents.newest_utc),
        "since": since,
        "notes": list(notes),
        "units": [[scale, seconds(scale).split()[1]] for scale in TIME_SCALES],
        **encode(pages),
    }
    libraries = [read_vendored(name) for name in read_manifest()]
    own = "\n".join(_read_asset(name) for name in SCRIPTS)
    scripts = [*libraries, own]
    policy = " ".join(
        f"'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    parts = {
        "POLICY": (
            f"default-src 'none'; style-src 'unsafe-inline'; script-src {policy}; base-uri 'none';"
            " form-action 'none'"
        ),
        "STYLE": _read_asset("report.css"),
        "DATA": escaped_json(data),
        "LIBRARIES": "\n".join(f"<script>{script}</script>" for script in libraries),
        "SCRIPT": own,
    }
    # Split once, so that nothing inside a part is taken for the place of another.
    pieces = re.split(r"<!--([A-Z]+)-->", _read_asset("report.html"))
    return "".join(parts[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def escaped_json(data: Any) -> str:
    """JSON in ASCII without `<`, `>` and `&`: it can end no script element, begin no comment."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(
        _ESCAPED
    )


@lru_cache(maxsize=1)
def read_manifest() -> Mapping[str, Mapping[str, str]]:
    """The vendored libraries in the order they load: version, licence, origin, SHA-256."""
    libraries: dict[str, dict[str, str]] = json.loads(_read_asset("vendored.json"))
    return libraries


def read_vendored(name: str) -> str:
    """The text of one vendored library.

    Raises:
        SchemaError: Its hash is not the one in the manifest.
    """
    text, expected = _read_asset(name), read_manifest()[name]["sha256"]
    digest = sha256(text.encode()).hexdigest()
    if digest != expected:
        raise SchemaError(
            f"the vendored {name} has the SHA-256 {digest[:12]}..., expected {expected[:12]}...;"
            " install hwbench again"
        )
    return text


def _read_asset(name: str) -> str:
    return (files("hwbench.report") / "assets" / name).read_text(encoding="utf-8")
