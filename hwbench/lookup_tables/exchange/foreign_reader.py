"""From files of other tools to networks.

Here it is decided which reader and which join files need, and what they do not tell, so that the
user has to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from statistics import median
from typing import TYPE_CHECKING

from hwbench.errors import Argument, Call, UsageError
from hwbench.lookup_tables.exchange.foreign_files import (
    OfaTable,
    ProfiledRuns,
    Record,
    TfliteLog,
    TrtLayers,
    TrtLog,
    TrtProfile,
    TrtTimes,
)
from hwbench.lookup_tables.exchange.foreign_network import ForeignEntry, ForeignNetwork
from hwbench.lookup_tables.exchange.join_by_name import (
    WARM_UP,
    LeftOut,
    join_rows,
    trt_rows,
)
from hwbench.lookup_tables.exchange.join_by_order import join_ofa, join_tflite
from hwbench.lookup_tables.exchange.join_ort import (
    explain_rows,
    find_executed,
    rename_as_in_file,
)
from hwbench.network.graph import Layer, layers, load
from hwbench.network.intake.onnx_names import NAMELESS
from hwbench.network.layers import keyed_layers_of
from hwbench.network.workload import TFLITE, Workload
from hwbench.records.findings import Finding

if TYPE_CHECKING:
    from onnx import ModelProto

KINDS: dict[str, tuple[type, ...]] = {
    "tflite-log": (TfliteLog,),
    "ort-profile": (ProfiledRuns,),
    "trtexec": (TrtProfile, TrtLayers, TrtTimes, TrtLog),
    "ofa-yaml": (OfaTable,),
}
"""What can be imported, and what its files are read as."""
WITH_MODEL = frozenset(KINDS) - {"ofa-yaml"}
"""Formats whose files hold no shapes."""
UNCLOSED = 0.1
"""Layers further from the whole network than this are worth a word.

Those of the Pixel 1 are within 1 %.
"""
_NAMED = 3
"""Nodes that a finding names."""
_WAITING = frozenset({"CPU", "Xnnpack", "OpenVINO", "Dnnl", "ACL", "ArmNN"})
"""Execution providers of ONNX Runtime that return when they are done, without their last words.

Others only start their kernels: a profile then has how long that took.
"""
_THREADS = ("Num threads", "num_threads", "Number of threads")


def format_of(records: Sequence[tuple[str, Record]]) -> str:
    """Format of files that were read.

    Args:
        records: Name and content of each.

    Raises:
        UsageError: They are of several formats.
    """
    formats = {
        name: next(kind for kind, types in KINDS.items() if isinstance(record, types))
        for name, record in records
    }
    if len(set(formats.values())) > 1:
        listed = ", ".join(f"{name} ({kind})" for name, kind in formats.items())
        raise UsageError(
            f"files of several formats: {listed}; import those of each format by themselves"
        )
    return next(iter(formats.values()))


def read_network(
    records: Sequence[tuple[str, Record]],
    workload: Workload | None,
    *,
    target: str,
    threads: int | None,
) -> tuple[ForeignNetwork, tuple[Finding, ...]]:
    """The network that files of one format are about, and what to know of them.

    Args:
        records: Name and content of each file.
        workload: The network; None only where the files hold shapes.
        target: The hardware, for people.
        threads: Threads of the runtime, where the files do not tell.

    Raises:
        UsageError: A file that is needed is missing, the files are not of the model, or do not tell
            the threads and nobody did.
    """
    kind = format_of(records)
    contents = [record for _, record in records]
    findings = tuple(
        dict.fromkeys(finding for record in contents for finding in getattr(record, "findings", ()))
    )
    if kind == "ofa-yaml":
        network, left = _read_ofa(
            [record for record in contents if isinstance(record, OfaTable)],
            target=target,
            threads=threads,
        )
        text = (
            f"{left} of {left + sum(e.calls for e in network.entries)} rows are blocks, or do not"
            " say all that a layer is"
        )
        return network, (*findings, Finding("not_mapped", text)) if left else findings
    if workload is None:
        raise UsageError(
            f"files of {kind} hold no shapes",
            Argument("model", purpose="say what was measured, its widths included"),
        )
    if kind == "tflite-log":
        logs = [record for record in contents if isinstance(record, TfliteLog)]
        network = read_tflite(logs, workload, target=target, threads=threads)
        return network, (*findings, *_check_closure(network))
    left_out = LeftOut()
    if kind == "ort-profile":
        named = [(name, record) for name, record in records if isinstance(record, ProfiledRuns)]
        network = _read_ort(named, workload, left_out, target=target, threads=threads)
    else:
        network = _read_trt(records, workload, left_out, target=target, threads=threads)
    said = dict.fromkeys(left_out.findings)
    return network, (*findings, *said, *_check_closure(network))


def _check_closure(network: ForeignNetwork) -> tuple[Finding, ...]:
    """Whether the layers are not all there is, as a finding."""
    if network.whole_s is None or abs(network.rows_s / network.whole_s - 1) < UNCLOSED:
        return ()
    share = network.rows_s / network.whole_s
    text = (
        f"the layers sum to {share:.0%} of the whole network; profile on a device that does nothing"
        " else"
    )
    return (Finding("unclosed", text),)


def read_tflite(
    logs: Sequence[TfliteLog], workload: Workload, *, target: str, threads: int | None = None
) -> ForeignNetwork:
    """One network from repeated logs of `benchmark_model`.

    Raises:
        UsageError: The logs are not of the model, were made with different threads, or do not tell
            them and nobody did.
    """
    entries = join_tflite(logs, [layer.key for layer in _layers_as_they_begin(workload)])
    logged_threads = {log.source: _logged_threads(log) for log in logs}
    if len(set(logged_threads.values())) > 1:
        raise UsageError(
            f"logs made with different threads: {logged_threads}",
            Argument("name", change="another", purpose="import each by itself"),
        )
    phases = [log.timed or log.profiled for log in logs]
    whole_s = median(phase.mean_s for phase in phases if phase is not None) if any(phases) else None
    threads = _agree_on_threads(logged_threads[logs[0].source], threads, logs[0].source)
    files = tuple(log.source for log in logs)
    runtime = "TensorFlow Lite benchmark_model"
    return ForeignNetwork(
        workload.name,
        "tflite-log",
        files,
        entries,
        sum(entry.calls for entry in entries),
        whole_s,
        target,
        runtime,
        threads,
    )


def _layers_as_they_begin(workload: Workload) -> tuple[Layer, ...]:
    """List the layers of a network in the order in which they begin.

    A converter keeps that order; where they end depends on what is fused.
    """
    if workload.format == TFLITE:
        return keyed_layers_of(workload)
    graph = _load_graph(workload)
    places = {node.name: place for place, node in enumerate(graph.graph.node)}
    return tuple(sorted(layers(graph), key=lambda layer: places[layer.name]))


def _logged_threads(log: TfliteLog) -> int | None:
    parameters = dict(log.parameters)
    text = next((parameters[name] for name in _THREADS if name in parameters), "")
    return int(text) if re.fullmatch("0*[1-9][0-9]{0,8}", text) else None


def _agree_on_threads(logged: int | None, asked: int | None, source: str) -> int:
    """Number of threads, from the file or from the user."""
    threads = asked if logged is None else logged
    if threads is None:
        raise UsageError(
            f"{source} does not tell the number of threads", Argument("threads", purpose="say it")
        )
    if asked not in {None, threads}:
        raise UsageError(
            f"{source} was made with {threads} threads, not {asked}",
            Argument("threads", change="no"),
        )
    return threads


def _read_ort(
    profiles: Sequence[tuple[str, ProfiledRuns]],
    workload: Workload,
    left_out: LeftOut,
    *,
    target: str,
    threads: int | None,
) -> ForeignNetwork:
    for name, runs in profiles:
        for provider in sorted(set(runs.providers.values())):
            if provider.removesuffix("ExecutionProvider") not in _WAITING:
                raise UsageError(
                    f"{name} holds how long {provider} took to launch its kernels, not how long"
                    " these ran; profile with the tool of that hardware (trtexec --exportProfile)"
                )
    graph = _load_graph(workload)
    model = rename_as_in_file(graph, workload.node_names)
    renamed = {
        ours.name: node.name for ours, node in zip(graph.graph.node, model.graph.node, strict=True)
    }
    names = {name: renamed.get(node, "") for name, node in workload.node_names.items()}
    nameless = [node for name, node in names.items() if name.startswith(NAMELESS)]
    origins = find_executed(model, nameless)
    joined = [
        join_rows(
            explain_rows(runs, name, origins, names),
            model,
            name,
            node_names=names,
            left_out=left_out,
        )
        for name, runs in profiles
    ]
    left_out.findings += _find_profiled_bodies([runs for _, runs in profiles])
    whole_s = median(value_s for _, runs in profiles for value_s in runs.whole_s[WARM_UP:])
    files = tuple(name for name, _ in profiles)
    threads = _agree_on_threads(None, threads, files[0])
    entries = _merge_entries(
        [[_reduce_to_median(entry) for entry in entries] for entries in joined]
    )
    return ForeignNetwork(
        workload.name,
        "ort-profile",
        files,
        entries,
        len(layers(graph)),
        whole_s,
        target,
        "onnxruntime profile",
        threads,
        left_out.groups_s / len(profiles),
    )


def _find_profiled_bodies(profiles: Sequence[ProfiledRuns]) -> tuple[Finding, ...]:
    """Whether branches and loops hold the profiler's cost of the nodes inside, as a finding.

    What an entry cost on the machine that wrote the profile is not in the profile.
    """
    names = dict.fromkeys(name for runs in profiles for name in runs.entries)
    if not names:
        return ()
    listed = ", ".join(list(names)[:_NAMED])
    if len(names) > _NAMED:
        listed += f" and {len(names) - _NAMED} more"
    inside = max(sum(runs.entries.values()) - len(runs.entries) for runs in profiles)
    text = (
        f"the times of {listed} hold what the profiler cost for the {inside} nodes that"
        " ran inside, which the file does not tell; hwbench profile takes it off"
    )
    return (Finding("profiled_bodies", text),)


def _read_trt(
    records: Sequence[tuple[str, Record]],
    workload: Workload,
    left_out: LeftOut,
    *,
    target: str,
    threads: int | None,
) -> ForeignNetwork:
    files = tuple(name for name, _ in records)
    by_type = {type(record): record for _, record in records}
    profile, engine = by_type.get(TrtProfile), by_type.get(TrtLayers)
    if len(by_type) < len(records) or not isinstance(profile, TrtProfile):
        raise UsageError(
            f"{', '.join(files)}: expected one file of trtexec --exportProfile, and at most one"
            " each of --exportLayerInfo, --exportTimes and the log"
        )
    rows = trt_rows(profile, engine if isinstance(engine, TrtLayers) else None)
    graph = _load_graph(workload)
    entries = join_rows(
        rows, graph, profile.source, node_names=workload.node_names, left_out=left_out
    )
    times, log = by_type.get(TrtTimes), by_type.get(TrtLog)
    whole_s = median(times.compute_s) if isinstance(times, TrtTimes) else None
    whole_s = log.compute.median_s if isinstance(log, TrtLog) and whole_s is None else whole_s
    version = log.version if isinstance(log, TrtLog) else None
    runtime = version or "TensorRT trtexec"
    return ForeignNetwork(
        workload.name,
        "trtexec",
        files,
        entries,
        len(layers(graph)),
        whole_s,
        target,
        runtime,
        threads or 1,
        left_out.groups_s,
    )


def _read_ofa(
    tables: Sequence[OfaTable], *, target: str, threads: int | None
) -> tuple[ForeignNetwork, int]:
    joined = [join_ofa(table) for table in tables]
    entries = _merge_entries([list(rows) for rows, _ in joined])
    files = tuple(table.source for table in tables)
    if not entries:
        raise UsageError(
            f"no row of {', '.join(files)} says all that a layer is (blocks and convolutions"
            " without a kernel are left out), so there is nothing to import",
            Call("build_table", {"model": None, "device": None}, purpose="measure the layers"),
        )
    threads = _agree_on_threads(None, threads, files[0])
    network = ForeignNetwork(
        "",
        "ofa-yaml",
        files,
        entries,
        len(entries),
        None,
        target,
        "once-for-all latency table",
        threads,
    )
    return network, sum(left for _, left in joined)


def _reduce_to_median(entry: ForeignEntry) -> ForeignEntry:
    """One average per call of a file: inferences of one session are no repeats of it."""
    return ForeignEntry(entry.key, (entry.median_s,) * entry.calls, entry.calls)


def _merge_entries(joined: Sequence[Sequence[ForeignEntry]]) -> tuple[ForeignEntry, ...]:
    """Entries of several files about the same layers."""
    merged: dict[str, ForeignEntry] = {}
    for entry in chain.from_iterable(joined):
        known = merged.get(str(entry.key))
        if known is not None:
            samples_s = (*known.samples_s, *entry.samples_s)
            merged[str(entry.key)] = ForeignEntry(entry.key, samples_s, known.calls)
        else:
            merged[str(entry.key)] = entry
    return tuple(merged.values())


def _load_graph(workload: Workload) -> ModelProto:
    return load(workload.onnx)
