"""Mutated ONNX files through the reader of model files: what comes of each, how long it takes."""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from hwbench.errors import HwbenchError
from hwbench.network.intake import load_workload
from runners.studies._results import RESULTS, save_study
from tests.support.hostile_onnx import mutate, seed_model

JOURNAL = RESULTS / "toughness" / "mutants.csv"
"""One row a mutant: seed, outcome and seconds; a study that was stopped goes on from it."""
SLOW_S = 30.0
"""Time beyond which a file counts as a hang."""


def read_mutant(path: Path, seed: int) -> str:
    """Write the mutant of a seed to `path`, read it, and name what came of it."""
    path.write_bytes(mutate(seed_model(), Random(seed)).SerializeToString())
    try:
        load_workload(path, inputs=["1x3x8x8"])
    except HwbenchError as error:
        if len(str(error).splitlines()) != 1:
            return "more than one line"
        return f"{type(error).__name__}, code {error.exit_code}"
    except Exception as error:  # noqa: BLE001 - that this never happens is what is studied
        return f"fault: {type(error).__name__}"
    return "workload"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="number of mutants in all")
    count = parser.parse_args().count
    JOURNAL.parent.mkdir(parents=True, exist_ok=True)
    rows: list[list[str]] = []
    if JOURNAL.exists():
        with JOURNAL.open(newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == 3]  # the last may be cut short
    with TemporaryDirectory() as folder, JOURNAL.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(rows)
        for seed in range(len(rows), count):
            before = time.monotonic()
            outcome = read_mutant(Path(folder) / "mutant.onnx", seed)
            rows.append([str(seed), outcome, f"{time.monotonic() - before:.3f}"])
            writer.writerow(rows[-1])
            file.flush()
    outcomes = Counter(row[1] for row in rows)
    seconds = sorted(float(row[2]) for row in rows)
    bad = sum(number for name, number in outcomes.items() if "fault" in name or "line" in name)
    slow = sum(second > SLOW_S for second in seconds)
    save_study(
        "toughness",
        question="Does any damaged ONNX file end in something else than a workload or one line?",
        rows=[{"outcome": name, "files": number} for name, number in outcomes.most_common()],
        command=f"python -m runners.studies.toughness --count {count}",
        answer=f"{bad} of {len(rows)} mutants did, and {slow} took over {SLOW_S:g} s (median"
        f" {seconds[len(seconds) // 2]:.2f} s, longest {seconds[-1]:.1f} s).",
        notes="Each mutant is a small good network with one to four fields changed, dropped or"
        " doubled anywhere in it (`tests/support/hostile_onnx.py`). `mutants.csv` has a row each.",
    )


if __name__ == "__main__":
    main()
