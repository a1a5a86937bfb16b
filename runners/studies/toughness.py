"""Hostile and damaged files through hwbench: what comes of each, and what time and memory it takes.

Four parts: ONNX files through the reader, some of them through the command, files of torch, and
tables and logs. Each has a journal with a row a file, from which a study that was stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import IO, Any, NamedTuple

from hwbench.errors import HwbenchError
from runners.studies._results import RESULTS, save_study

FOLDER = RESULTS / "toughness"
SLOW_S, LARGE_BYTES = 30.0, 2 << 30
"""Processor time and resident memory beyond which a file took too much."""
COUNTS = {"mutants": 20_000, "commands": 1_000, "torch": 1_000, "tables": 10_000}
_INPUT = "1x3x8x8"
_TORCH_INPUT = "1x3x16x16"


class Outcome(NamedTuple):
    """What came of one file.

    Attributes:
        kind: How the file was made.
        outcome: The kind of answer and its exit code; or what is wrong: a fault, a mark, more than
            one line.
        wall_s: Time by the clock.
        used_s: Processor time of the process that read it.
        peak_bytes: The most memory that this process held, libraries included.
    """

    kind: str
    outcome: str
    wall_s: float
    used_s: float
    peak_bytes: int

    @property
    def is_wrong(self) -> bool:
        """Whether this is not how a file may end."""
        return self.outcome.startswith("wrong")


def make_onnx(seed: int) -> tuple[str, bytes]:
    """Make the ONNX file of a seed: of the two good networks, varied or mutated."""
    from tests.support.hostile_onnx import mutate, seed_model, vary, wide_seed_model

    random = Random(seed)
    model = random.choice([seed_model, wide_seed_model])()
    kind = random.choices(["variation", "fields", "bytes"], [75, 15, 10])[0]
    if kind == "variation":
        return kind, vary(model, random).SerializeToString()
    if kind == "fields":
        return kind, mutate(model, random).SerializeToString()
    data = bytearray(model.SerializeToString())
    for _ in range(random.randint(1, 6)):
        data[random.randrange(len(data))] = random.randrange(256)
    return kind, bytes(data)


def name_error(error: Exception) -> str:
    """Name how a file ended, by the error that it raised."""
    if not isinstance(error, HwbenchError):
        return f"wrong: {type(error).__name__}"
    if len(str(error).splitlines()) != 1:
        return "wrong: more than one line"
    if error.exit_code not in {2, 3, 4}:
        return f"wrong: {type(error).__name__}, code {error.exit_code}"
    return f"{type(error).__name__}, code {error.exit_code}"


class ReaderUsage:
    """What the workers of the reader used, as the reader says beside each answer."""

    def __init__(self) -> None:
        from hwbench.network.intake import reader

        receive = reader._receive  # noqa: SLF001 - nothing else sees the answers whole

        def record(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
            answer, artifact = receive(stream)
            self.used_s, self.peak_bytes = answer["used_s"], answer["peak_bytes"]
            return answer, artifact

        self.used_s, self.peak_bytes = 0.0, 0
        reader._receive = record  # noqa: SLF001


def read_onnx(seed: int, folder: Path, usage: ReaderUsage) -> Outcome:
    """Read the ONNX file of a seed."""
    from hwbench.network.intake import load_workload

    kind, data = make_onnx(seed)
    path = folder / "mutant.onnx"
    path.write_bytes(data)
    before = time.monotonic()
    try:
        load_workload(path, inputs=[_INPUT])
        outcome = "workload"
    except Exception as error:  # noqa: BLE001 - that it is always ours is what is studied
        outcome = name_error(error)
    return Outcome(kind, outcome, time.monotonic() - before, usage.used_s, usage.peak_bytes)


def read_torch(seed: int, folder: Path, usage: ReaderUsage) -> Outcome:
    """Read the file of torch of a seed, and look for a mark that code of it would leave."""
    from hwbench.network.intake import load_workload
    from tests.support.hostile_torch import make_mutant

    with TemporaryDirectory(dir=folder) as name:
        own = Path(name)
        mark = own / "mark"
        kind, path = make_mutant(own, mark, Random(seed))
        left = set(own.iterdir())
        before = time.monotonic()
        try:
            load_workload(path, inputs=[_TORCH_INPUT])
            outcome = "workload"
        except Exception as error:  # noqa: BLE001 - that it is always ours is what is studied
            outcome = name_error(error)
        wall_s = time.monotonic() - before
        if set(own.iterdir()) != left:
            outcome = "wrong: a mark"
    return Outcome(kind, outcome, wall_s, usage.used_s, usage.peak_bytes)


def run_forked(work: Callable[[], int], output: Path) -> tuple[int, float, float, int]:
    """Run something in a fork of this process.

    Args:
        work: What is run; its number is the exit code.
        output: The file that takes what is printed.

    Returns:
        The exit code, by the convention of shells (128 and more for signals), and what it used.
    """
    before = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        code = 128 - code
    used_s = used.ru_utime + used.ru_stime
    return code, time.monotonic() - before, used_s, used.ru_maxrss * 1024


def run_command(seed: int, folder: Path, _usage: None) -> Outcome:
    """Profile the ONNX file of a seed on the virtual device, by the command."""
    from hwbench.cli import main
    from hwbench.network.intake import reader

    # Twenty files were read for each one here.
    kind, data = make_onnx(seed * (COUNTS["mutants"] // COUNTS["commands"]))
    path, output = folder / "mutant.onnx", folder / "output"
    path.write_bytes(data)
    words = ["profile", str(path), "--input", _INPUT, "--device", "virtual", "--budget", "1"]
    words += ["--store", str(folder / "store.db")]

    def work() -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = main(words)
        # The end of a process does this, which a fork leaves out.
        reader._READER.stop()  # noqa: SLF001
        return code

    code, wall_s, used_s, peak_bytes = run_forked(work, output)
    lines = len(output.read_text(errors="replace").splitlines())
    outcome = f"code {code}"
    if code not in {0, 2, 4}:
        outcome = f"wrong: code {code}"
    elif lines != (code != 0):
        outcome = f"wrong: {lines} lines, code {code}"
    return Outcome(kind, outcome, wall_s, used_s, peak_bytes)


def read_table(seed: int, folder: Path, _usage: None) -> Outcome:
    """Read and use the table or log of a seed."""
    from hwbench.lookup_tables.exchange import foreign_files, portable
    from tests.support.hostile_tables import make_log, make_table, use

    random = Random(seed)
    path = folder / "mutant"
    is_table = random.random() < 0.5
    kind, data = make_table(random) if is_table else make_log(random)
    path.write_bytes(data)

    def work() -> int:
        try:
            if is_table:
                table = portable.read_table(path)
                table.check_usable()
                use(table, report=seed % 20 == 0)
            else:
                foreign_files.read(path)
        except Exception as error:  # noqa: BLE001 - that it is always ours is what is studied
            print(name_error(error))
        else:
            print("read")
        return 0

    code, wall_s, used_s, peak_bytes = run_forked(work, folder / "output")
    outcome = (folder / "output").read_text().strip()
    if code != 0:
        outcome = f"wrong: code {code}"
    return Outcome(kind, outcome, wall_s, used_s, peak_bytes)


def preload_command() -> None:
    """Import what the command does, so that a fork costs no import."""
    import onnx.checker
    import onnx.helper
    import onnx.shape_inference  # noqa: F401


PARTS: dict[str, tuple[Callable[[int, Path, Any], Outcome], Callable[[], Any]]] = {
    "mutants": (read_onnx, ReaderUsage),
    "commands": (run_command, preload_command),
    "torch": (read_torch, ReaderUsage),
    "tables": (read_table, lambda: None),
}
"""Name -> what is done with the file of a seed, and what is made ready for all of them."""


def read_journal(part: str) -> dict[int, Outcome]:
    """Read what earlier runs of a part kept, by seed; a last row that was cut short is left out."""
    journal = FOLDER / f"{part}.csv"
    outcomes: dict[int, Outcome] = {}
    if journal.exists():
        with journal.open(newline="") as file:
            for row in csv.reader(file):
                if len(row) == 6 and row[5].endswith("e"):
                    peak_bytes = int(float(row[5][:-1]) * 1e6)
                    seconds = float(row[3]), float(row[4])
                    outcomes[int(row[0])] = Outcome(row[1], row[2], *seconds, peak_bytes)
    return outcomes


def write_row(writer: Any, seed: int, outcome: Outcome) -> None:
    """Write one row of a journal; its last letter says that it is whole."""
    kind, text, wall_s, used_s, peak_bytes = outcome
    writer.writerow(
        [seed, kind, text, f"{wall_s:.3f}", f"{used_s:.3f}", f"{peak_bytes / 1e6:.1f}e"]
    )


def run_part(part: str, seeds: range) -> dict[int, Outcome]:
    """Go through the files of a part that its journal does not hold yet."""
    outcomes = read_journal(part)
    work, prepare = PARTS[part]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, (FOLDER / f"{part}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        for seed, outcome in sorted(outcomes.items()):
            write_row(writer, seed, outcome)
        file.flush()
        prepared = prepare()
        for seed in seeds:
            if seed in outcomes:
                continue
            outcomes[seed] = work(seed, Path(folder), prepared)
            write_row(writer, seed, outcomes[seed])
            file.flush()
            if outcomes[seed].is_wrong:
                print(f"{part} {seed}: {outcomes[seed]}", flush=True)
    return outcomes


def summarise(part: str, outcomes: list[Outcome]) -> dict[str, object]:
    """Summarise a part in one row of the table."""
    return {
        "part": part,
        "files": len(outcomes),
        "faults, marks": sum(outcome.is_wrong for outcome in outcomes),
        "over 30 s": sum(outcome.used_s > SLOW_S for outcome in outcomes),
        "over 2 GB": sum(outcome.peak_bytes > LARGE_BYTES for outcome in outcomes),
        "longest (processor s)": f"{max(outcome.used_s for outcome in outcomes):.1f}",
        "longest (clock s)": f"{max(outcome.wall_s for outcome in outcomes):.1f}",
        "largest (MB)": f"{max(outcome.peak_bytes for outcome in outcomes) / 1e6:.0f}",
    }


def list_outcomes(results: dict[str, list[Outcome]]) -> str:
    """List how many files of each part ended how."""
    lines = []
    for part, outcomes in results.items():
        counts = Counter(outcome.outcome for outcome in outcomes)
        listing = ", ".join(f"{name}: {count}" for name, count in counts.most_common())
        lines.append(f"- {part}: {listing}")
    kinds: dict[str, set[str]] = defaultdict(set)
    for part, outcomes in results.items():
        kinds[part] |= {outcome.kind for outcome in outcomes}
    lines += [f"- kinds of {part}: {', '.join(sorted(names))}" for part, names in kinds.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=sorted(PARTS), help="run this one, and write no summary")
    parser.add_argument("--first", type=int, default=0, help="seed of the first file")
    parser.add_argument("--step", type=int, default=1, help="distance of seeds")
    parser.add_argument("--share", type=float, default=1.0, help="share of the files")
    parser.add_argument("--summary", action="store_true", help="sum up what the journals hold")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results = {}
    for part, count in COUNTS.items():
        if options.summary:
            results[part] = list(read_journal(part).values())
        elif options.part in {None, part}:
            seeds = range(options.first, round(count * options.share), options.step)
            results[part] = list(run_part(part, seeds).values())
    if options.part is not None:
        return
    results = {part: outcomes for part, outcomes in results.items() if outcomes}
    rows = [summarise(part, outcomes) for part, outcomes in results.items()]
    everything = [outcome for outcomes in results.values() for outcome in outcomes]
    wrong = sum(outcome.is_wrong for outcome in everything)
    slow = sum(outcome.used_s > SLOW_S for outcome in everything)
    large = sum(outcome.peak_bytes > LARGE_BYTES for outcome in everything)
    save_study(
        "toughness",
        question="Does any hostile or damaged file end in something else than its use or one line,"
        " run code, or take more than 30 s and 2 GB?",
        rows=rows,
        command="python -m runners.studies.toughness",
        answer=f"Of {len(everything):,} files {wrong} did end otherwise or ran code, {slow} took"
        f" over {SLOW_S:g} s of processor time and {large} over 2 GB.",
        notes=list_outcomes(results)
        + "\n\nWhat is made of each file is in `tests/support/hostile_onnx.py`, `hostile_torch.py`,"
        " `hostile_models.py` and `hostile_tables.py`. Time and memory are those of the process"
        " that reads the file; of commands, those of all their processes together. `mutants.csv`,"
        " `commands.csv`, `torch.csv` and `tables.csv` have a row each: seed, kind, outcome,"
        " seconds by the clock, seconds of the processor, peak resident memory in MB.",
    )


if __name__ == "__main__":
    main()
