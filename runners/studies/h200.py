"""Everything about one NVIDIA GPU through torch, in one go of at most 8 minutes.

    python -m runners.studies.h200 [GPU]

It runs on a bare machine: a driver, torch with CUDA, numpy, scipy and onnx; no network, no store,
no command line of hwbench. Each part writes its raw samples to results/h200/ as soon as it is done,
so a run that is cut short leaves what it had. The table's part only measures pruned networks; what
a table fitted on them predicts is worked out later, where there is time.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from hwbench.devices.base import Device
from hwbench.devices.nvidia.cuda import Cuda
from hwbench.devices.shared.chains import chain_workload
from hwbench.errors import HwbenchError
from hwbench.lookup_tables.making.networks import (
    Effort,
    PrunedNetwork,
    Quiet,
    measure_network,
)
from hwbench.lookup_tables.making.proposals import Grid, propose_first
from hwbench.measuring.sessions import measure, measure_interleaved
from hwbench.network.graph import count, load
from hwbench.network.intake import half, onnx_files, onnx_normalise
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.workload import Workload
from hwbench.records.measurement import Measurement, Settings
from runners.studies._results import RESULTS, markdown

Row = dict[str, Any]
SETTINGS = Settings(budget_s=20, layers=False)
QUICK = replace(SETTINGS, budget_s=4, min_sessions=4, session_s=0.3)
SENSITIVE = replace(SETTINGS, min_effect=0.005, target=0.004)
NETWORKS = ("resnet18", "mobilenet_v2", "mobilenet_v1", "resnet50", "vgg16", "resnet20")
PRECISIONS = ("fp32", "fp16", "bf16")
BATCHES = (1, 32)
AA_MODEL, TABLE_MODEL = "resnet18", "resnet18"
CHAIN = 100
"""Convolutions of the sensitivity test; one fewer is 1 % faster, as all are alike."""
TRAIN, HELD_OUT = 100, 40
LOOPS, TURNS = 50, 12
SECONDS = {
    "fidelity": 40,
    "layers": 40,
    "selftest": 80,
    "sensitivity": 90,
    "latencies": 110,
    "table": 110,
}
"""Of each part at most, 470 in all; a part ends before a step that does not fit."""


def network(
    name: str, batch: int = 1, precision: str = "fp32", size: int | None = None
) -> Workload:
    """A network of the zoo as a workload.

    ONNX Runtime, which checks an export elsewhere, is not needed.
    """
    import torch

    from hwbench.network import zoo

    channels, height, width = (3, size, size) if size else zoo.input_shape(name)[1:]
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = torch.zeros(batch, channels, height, width)
        export: Any = torch.onnx.export  # takes a buffer too, which its types do not say
        export(zoo.build(name), (image,), buffer, opset_version=18, dynamo=False)
    model = onnx_files.parse(buffer.getvalue(), Path(name))
    onnx_normalise.normalise_graph(model, name, exported=True)
    model = load(model.SerializeToString())
    model = model if precision == "fp32" else half.halve(model, name, precision)
    data, counts = onnx_files.serialise(model, name), count(model)
    return Workload(
        f"zoo:{name}",
        data,
        onnx_files.input_specs(model, name),
        batch,
        precision,
        counts.macs,
        counts.params,
        len(data),
    )


def fidelity(address: str, until: float) -> list[Row]:
    """The driver's median against a bare loop over a CUDA graph of the same module, in turns."""
    rows = []
    with Cuda(address) as device:
        for name in NETWORKS:
            workload = network(name)
            prepared, bare = device.prepare(workload, SETTINGS), bare_loop(workload)
            turns = [
                (median(device.run([prepared] * 4, LOOPS).values_s), bare()) for _ in range(TURNS)
            ]
            ours, theirs = (median(values) for values in zip(*turns, strict=True))
            rows.append(
                {
                    "network": name,
                    "driver_s": ours,
                    "bare_s": theirs,
                    "ratio": ours / theirs,
                    "raw": turns,
                }
            )
            device.release(prepared)
            if time.monotonic() > until:
                break
    return rows


def bare_loop(workload: Workload) -> Callable[[], float]:
    """Seconds per inference of `LOOPS` replays of a CUDA graph between two events, written out with
    torch alone.
    """
    import torch

    from hwbench.devices.nvidia.torch_session import input_on_gpu, on_gpu, place
    from hwbench.network.torch_graph import to_torch

    cuda: Any = torch.cuda
    device, stream = place(0), cuda.Stream()
    module = on_gpu(to_torch(workload.onnx).module, device)
    inputs = [input_on_gpu(workload, at, 0, device) for at in range(len(workload.inputs))]
    graph, begin, end = (
        cuda.CUDAGraph(),
        cuda.Event(enable_timing=True),
        cuda.Event(enable_timing=True),
    )
    flags = torch.backends.cudnn.flags(
        enabled=True, benchmark=True, deterministic=False, allow_tf32=False
    )
    with torch.no_grad(), torch.cuda.stream(stream), flags:
        for _ in range(3):
            module(*inputs)
        stream.synchronize()
        graph.capture_begin(capture_error_mode="thread_local")
        kept = module(*inputs)
        graph.capture_end()

    def run(_: Any = kept) -> float:
        with torch.cuda.stream(stream):
            graph.replay()
            begin.record(stream)
            for _ in range(LOOPS):
                graph.replay()
            end.record(stream)
            stream.synchronize()
            while not end.query():
                pass
            return float(begin.elapsed_time(end)) * 1e-3 / LOOPS

    return run


def layers(address: str, until: float) -> list[Row]:
    """Do the layers add up to the whole?"""
    rows = []
    with Cuda(address) as device:
        for name in NETWORKS:
            record = measure(device, network(name), replace(QUICK, layers=True))
            profile = record.profile
            rows.append(
                {
                    "network": name,
                    "median_s": record.median_s,
                    "closure": record.closure,
                    "gap_s": profile.node_cost_s if profile else None,
                    "raw": record.to_dict(),
                }
            )
            if time.monotonic() > until:
                break
    return rows


def compared(device: Device, pair: Sequence[Workload], settings: Settings) -> Row:
    """One comparison: speed-up with its interval, the verdict, what it took."""
    start = time.monotonic()
    base, other = measure_interleaved(device, pair, settings)
    found = other.series.ratio_to(base.series)
    return {
        "seed": settings.seed,
        "ratio": found.ratio,
        "low": found.ci[0],
        "high": found.ci[1],
        "verdict": found.verdict(settings.min_effect).value,
        "seconds": time.monotonic() - start,
        "raw": [samples_of(base), samples_of(other)],
    }


def samples_of(record: Measurement) -> Row:
    """Raw samples with their sessions and blocks."""
    return {
        "samples_s": record.series.samples_s,
        "session": record.series.session,
        "block": record.series.block,
        "loops": record.loops,
    }


def repeated(address: str, until: float, pair: Sequence[Workload], settings: Settings) -> list[Row]:
    """Comparisons with ever new seeds until the time is up."""
    rows: list[Row] = []
    with Cuda(address) as device:
        while not rows or time.monotonic() + max(row["seconds"] for row in rows) < until:
            rows.append(compared(device, pair, replace(settings, seed=len(rows))))
    return rows


def selftest(address: str, until: float) -> list[Row]:
    """A/A: a network against itself."""
    return repeated(address, until, [network(AA_MODEL)] * 2, replace(SETTINGS, budget_s=10))


def sensitivity(address: str, until: float) -> list[Row]:
    """A chain of equal convolutions against one that is a convolution shorter: truly 1 % faster."""
    return repeated(
        address,
        until,
        [chain_workload(CHAIN), chain_workload(CHAIN - CHAIN // 100 or 1)],
        SENSITIVE,
    )


def latencies(address: str, until: float) -> list[Row]:
    """Median latency by network, batch, precision and mode; what cannot run is a row too."""
    cases = [
        ("eager", *case)
        for case in ((b, p, n) for b in BATCHES for p in PRECISIONS for n in NETWORKS)
    ]
    cases += [("compile", b, p, n) for n in NETWORKS[:2] for b in BATCHES for p in ("fp32", "fp16")]
    rows: list[Row] = []
    for mode in ("eager", "compile"):
        share = until if mode == "compile" else until - 0.4 * (until - time.monotonic())
        try:
            with Cuda(f"{address},mode={mode}") as device:
                for _, batch, precision, name in (case for case in cases if case[0] == mode):
                    if time.monotonic() + QUICK.budget_s > share:
                        break
                    record = measure(device, network(name, batch, precision), QUICK)
                    rows.append(
                        {
                            "network": name,
                            "batch": batch,
                            "precision": precision,
                            "mode": mode,
                            "median_s": record.median_s,
                            "raw": record.to_dict(),
                        }
                    )
        except HwbenchError as error:
            rows.append({"mode": mode, "error": str(error)})
    return rows


def table(address: str, until: float) -> list[Row]:
    """Random pruned networks, layer by layer and whole beside the unpruned one.

    The last are held out.
    """
    workload = network(TABLE_MODEL)
    whole = PrunableNetwork(workload)
    chosen = propose_first(
        Grid(whole.structure.widths, step=8, lower=0.2), TRAIN + HELD_OUT, seed=0
    )
    rows, quiet = [], Quiet()
    with Cuda(address) as device:
        anchor = device.prepare(workload, SETTINGS)
        for number in (
            place
            for pair in zip(range(TRAIN), range(TRAIN, 2 * TRAIN), strict=True)
            for place in pair
        ):
            if number >= len(chosen) or time.monotonic() > until:
                continue
            pruned = PrunedNetwork.of(whole, number, chosen[number])
            sample = measure_network(device, anchor, pruned, Effort(), quiet)
            rows.append(
                {
                    "number": number,
                    "held_out": number >= TRAIN,
                    "ratio": sample.ratio,
                    "raw": sample.to_dict(),
                }
            )
    return rows


PARTS: Mapping[str, Callable[[str, float], list[Row]]] = {
    part.__name__: part for part in (fidelity, layers, selftest, sensitivity, latencies, table)
}


def main(address: str = "0", folder: Path = RESULTS / "h200") -> None:
    """Run all parts and write raw data and README.md."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with Cuda(address) as device:
        about: Row = {
            "info": asdict(device.info()),
            "before": asdict(device.conditions()),
            "doctor": [*map(asdict, device.doctor())],
        }
    text = (
        f"# h200\n\nOne GPU through torch alone. {about['info']['target']},"
        f" {about['info']['runtime']}.\n"
    )
    for name, part in PARTS.items():
        start = time.monotonic()
        try:
            rows = part(address, start + SECONDS[name])
        except HwbenchError as error:
            rows = [{"error": str(error)}]
        with gzip.GzipFile(folder / f"{name}.json.gz", "wb", mtime=0) as packed:
            packed.write(json.dumps({"about": about, "rows": rows}).encode())
        shown = [
            {key: value for key, value in row.items() if key != "raw"}
            for row in rows
            if "error" not in row
        ][:40]
        errors = "".join(f"\n\n{row}" for row in rows if "error" in row)
        seconds = (
            f"{len(rows)} rows in {time.monotonic() - start:.0f} s; raw samples in seconds:"
            f" `{name}.json.gz`"
        )
        text += (
            "\n##"
            f" {name}\n\n{part.__doc__}\n\n"
            f"{markdown(shown) if shown else ''}{errors}\n\n{seconds}\n"
        )
        (folder / "README.md").write_text(text)
        print(name, seconds, flush=True)
    (folder / "README.md").write_text(
        f"{text}\nRepeat: `python -m runners.studies.h200` ({time.monotonic() - begun:.0f} s).\n"
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "0")
