"""All pages, and the first: devices, models, comparisons, tables, searches at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwbench.render.units import minute, moment, plural
from hwbench.report.commands import compare_command, search_command
from hwbench.report.comparisons import compare_page, comparisons_figure
from hwbench.report.fronts import front_page, fronts_figure
from hwbench.report.histories import histories_figure, history_page, make_histories
from hwbench.report.matrices import matrices_figure, matrix_page
from hwbench.report.models import Model, group_models, model_page, models_figure
from hwbench.report.nouns import Column, Figure, Number, Page, Table
from hwbench.report.numbers import whole_number
from hwbench.report.searches import search_page, searches_figure
from hwbench.report.tables import table_page, tables_figure

if TYPE_CHECKING:
    from hwbench.records.device import DeviceInfo
    from hwbench.report.contents import Contents


def make_pages(contents: Contents, drawn: int) -> list[Page]:
    """Every page, lists before what they list.

    Args:
        contents: What to tell of.
        drawn: Samples of each set that are drawn at most.
    """
    commands = _repeat_commands(contents)
    models = group_models(contents.measurements, commands)
    addresses = {record.id: model.page for model in models for record in model.records}
    compared = contents.comparisons
    figures, lists = [_devices_figure(contents)], []
    if models:
        figures.append(models_figure(models))
    if compared:
        figures.append(comparisons_figure(compared, commands))
        lists.append(Page("comparisons", "Comparisons", "", figures=(figures[-1],)))
    if contents.matrices:
        matrices = matrices_figure(contents.matrices)
        figures.append(matrices)
        lists.append(Page("matrices", "Matrices", "", figures=(matrices,)))
    histories = make_histories(contents.measurements)
    if histories:
        lists.append(Page("histories", "History", "", figures=(histories_figure(histories),)))
    if contents.tables:
        tables = tables_figure(contents.tables)
        lists.append(Page("tables", "Lookup tables", "", figures=(tables,)))
    if contents.searches:
        found = [searches_figure(contents.searches, compared)]
        if contents.fronts:
            found.append(fronts_figure(contents.fronts, contents.searches))
        lists.append(Page("searches", "Searches", "", figures=tuple(found)))
    pages = [_overview_page(contents, models, figures), *lists]
    pages += [model_page(model, drawn, contents.ceilings) for model in models]
    pages += [compare_page(comparison, commands, addresses, drawn) for comparison in compared]
    pages += [matrix_page(kept, addresses) for kept in contents.matrices]
    pages += [history_page(history) for history in histories]
    pages += [table_page(table) for table in contents.tables]
    pages += [search_page(search, compared) for search in contents.searches]
    pages += [front_page(front, contents.searches, compared) for front in contents.fronts]
    return pages


def _repeat_commands(contents: Contents) -> dict[str, str]:
    """The command that repeats each measurement that was not made alone, by id."""
    commands = {}
    for comparison in contents.comparisons:
        command = compare_command(comparison.baseline, comparison.candidate)
        commands[comparison.baseline.id] = command
        commands[comparison.candidate.id] = command
    for search in contents.searches:
        command = search_command(search.summary)
        commands.update(dict.fromkeys(search.summary["measurements"], command))
    return commands


def _overview_page(contents: Contents, models: Sequence[Model], figures: Sequence[Figure]) -> Page:
    devices = {record.device.address for record in contents.measurements}
    devices |= {stored.table.provenance.device.address for stored in contents.tables}
    counts = (
        ("devices", len(devices)),
        ("models", len(models)),
        ("measurements", len(contents.measurements)),
        ("comparisons", len(contents.comparisons)),
        ("matrices", len(contents.matrices)),
        ("lookup tables", len(contents.tables)),
        ("searches", len(contents.searches)),
    )
    facts = []
    for name, number in counts:
        if number:
            facts.append((name, Number(number, f"{number:,}", "counted in the store")))
    lead = f"How fast these networks are on these devices, as of {moment(contents.newest_utc)}."
    return Page("overview", "Overview", lead, tuple(facts), figures=tuple(figures))


def _devices_figure(contents: Contents) -> Figure:
    dates_by_device: dict[tuple[str, str, str], list[str]] = {}
    for record in contents.measurements:
        dates_by_device.setdefault(_names(record.device), []).append(record.started_utc)
    for stored in contents.tables:
        dates_by_device.setdefault(_names(stored.table.provenance.device), [])
    columns = (
        Column("device"),
        Column("hardware"),
        Column("runtime"),
        Column("measurements", numeric=True),
        Column("last (UTC)", minor=True),
    )
    rows = tuple(
        (*names, whole_number(len(dates)), minute(max(dates, default="-")))
        for names, dates in dates_by_device.items()
    )
    text = f"{plural(len(rows), 'device')} with their runtimes."
    return Figure("Devices", text, Table(columns, rows))


def _names(device: DeviceInfo) -> tuple[str, str, str]:
    return device.address, device.target, device.runtime
