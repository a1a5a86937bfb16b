"""What the pool of a lab holds: its rules, its devices, and the work of its clients."""

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
        batch_s: How much work is handed out at once, in seconds. Handing out takes at most 50 ms,
            so 1 s keeps that below 5 %.
        silent_s: After how long a device without work that does not call is taken to be gone, in
            seconds; it calls every few seconds.
        unheard_s: After how long nothing more is begun for a client that does not call, until it is
            back, in seconds; it calls every second.
        attempts: The number of devices that a task may fail on before it is given up.
        kept_s: After how long results that nobody collects, and devices that failed, are forgotten,
            in seconds.
    """

    batch_s: float = 1.0
    silent_s: float = 60.0
    unheard_s: float = 15.0
    attempts: int = 5
    kept_s: float = 86_400.0


class MemberState(StrEnum):
    """What a device is doing."""

    FREE = "free"
    BUSY = "busy"
    HOT = "hot"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Lease:
    """What a device that asked for work gets.

    Attributes:
        job: The job that the work is of; empty if there is no work.
        tasks: The tasks, to be done in this order.
        expelled: Whether the device has to join anew before it gets any work.
    """

    job: str = ""
    tasks: tuple[Task, ...] = ()
    expelled: bool = False


@dataclass
class Member:
    """A device of the lab.

    Attributes:
        name: Its name, `ADDRESS@HOST`.
        info: What it is.
        kind: The identity of its kind.
        incarnation: How often it joined.
        state: What it is doing.
        since_s: Since when it does that, on the pool's clock in seconds, as all times here.
        heard_s: When it last called.
        reason: Why it failed; empty if it did not.
        job: The job whose work it holds; empty if it holds none.
        held: The tasks it holds, by id; the first is being done.
        begun_s: When that task was begun.
        done: The number of tasks done since it first joined.
        busy_s: The seconds spent on them.
    """

    name: str
    info: DeviceInfo
    kind: str
    incarnation: int
    state: MemberState
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
        """The time after which the task in hand has taken too long; infinite without a task."""
        if not self.held:
            return math.inf
        return self.begun_s + next(iter(self.held.values())).limit_s


@dataclass
class Job:
    """Work of one client.

    Attributes:
        id: The identity of the work.
        title: The name of the work, for people.
        client: The client that wants the results.
        wanted: The devices that may do it.
        kind: The identity of the only kind that may do it; empty for any.
        since_s: When it was first submitted, on the pool's clock in seconds.
        heard_s: When its client last called.
        members: The names of the devices in the lab that may do it.
        waiting: The tasks that no device holds, by id.
        queue: The ids of these tasks, in order.
        running: The ids of the tasks that devices hold.
        results: The outcomes that the client has not taken yet, by id of the task.
        failures: On how many devices each task failed.
        done: The number of tasks done.
        busy_s: The seconds that these took.
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
