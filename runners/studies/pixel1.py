"""Do two networks logged on a Google Pixel 1 predict the third end to end, and how far off are
single layers?

python -m runners.studies.pixel1
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from hwbench.lookup_tables import LayerPrediction, LookupTable
from hwbench.lookup_tables.exchange.foreign_network import ForeignNetwork
from hwbench.lookup_tables.exchange.foreign_table import table_of
from hwbench.lookup_tables.exchange.shipped import PIXEL1, pixel1_networks
from hwbench.lookup_tables.families import place_of
from hwbench.lookup_tables.surface import Surface
from hwbench.network.intake import load_workload
from runners.studies._results import count_macs, save_study


def main() -> None:
    """Leave each network out in turn and write results/pixel1/."""
    networks = dict(zip(PIXEL1.values(), pixel1_networks(), strict=True))
    macs = {
        name: float(count_macs(load_workload(network.model))) for name, network in networks.items()
    }
    rows, raw = [], {}
    for name, network in networks.items():
        rest = {other: known for other, known in networks.items() if other != name}
        table = table_of(tuple(rest.values()), "pixel1").extrapolating()
        parts, prediction = table.layers(network.keys), table.predict(network.keys)
        whole_s = _whole_s(network)
        by_macs_s = (
            float(np.mean([_whole_s(known) / macs[other] for other, known in rest.items()]))
            * macs[name]
        )
        rows.append(
            {
                "left out": name,
                "measured_ms": whole_s * 1e3,
                "predicted_ms": prediction.latency_s * 1e3,
                "error": prediction.latency_s / whole_s - 1,
                "interval_ms": " to ".join(f"{end_s * 1e3:.0f}" for end_s in prediction.ci_s),
                "families alone": _alone_s(table, network) / whole_s - 1,
                "MACs": by_macs_s / whole_s - 1,
                "extrapolated": f"{len(prediction.extrapolated)} of {len(parts)}",
                "rms_layer_error": _rms([_error(part, network) for part in parts]),
                "per_doubling": _per_doubling(table, parts, network),
            }
        )
        raw[name] = [
            {
                "key": str(p.key),
                "predicted_s": p.latency_s,
                "sd": p.sd,
                "measured_s": _measured_s(p, network),
            }
            for p in parts
        ]
    save_study(
        "pixel1",
        question=(
            "Three MobileNet-V1 networks were logged on a Google Pixel 1 with TensorFlow Lite's"
            " benchmark_model, three times each. A table of two of them predicts the third: how far"
            " is it off, end to end and layer by layer?"
        ),
        rows=rows,
        command="make study NAME=pixel1",
        notes=(
            "Families alone: each layer geometry is fitted by itself; otherwise what families of"
            " one kind have in common decides what two or three points leave open. MACs: latency"
            " in proportion to the multiply-accumulates. per_doubling: error of the layers outside"
            " the measured range over how many doublings of a width they are outside (root mean"
            " squares). The same layer in two of the networks differs by"
            f" {_same_layer(list(networks.values())):.1%} (root mean square)."
        ),
        raw=raw,
    )


def _whole_s(network: ForeignNetwork) -> float:
    if network.whole_s is None:
        raise RuntimeError(f"no end-to-end latency in {network.files}")
    return network.whole_s


def _measured_s(part: LayerPrediction, network: ForeignNetwork) -> float:
    return next(entry.median_s for entry in network.entries if entry.key == part.key)


def _error(part: LayerPrediction, network: ForeignNetwork) -> float:
    return math.log(part.latency_s / _measured_s(part, network))


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _alone_s(table: LookupTable, network: ForeignNetwork) -> float:
    """Latency of a network by surfaces that know nothing of each other."""
    surfaces = {
        family: Surface(points, table.steps[family.kind])
        for family, points in table.families.items()
    }
    places = [place_of(key) for key in network.keys]
    return float(
        sum(surfaces[p.family].at(np.array([p.cin]), np.array([p.cout]))[0][0] for p in places)
    )


def _per_doubling(
    table: LookupTable, parts: tuple[LayerPrediction, ...], network: ForeignNetwork
) -> float:
    beyond, errors = [], []
    for part in parts:
        place = place_of(part.key)
        low_in, high_in, low_out, high_out = table.surfaces[place.family].box
        sides = ((place.cin, low_in, high_in), (place.cout, low_out, high_out))
        away = math.hypot(
            *(max(math.log2(low / n), math.log2(n / high), 0.0) for n, low, high in sides)
        )
        if away:
            beyond.append(away)
            errors.append(_error(part, network))
    return _rms(errors) / _rms(beyond)


def _same_layer(networks: list[ForeignNetwork]) -> float:
    """Relative difference of layers that two networks share."""
    found = []
    for one, other in combinations(networks, 2):
        known = {
            entry.key: entry.median_s for entry in other.entries if entry.median_s > 1e-5
        }  # a reshape is one digit
        found += [
            math.log(entry.median_s / known[entry.key])
            for entry in one.entries
            if entry.key in known
        ]
    return _rms(found)


if __name__ == "__main__":
    main()
