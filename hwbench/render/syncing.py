"""What a transfer between stores did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench.render.blocks import Column, Line, Notes, Table, View
from hwbench.render.documents import SCHEMA, Document
from hwbench.render.units import plural

if TYPE_CHECKING:
    from hwbench.workflows.sync_store import Synced


def synced_view(done: Synced) -> View:
    """How many records were new, and which were refused."""
    counts = [f"{done.new.total():,} new", f"{done.known:,} there already"]
    if done.updated:
        counts.insert(1, f"{done.updated:,} brought up to date")
    view: list[Line | Notes | Table] = [Line(", ".join(counts), "bold")]
    if done.new:
        columns = (Column("kind"), Column("new", right=True))
        view.append(
            Table(
                columns, tuple((kind, f"{number:,}") for kind, number in sorted(done.new.items()))
            )
        )
    if done.refused:
        view.append(Notes(tuple((" ".join(one.key), one.reason) for one in done.refused)))
    return [*view, Line(f"from {done.source} to {done.target}", "dim")]


def refusals(done: Synced) -> list[str]:
    """One line if records were left out."""
    if not done.refused:
        return []
    names = ", ".join(" ".join(one.key) for one in done.refused[:3])
    more = f" and {len(done.refused) - 3:,} more" if len(done.refused) > 3 else ""
    first = done.refused[0].reason
    return [
        (
            f"{plural(len(done.refused), 'record')} left out: {names}{more} ({first}); everything"
            f" else is in {done.target}"
        )
    ]


def synced_document(done: Synced) -> Document:
    """The same for machines."""
    return {
        "schema": SCHEMA,
        "from": done.source,
        "to": done.target,
        "new": dict(sorted(done.new.items())),
        "updated": done.updated,
        "known": done.known,
        "refused": [
            {"kind": one.key[0], "id": one.key[1], "reason": one.reason} for one in done.refused
        ],
    }
