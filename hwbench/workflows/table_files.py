"""`hwbench table export` and `hwbench table import`.

Tables as files, and what other tools measured as tables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwbench.devices import drivers, open_device
from hwbench.errors import (
    Argument,
    DeviceUnavailableError,
    OutputParseError,
    SchemaError,
    StaleTableError,
    UsageError,
)
from hwbench.lookup_tables import LookupTable
from hwbench.lookup_tables.exchange import foreign_files
from hwbench.lookup_tables.exchange.foreign_files import Record
from hwbench.lookup_tables.exchange.foreign_reader import KINDS, WITH_MODEL, format_of, read_network
from hwbench.lookup_tables.exchange.portable import (
    PICKLES,
    SUFFIX,
    is_packed,
    read_bytes,
    read_table,
    write_table,
)
from hwbench.lookup_tables.exchange.shipped import target_of
from hwbench.lookup_tables.repository import add_networks, check_table, find_table, save_table
from hwbench.network.intake import load_workload
from hwbench.records.findings import Finding
from hwbench.records.untrusted import read_text
from hwbench.store import open_store

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")


@dataclass(frozen=True)
class ExportedTable:
    """A table that was written to a file.

    Attributes:
        path: The file.
        size_bytes: Its size.
        table: The table.
    """

    path: Path
    size_bytes: int
    table: LookupTable


@dataclass(frozen=True)
class ImportedTable:
    """A table that was read from files.

    Attributes:
        id: Of the table in the store; None if it was not kept.
        name: What `hwbench table show` finds it by.
        table: The table.
        findings: What to know of the files.
    """

    id: str | None
    name: str
    table: LookupTable
    findings: tuple[Finding, ...]


def export_table(
    table: LookupTable | str = "cpu", *, out: str | Path | None = None, store: str | None = None
) -> ExportedTable:
    """Write a table as one portable file.

    Args:
        table: A table, the address of the device whose newest one to take, its name, or the
            beginning of its id.
        out: The file; None names it after the device, in the current folder.
        store: SQLAlchemy URL of the store.

    Raises:
        UsageError: There is no such table, or the file cannot be written.
    """
    if not isinstance(table, LookupTable):
        with open_store(store) as opened_store:
            table = find_table(opened_store, table)
    plain = re.sub(r"[^\w.-]+", "-", table.provenance.device.address).strip("-.") or "table"
    path = Path(out) if out is not None else Path(plain + SUFFIX)
    return ExportedTable(path, write_table(table, path), table)


def import_table(
    files: Sequence[str | Path],
    *,
    format: str | None = None,  # noqa: A002 - the word of the command line
    model: str | Path | None = None,
    name: str | None = None,
    target: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    store: str | None = None,
    save: bool = True,
    **source: Any,
) -> ImportedTable:
    """Read a portable table, or logs and profiles of another tool, into the store.

    Networks that are imported under one name make up one table: each call adds one.

    Args:
        files: One portable table, or all files about one network.
        format: What the files are (`tflite-log`, ...); None tells by their content.
        model: The network that was logged, its widths included, where the files hold no shapes:
            what `hwbench.profile` takes.
        name: What to find the table by; None: the device of a portable table, else the name of the
            folder of the files.
        target: The hardware of foreign files, for people; None: that of the table they add to if
            hwbench brings it along, else the name.
        threads: Threads of the runtime, where foreign files do not tell.
        device: Address of a device that the table has to be of.
        store: SQLAlchemy URL of the store.
        save: Whether to keep it.
        source: How the model is read, as for `hwbench.profile`.

    Raises:
        StaleTableError: The table was made for another device, runtime or number of threads than
            `device`; or, without a new name, than the device here that it would be found as.
        UnsafeModelError: A file is a pickle.
        SchemaError: A file is damaged.
        HwbenchError: Foreign files are not of the model; the message says what to do.
    """
    paths = [Path(file) for file in files]
    _check_request(paths, format, name)
    portable = [path for path in paths if path.suffix == SUFFIX or is_packed(path)]
    if portable:
        if len(paths) > 1 or format is not None or model is not None:
            raise UsageError(
                f"{portable[0]} is a whole table, with its layers; import it alone, without a"
                " format or a model"
            )
        return _import_portable(
            portable[0], name=name, threads=threads, device=device, store=store, save=save
        )
    records = [(path.name, _read(path)) for path in paths]
    kind = format_of(records)
    if format not in {None, kind}:
        raise UsageError(
            f"{paths[0]} holds a {kind}, not a {format}; leave the format out, or give its files"
        )
    name = name or paths[0].resolve().parent.name
    _check_name(name)
    if model is None and kind in WITH_MODEL:
        raise UsageError(
            f"files of {kind} hold no shapes",
            Argument(
                "model",
                "zoo:mobilenet_v1@WIDTHS",
                purpose="say what was measured, or give a model file",
            ),
        )
    workload = None if model is None or kind not in WITH_MODEL else load_workload(model, **source)
    network, findings = read_network(
        records, workload, target=target or target_of(name), threads=threads
    )
    with open_store(store) if save else nullcontext() as kept:
        table = add_networks(kept, name, [network])
        _check_device(table, device, threads)
        return ImportedTable(
            None if kept is None else save_table(kept, table), name, table, findings
        )


def _import_portable(
    path: Path,
    *,
    name: str | None,
    threads: int | None,
    device: str | None,
    store: str | None,
    save: bool,
) -> ImportedTable:
    table = read_table(path)
    table.check_usable()
    made = table.provenance
    _check_device(table, device, threads)
    if name is None and device is None:
        _check_here(table)
    origin = f"imported from {path.name}, where it was the table of {made.device.address}"
    note = made.note if origin in made.note else "; ".join(filter(None, (made.note, origin)))
    address = made.device.address if name is None else name
    named = replace(made, note=note, device=replace(made.device, address=address))
    table = replace(table, metadata=replace(table.metadata, provenance=named))
    with open_store(store) if save else nullcontext() as kept:
        return ImportedTable(None if kept is None else save_table(kept, table), address, table, ())


def _check_device(table: LookupTable, device: str | None, threads: int | None) -> None:
    """Refuse a table that is not of the device asked for."""
    if device is not None:
        with open_device(device) as opened:
            check_table(
                table, opened.info(), table.provenance.threads if threads is None else threads
            )


def _check_here(table: LookupTable) -> None:
    """Refuse a table that would be taken for that of a device which is here, and is not."""
    address = table.provenance.device.address
    if address.partition(":")[0] not in drivers():
        return
    try:
        with open_device(address) as opened:
            info = opened.info()
    except (DeviceUnavailableError, UsageError):  # not here, so nothing here can be mistaken for it
        return
    try:
        check_table(table, info, table.provenance.threads)
    except StaleTableError as error:
        raise StaleTableError(
            error.message,
            *error.remedies,
            Argument("name", purpose="keep this one under another name"),
        ) from error


def _check_request(paths: Sequence[Path], kind: str | None, name: str | None) -> None:
    if kind is not None and kind not in KINDS:
        raise UsageError(
            f"unknown format {kind!r}; known: {', '.join(KINDS)}, and portable tables ({SUFFIX})"
        )
    if not paths:
        raise UsageError(
            "no files to import; give a portable table, or the logs or profiles of one network"
        )
    if name is not None:
        _check_name(name)
    for path in paths:
        if path.suffix.lower() in PICKLES:
            read_bytes(path)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a table; expected letters, digits, '.', '_' and '-'",
            Argument("name", change="another"),
        )
    if name in drivers():
        raise UsageError(
            f"{name!r} is a device here, whose own table would be hidden",
            Argument("name", change="another"),
        )


def _read(path: Path) -> Record:
    try:
        # The table keeps names of files, not of people's folders.
        return foreign_files.parse(read_text(path), path.name)
    except OutputParseError as error:
        # It did not come from a device that is at fault now: it is a file that cannot be read.
        raise SchemaError(str(error)) from error
