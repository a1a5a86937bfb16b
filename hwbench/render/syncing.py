"""What a transfer between stores did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench.render.blocks import Block, Column, Line, Notes, Table, View
from hwbench.render.documents import SCHEMA, Document
from hwbench.render.units import plural

if TYPE_CHECKING:
    from hwbench.workflows.sync_store import Synced

REFUSED_SHOWN = 3
"""Records that are named of those that were left out."""


def synced_view(outcome: Synced) -> View:
    """How many records were new, and which of them were refused."""
    counts = [f"{outcome.new.total():,} new", f"{outcome.known:,} there already"]
    if outcome.updated:
        counts.insert(1, f"{outcome.updated:,} brought up to date")
    view: list[Block] = [Line(", ".join(counts), "bold")]
    if outcome.new:
        columns = (Column("kind"), Column("new", right=True))
        rows = tuple((kind, f"{number:,}") for kind, number in sorted(outcome.new.items()))
        view.append(Table(columns, rows))
    if outcome.refused:
        view.append(
            Notes(tuple((" ".join(record.key), record.reason) for record in outcome.refused))
        )
    return [*view, Line(f"from {outcome.source} to {outcome.target}", "dim")]


def refusals(outcome: Synced) -> list[str]:
    """One line if records were left out, else none."""
    if not outcome.refused:
        return []
    names = ", ".join(" ".join(record.key) for record in outcome.refused[:REFUSED_SHOWN])
    hidden = len(outcome.refused) - REFUSED_SHOWN
    if hidden > 0:
        names += f" and {hidden:,} more"
    first = outcome.refused[0].reason
    return [
        (
            f"{plural(len(outcome.refused), 'record')} left out: {names} ({first}); everything"
            f" else is in {outcome.target}"
        )
    ]


def synced_document(outcome: Synced) -> Document:
    """The outcome of a transfer as JSON types."""
    return {
        "schema": SCHEMA,
        "from": outcome.source,
        "to": outcome.target,
        "new": dict(sorted(outcome.new.items())),
        "updated": outcome.updated,
        "known": outcome.known,
        "refused": [
            {"kind": record.key[0], "id": record.key[1], "reason": record.reason}
            for record in outcome.refused
        ],
    }
