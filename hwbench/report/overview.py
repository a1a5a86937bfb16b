"""All pages, and the first of them: devices, models, comparisons, tables and searches at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwbench.render.units import minute, moment, plural
from hwbench.report.commands import compare_command, search_command
from hwbench.report.comparisons import compare_page, comparisons_figure
from hwbench.report.models import Model, model_page, models_figure, models_of
from hwbench.report.nouns import Column, Figure, Number, Page, Table
from hwbench.report.searches import search_page, searches_figure
from hwbench.report.tables import table_page, tables_figure

if TYPE_CHECKING:
    from hwbench.records.device import DeviceInfo
    from hwbench.report.contents import Contents


def pages(contents: Contents, drawn: int) -> list[Page]:
    """Every page, lists before what they list.

    Args:
        contents: What to tell of.
        drawn: Samples of each set that are drawn at most.
    """
    commands = _commands(contents)
    models = models_of(contents.measurements, commands)
    addresses = {record.id: model.page for model in models for record in model.records}
    compared = contents.comparisons
    lists = {
        "comparisons": [comparisons_figure(compared, commands)] if compared else [],
        "tables": [tables_figure(contents.tables)] if contents.tables else [],
        "searches": [searches_figure(contents.searches, compared)] if contents.searches else [],
    }
    figures = [
        _devices(contents),
        *([models_figure(models)] if models else []),
        *lists["comparisons"],
    ]
    found = [_first(contents, models, figures)]
    found += [
        Page(name, name.title() if name != "tables" else "Lookup tables", "", figures=tuple(ones))
        for name, ones in lists.items()
        if ones
    ]
    found += [model_page(model, drawn) for model in models]
    found += [compare_page(one, commands, addresses, drawn) for one in compared]
    found += [table_page(one) for one in contents.tables]
    found += [search_page(one, compared) for one in contents.searches]
    return found


def _commands(contents: Contents) -> dict[str, str]:
    """What repeats the measurements that were not made alone, by id."""
    found = {
        record.id: compare_command(one.baseline, one.candidate)
        for one in contents.comparisons
        for record in (one.baseline, one.candidate)
    }
    for kept in contents.searches:
        found |= dict.fromkeys(kept.summary["measurements"], search_command(kept.summary))
    return found


def _first(contents: Contents, models: Sequence[Model], figures: Sequence[Figure]) -> Page:
    devices = {record.device.address for record in contents.measurements}
    devices |= {kept.table.provenance.device.address for kept in contents.tables}
    counts = (
        ("devices", len(devices)),
        ("models", len(models)),
        ("measurements", len(contents.measurements)),
        ("comparisons", len(contents.comparisons)),
        ("lookup tables", len(contents.tables)),
        ("searches", len(contents.searches)),
    )
    facts = tuple(
        (name, Number(number, f"{number:,}", "counted in the store"))
        for name, number in counts
        if number
    )
    lead = f"How fast these networks are on these devices, as of {moment(contents.newest_utc)}."
    return Page("overview", "Overview", lead, facts, figures=tuple(figures))


def _devices(contents: Contents) -> Figure:
    seen: dict[tuple[str, str, str], list[str]] = {}
    known: list[tuple[DeviceInfo, str]] = [
        (record.device, record.started_utc) for record in contents.measurements
    ]
    for device, date in known:
        seen.setdefault((device.address, device.target, device.runtime), []).append(date)
    for kept in contents.tables:
        device = kept.table.provenance.device
        seen.setdefault((device.address, device.target, device.runtime), [])
    columns = (
        Column("device"),
        Column("hardware"),
        Column("runtime"),
        Column("measurements", numeric=True),
        Column("last (UTC)", minor=True),
    )
    rows = tuple(
        (*names, Number(len(dates), str(len(dates))), minute(max(dates)) if dates else "-")
        for names, dates in seen.items()
    )
    return Figure(
        "Devices", f"{plural(len(rows), 'device')} with their runtimes.", Table(columns, rows)
    )
