"""What the pool keeps: its rules, devices, and the work of its clients."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum

from hwbench.lab.kinds import Selector
from hwbench.lab.tasks import Outcome, Task
from hwbench.records.device import DeviceInfo


@dataclass(frozen=True, slots=True)
class Rules:
    """What the pool waits for, and how long.

    Attributes:
        batch_s: Work handed out at once: handing out takes at most 50 ms, so 1 s keeps that below 5
            %.
        silent_s: A device without work that was not heard of for so long is gone; it asks every few
            seconds.
        unheard_s: Nothing more is begun for a client that was not heard of for so long, until it is
            back; it asks every second.
        attempts: Devices that a task may fail on before it is given up.
        kept_s: Results that nobody comes for, and devices that failed, are forgotten after this.
    """

    batch_s: float = 1.0
    silent_s: float = 60.0
    unheard_s: float = 15.0
    attempts: int = 5
    kept_s: float = 86_400.0


class State(StrEnum):
    """What a device is at."""

    FREE = "free"
    BUSY = "busy"
    HOT = "hot"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Lease:
    """What a device that asked for work gets.

    Attributes:
        job: Whose work it is; empty if there is none.
        tasks: To be done in this order.
        expelled: Whether it has to join anew before it gets any.
    """

    job: str = ""
    tasks: tuple[Task, ...] = ()
    expelled: bool = False


@dataclass
class Member:
    """A device of the lab.

    Attributes:
        name: `ADDRESS@HOST`.
        info: What it is.
        kind: Identity of its kind.
        incarnation: Counts its joins.
        state: What it is at.
        since_s: Since when, on the pool's clock.
        heard_s: When it was last heard of.
        reason: Why it failed.
        job: Whose work it holds.
        held: That work; the first task is being done.
        begun_s: When that task was begun.
        done: Tasks done since it first joined.
        busy_s: Seconds spent on them.
    """

    name: str
    info: DeviceInfo
    kind: str
    incarnation: int
    state: State
    since_s: float
    heard_s: float
    reason: str = ""
    job: str = ""
    held: dict[str, Task] = field(default_factory=dict)
    begun_s: float = 0.0
    done: int = 0
    busy_s: float = 0.0

    @property
    def deadline_s(self) -> float:
        """When the task in hand has taken too long."""
        return self.begun_s + next(iter(self.held.values())).limit_s if self.held else math.inf


@dataclass
class Job:
    """Work of one client.

    Attributes:
        id: What the work is.
        title: For people.
        client: Whose it is.
        wanted: Which devices may do it.
        kind: Identity of the only kind that may; empty for any.
        since_s: When it was first submitted.
        heard_s: When its client was last heard of.
        members: Devices in the lab that may do it.
        waiting: Tasks that nobody has.
        queue: Their ids in order.
        running: Tasks that devices hold.
        results: Outcomes that the client has not taken yet.
        failures: Devices that each task failed on.
        done: Tasks done.
        busy_s: Seconds that took.
    """

    id: str
    title: str
    client: str
    wanted: Selector
    kind: str
    since_s: float
    heard_s: float
    members: set[str] = field(default_factory=set)
    waiting: dict[str, Task] = field(default_factory=dict)
    queue: deque[str] = field(default_factory=deque)
    running: set[str] = field(default_factory=set)
    results: dict[str, Outcome] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    done: int = 0
    busy_s: float = 0.0
