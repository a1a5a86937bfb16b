"""How well do lookup tables predict pruned networks end to end, and how do older recipes do on the
same networks?

python -m runners.studies.tables [--device ADDRESS] [NETWORK ...]

Another device than `cpu` has results of its own. Where it runs no ONNX, networks are converted, and
recipes that measure layers alone are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hwbench.devices import open_device
from hwbench.devices.base import Device
from hwbench.lookup_tables import Plan, build, validate
from hwbench.lookup_tables.making.networks import Quiet
from hwbench.lookup_tables.making.validate import add_grade
from hwbench.network import zoo
from hwbench.network.intake import load_workload
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.workload import ONNX, Workload
from hwbench.records.measurement import Settings
from hwbench.workflows.defaults import GRADING_NETWORKS, TABLE_BUDGET_S
from hwbench.workflows.meter import in_format
from runners.studies._results import count_macs, load_raw, save_study
from runners.studies._table_baselines import forest, isolated, netadapt

NAME = "tables"
INPUTS = {
    "mobilenet_v1": "1x3x224x224",
    "mobilenet_v2": "1x3x160x160",
    "resnet18": "1x3x160x160",
    "vgg16": "1x3x64x64",
}
HELD_OUT, SESSIONS = 50, 4
BUDGETS_S = {"resnet18": 90.0, "vgg16": 90.0}
"""Networks that take tens of milliseconds are given more time than the default, to be measured in
as many pruned versions.
"""
PLAN = Plan()
PATIENCE = 10
"""Batches of turns that a network may take until enough were quiet."""

Floats = NDArray[np.float64]


def main() -> None:
    """Build and validate a table of each network.

    Write results/tables/, or results/tables_DRIVER/ for another device, where networks not asked
    for stay as they are.
    """
    parser = argparse.ArgumentParser(description="Lookup tables against networks they never saw.")
    parser.add_argument("--device", default="cpu", help="Address of the device.")
    parser.add_argument(
        "networks", nargs="*", help=f"Of {', '.join(INPUTS)}; all if none is given."
    )
    given = parser.parse_args()
    driver = given.device.partition(":")[0]
    name = NAME if driver == "cpu" else f"{NAME}_{driver}"
    raw: dict[str, Any] = load_raw(name) if given.networks else {}
    for network in given.networks or INPUTS:
        with open_device(given.device) as device:
            workload = in_format(_workload(network), device, Settings())
            raw[network] = study(device, network, workload)
        # An hour's work is not lost with its last network.
        _save({known: raw[known] for known in INPUTS if known in raw}, name, given.device)


def _save(raw: Mapping[str, Any], name: str, address: str) -> None:
    trials = [trial for kept in raw.values() for trial in kept["trials"]]
    measured_s = np.array([median(trial["sessions_s"]) for trial in trials])
    numbers = _numbers(np.array([trial["predicted_s"] for trial in trials]), measured_s)
    low_s, high_s = np.array([trial["ci_s"] for trial in trials]).T
    covered = float(np.mean((low_s <= measured_s) & (measured_s <= high_s)))
    total = _row(f"all {len(trials)}", "hwbench", numbers | {"rank": "-", "coverage": covered})
    command = f"make study NAME={NAME}"
    if name != NAME:
        command = f"python -m runners.studies.{NAME} --device {address}"
    save_study(
        name,
        question=(
            "How well do lookup tables predict randomly pruned networks that they have not seen,"
            " end to end? Errors of ratios to the unpruned network, measured interleaved; the truth"
            " is the median of four sessions. Noise is the mean difference of two sessions of one"
            " network, rank_floor the rank correlation of two sessions of all."
        ),
        rows=[*(row for kept in raw.values() for row in kept["rows"]), total],
        command=command,
        notes=(
            "build_s holds the build, and the validation with ten networks that comes with it."
            " MACs: latency of the unpruned network times the ratio of MACs. Isolated: sum of the"
            " layers, each measured alone. NetAdapt: layers measured alone on a grid of widths and"
            " interpolated by cubic radial basis functions (Yang et al., 2018). Forest: a random"
            " forest per kind of layer on the table's own samples (nn-Meter, Zhang et al., 2021)."
            " The last three are scaled to the unpruned network."
        ),
        raw=raw,
    )


def _workload(network: str) -> Workload:
    """The network at its input; VGG-16 with the one linear layer that fits a reduced one."""
    if network != "vgg16":
        return load_workload(f"zoo:{network}", inputs=(INPUTS[network],))
    module = zoo.build("vgg16")
    module.classifier = nn.Linear(512 * 2 * 2, 10)
    return load_workload(module, inputs=(INPUTS[network],))


def study(device: Device, network: str, workload: Workload) -> dict[str, object]:
    """What is kept of one network: its rows, its trials and what the table says of itself."""
    from scipy.stats import spearmanr

    prunable = PrunableNetwork(workload)
    structure = prunable.structure
    settings = Settings(budget_s=BUDGETS_S.get(network, TABLE_BUDGET_S), seed=0)
    quiet = Quiet(recent=100_000, batches=PATIENCE)
    start = time.monotonic()
    fitted = build(device, workload, settings, plan=PLAN, quiet=quiet)
    table = add_grade(
        fitted.table,
        validate(device, fitted.table, workload, settings, networks=GRADING_NETWORKS, quiet=quiet),
    )
    build_s = time.monotonic() - start
    held_out = replace(settings, seed=1)
    outcome = validate(
        device, table, workload, held_out, networks=HELD_OUT, sessions=SESSIONS, quiet=quiet
    )
    grade = outcome.grade
    chosen = [trial.widths for trial in outcome.trials]
    measured_s = np.array([trial.measured_s for trial in outcome.trials])
    level_s = table.provenance.sources[0].latency_s
    rivals: dict[str, Callable[[], tuple[Floats, float]]] = {
        "MACs": lambda: (
            np.array([float(count_macs(prunable.version(w))) for w in chosen]),
            float(count_macs(workload)),
        ),
        "forest": lambda: forest(table, structure, chosen),
    }
    if ONNX in device.formats:
        rivals |= {
            "isolated": lambda: isolated(device, structure, chosen, settings),
            "NetAdapt": lambda: netadapt(device, structure, chosen, settings),
        }
    networks = table.provenance.sources[0].networks
    floor = float(
        spearmanr(*np.array([trial.sessions_s[:2] for trial in outcome.trials]).T).statistic
    )
    rows = [
        _row(
            network,
            "hwbench",
            asdict(grade) | {"rank_floor": floor},
            networks=networks,
            build_s=build_s,
        )
    ]
    for name, rival in rivals.items():
        start = time.monotonic()
        values, whole = rival()
        rows.append(
            _row(
                network,
                name,
                _numbers(values / whole * level_s, measured_s),
                build_s=time.monotonic() - start,
            )
        )
    trials = [
        {
            "widths": t.widths,
            "predicted_s": t.prediction.latency_s,
            "ci_s": t.prediction.ci_s,
            "sessions_s": t.sessions_s,
        }
        for t in outcome.trials
    ]
    return {
        "rows": rows,
        "trials": trials,
        "table": table.to_dict()["metadata"],
        "drift": outcome.drift,
    }


def _numbers(predicted_s: Floats, measured_s: Floats) -> dict[str, float]:
    from scipy.stats import spearmanr

    errors = predicted_s / measured_s - 1
    return {
        "mean_error": float(np.abs(errors).mean()),
        "p95_error": float(np.quantile(np.abs(errors), 0.95)),
        "rmspe": float(np.sqrt((errors**2).mean())),
        "within_5": float((np.abs(errors) <= 0.05).mean()),
        "within_10": float((np.abs(errors) <= 0.1).mean()),
        "rank": float(spearmanr(predicted_s, measured_s).statistic),
    }


def _row(
    network: str,
    method: str,
    numbers: Mapping[str, float | str],
    networks: int | str = "-",
    build_s: float = 0.0,
) -> dict[str, object]:
    names = (
        "mean_error",
        "p95_error",
        "rmspe",
        "within_5",
        "within_10",
        "rank",
        "rank_floor",
        "coverage",
        "noise",
    )
    shown = {name: numbers.get(name, "-") for name in names}
    return {
        "network": network,
        "method": method,
        "built on": networks,
        "build_s": round(build_s, 1),
        **shown,
    }


if __name__ == "__main__":
    main()
