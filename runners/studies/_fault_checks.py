"""What the runner on the phone really printed, against what hwbench kept: every number, and whose
it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hwbench.devices.base import Samples
from hwbench.devices.shared.chains import chain_workload
from hwbench.devices.shared.ort.executed_graph import block_workload
from hwbench.lookup_tables import Plan
from hwbench.lookup_tables.making.journal import RECORD
from hwbench.lookup_tables.making.networks import (
    Effort,
    NetworkSample,
    Quiet,
    measure_turns,
)
from hwbench.lookup_tables.making.proposals import Grid, propose_first
from hwbench.network.intake import load_workload
from hwbench.network.prunable import PrunableNetwork
from hwbench.records.measurement import Settings
from hwbench.store import Store, open_store
from tests.devices.android.pyadbd import Talk

STEP, LOWER = 4, 0.25
"""Of the tables."""


class WrongError(Exception):
    """What was kept is not what was printed."""


@dataclass(frozen=True)
class Rounds:
    """One answer of the runner with latencies.

    Attributes:
        whose: SHA-256 of each round's model.
        values_s: Seconds per inference of each round.
    """

    whose: tuple[str, ...]
    values_s: tuple[float, ...]


def printed(talks: Sequence[Talk]) -> list[Rounds]:
    """All timed rounds in the order in which they were printed, but those of profiled sessions, of
    hwbench's own networks, and of other inputs, which are compared once and not kept.
    """
    own = {block_workload().sha256, *(workload.sha256 for workload in map(chain_workload, (6, 30)))}
    rounds = [
        item for talk in list(talks) if "hwbench_runner" in talk.command for item in _rounds(talk)
    ]
    return [item for item in rounds if "" not in item.whose and not own & set(item.whose)]


def _rounds(talk: Talk) -> Iterator[Rounds]:
    models: dict[str, str] = {}
    profiled = False
    events = _events(bytes(talk.said))
    next(events, None)  # its greeting
    for line, event in zip(_lines(bytes(talk.heard)), events, strict=False):
        command, _, value = line.partition(" ")
        if command == "profile":
            profiled = value != "-"
        elif command == "load" and event["event"] == "loaded":
            name, _, path = value.partition(" ")
            models[name] = "" if profiled else Path(path).stem
        elif command == "draw":
            models[value.partition(" ")[0]] = ""
        elif command == "run" and event["event"] == "samples":
            loops, *names = value.split(" ")
            values_s = tuple(ns / (int(loops) * 1e9) for ns in event["ns"])
            yield Rounds(tuple(models[name] for name in names), values_s)


def _lines(heard: bytes) -> Iterator[str]:
    """The lines of a plan, without the contents of files."""
    while b"\n" in heard:
        line, _, heard = heard.partition(b"\n")
        if line.startswith(b"put "):
            heard = heard[int(line.split(b" ")[1]) :]
        yield line.decode()


def _events(said: bytes) -> Iterator[dict[str, Any]]:
    """The events of a runner, without the contents of files; the last one may be cut."""
    while b"\n" in said:
        line, _, said = said.partition(b"\n")
        event = json.loads(line)
        if event["event"] == "file":
            said = said[event["bytes"] :]
        yield event


def check_measurements(store: Store, rounds: Sequence[Rounds], *, complete: bool) -> int:
    """Compare the samples of every measurement of a store, warm-up too, with what was printed for
    its model.

    Returns:
        How many samples there are.

    Raises:
        WrongError: They differ, some are missing from a complete use, or a record says that it is
            complete and is not.
    """
    kept = 0
    for summary in store.list():
        record = store.get(summary.id)
        ours = [
            value
            for number in sorted({*record.warm_up.session, *record.series.session})
            for values, sessions in (
                (record.warm_up.samples_s, record.warm_up.session),
                (record.series.samples_s, record.series.session),
            )
            for value, session in zip(values, sessions, strict=True)
            if session == number
        ]
        theirs = [
            value
            for item in rounds
            for value, sha in zip(item.values_s, item.whose, strict=True)
            if sha == record.model_sha256
        ]
        if ours != theirs[: len(ours)] or (complete and len(ours) != len(theirs)):
            raise WrongError(
                f"{len(ours)} samples were kept, {len(theirs)} printed, and they differ"
            )
        if complete != record.complete:
            raise WrongError(f"the record says complete={record.complete}, the end was otherwise")
        kept += len(ours)
    return kept


class _Replay:
    """A device that answers with what was printed, and objects to any other question than the one
    that was asked.
    """

    def __init__(self, rounds: Sequence[Rounds]) -> None:
        self.left = list(rounds)

    def run(self, order: Sequence[Any], loops: int = 1) -> Samples:
        whose = tuple(item.workload.sha256 for item in order)
        if not self.left or self.left[0].whose != whose:
            raise WrongError(
                f"{len(whose)} rounds were kept of a network that were not printed for it"
            )
        del loops  # the seconds are per inference
        return Samples(self.left.pop(0).values_s, "printed")


def networks(store: Store) -> dict[str, NetworkSample]:
    """The networks that a store holds of a table's build, by id, in the order of their numbers.

    The store knows their seconds, in which several are measured. The original is measured before
    the network whose number its own tells.
    """
    samples = {
        key: NetworkSample.from_dict(record) for key, record in store.records(RECORD).items()
    }

    def place(entry: tuple[str, NetworkSample]) -> float:
        number = entry[1].number
        return number if number >= 0 else -1.5 - number

    return dict(sorted(samples.items(), key=place))


def check_networks(
    model: Path,
    samples: Mapping[str, NetworkSample],
    known: Collection[str],
    rounds: Sequence[Rounds],
) -> int:
    """Work out the networks of a build that are not `known` again from what was printed.

    Returns:
        How many rounds there are.

    Raises:
        WrongError: They differ, or another network was measured last than the first unfinished one.
    """
    numbers = [sample.number for sample in samples.values() if sample.number >= 0]
    if len(numbers) != len(set(numbers)):
        raise WrongError(f"networks {numbers} are in the store, one of them twice")
    workload = load_workload(model)
    network = PrunableNetwork(workload)
    # Each build begins with one round of the original, by which it chooses how many it can afford.
    counted = [item for item in rounds if item.whose != (workload.sha256,)]
    fresh = [sample for key, sample in samples.items() if key not in known]
    # Where it affords fewer turns than usual, disturbed ones are not taken again.
    is_usual = all(len(sample.whole_s) == Effort().turns for sample in fresh)
    quiet = Quiet() if is_usual else Quiet(batches=1)
    replay, settings = _Replay(counted), Settings()
    anchor: Any = SimpleNamespace(workload=workload, settings=settings)

    for sample in fresh:
        prepared: Any = SimpleNamespace(workload=network.version(sample.widths), settings=settings)
        device: Any = replay
        again = measure_turns(
            device, anchor, prepared, len(sample.whole_s), quiet=quiet, seed=sample.number
        )
        if again != (sample.anchor_s, sample.whole_s):
            raise WrongError(
                f"network {sample.number} was kept with other latencies than were printed"
            )
    following = propose_first(
        Grid(network.structure.widths, STEP, LOWER), Plan().first, settings.seed
    )[len(numbers) :]
    unfinished = {sha for item in replay.left for sha in item.whose} - {workload.sha256}
    if not unfinished <= {network.version(widths).sha256 for widths in following[:1]}:
        raise WrongError(
            "the network that was measured last is not the first of the unfinished ones"
        )
    return sum(len(item.values_s) for item in counted)


def check_store(
    path: Path,
    task: str,
    model: Path,
    known: frozenset[str],
    talks: Sequence[Talk],
    *,
    complete: bool,
) -> tuple[int, frozenset[str]]:
    """Check all that a use added to a store.

    How many numbers of the runner are in it, and the ids of the networks that are.

    Raises:
        WrongError: See `check_measurements` and `check_networks`.
        HwbenchError: The store is damaged.
    """
    rounds = printed(talks)
    if not path.exists():
        return 0, frozenset()
    with open_store(str(path)) as store:
        if task != "table":
            return check_measurements(store, rounds, complete=complete), frozenset()
        samples = networks(store)
        return check_networks(model, samples, known, rounds), frozenset(samples)
