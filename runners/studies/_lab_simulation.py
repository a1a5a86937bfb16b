"""A whole lab in virtual time and one process: the real pool, the real benches, simulated devices,
and faults by a seed.

Nothing here knows Ray. Every step of a device is an event; what it measures is computed at once and
reported when its own clock says that it is done. Killing a device, a host, the pool or the client
drops what they had in hand.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hwbench.devices.virtual.device import Fault, Law, Noise, Virtual
from hwbench.errors import DeviceError, UsageError
from hwbench.lab.bench import Bench
from hwbench.lab.kinds import kind_id, kind_of
from hwbench.lab.pool import Pool
from hwbench.lab.records import Rules
from hwbench.lab.tasks import Outcome, Task
from hwbench.network.workload import Workload
from hwbench.records.device import DeviceInfo

ASK_S, BACK_S, TICK_S = 5.0, 5.0, 1.0
NOTICED_S = (0.1, 20.0)
"""How soon the pool hears that a process or a host is gone, seconds."""


class ClientKilled(Exception):  # noqa: N818 - an event, not an error
    """The client's process was killed."""


class Specimen(Virtual):
    """One of several devices of a kind: all latencies are `speed` times as long as the law says.

    Args:
        speed: That factor.
        law: As for `Virtual`; so are `faults` and `seed`.
        noise: What all of the kind have.
        hot: What this one has instead; it does not show.
    """

    def __init__(
        self,
        speed: float = 1.0,
        *,
        law: Law,
        noise: Sequence[Noise] = (),
        hot: Sequence[Noise] | None = None,
        faults: Sequence[Fault] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(law=law, noise=noise if hot is None else hot, faults=faults, seed=seed)
        self._speed, self._shown = speed, " ".join(map(repr, noise))

    def _info(self) -> DeviceInfo:
        info = super()._info()
        return replace(
            info,
            details=tuple(
                (name, self._shown if name == "noise" else value) for name, value in info.details
            ),
        )

    def _draw_offset(self) -> float:
        return self._speed * super()._draw_offset()


@dataclass
class Agent:
    """A device's process.

    Attributes:
        name: `ADDRESS@HOST`.
        make: Gives its device; called each time it is opened.
        life: Counts its processes; events of an earlier one mean nothing.
        busy_s: Seconds it measured in all.
        broken: How often it failed by itself.
    """

    name: str
    make: Callable[[int], Virtual]
    life: int = 0
    incarnation: int = 0
    bench: Bench | None = None
    idle: bool = False
    hung: bool = False
    busy_s: float = 0.0
    broken: int = 0
    lives: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def host(self) -> str:
        """The host it is on."""
        return self.name.rpartition("@")[2]


class Simulation:
    """Virtual time, agents, a pool, and one client: a `Crew`.

    Args:
        agents: The devices.
        rules: Of the pool.
        rpc_s: Seconds that asking for work and reporting take, each.
        wanted: The client's `--device`.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        rules: Rules | None = None,
        *,
        rpc_s: float = 0.005,
        wanted: str = "*",
    ) -> None:
        self.time_s, self.rpc_s, self.rules, self.wanted = 0.0, rpc_s, rules or Rules(), wanted
        self.agents = {agent.name: agent for agent in agents}
        self.pool = Pool(self.now, self.rules)
        self.client, self.killed = "client 0", False
        self.models: dict[str, bytes] = {}
        self.measured: list[tuple[str, str]] = []  # task and device, whatever became of the result
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        with agents[0].make(0) as device:
            self.info = kind_of(device.info())
        self._kind = kind_id(self.info)
        for agent in agents:
            self.after(0.0, lambda agent=agent: self._start(agent))  # type: ignore[misc]
        self.after(TICK_S, self._tick)

    def now(self) -> float:
        """Virtual seconds."""
        return self.time_s

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._events, (self.time_s + delay_s, next(self._order), action))

    def step(self) -> None:
        """Let the next event happen."""
        self.time_s, _, action = heapq.heappop(self._events)
        action()

    def pass_time(self, seconds: float) -> None:
        """Let everything happen that does within these seconds."""
        end_s = self.time_s + seconds
        while self._events[0][0] <= end_s:
            self.step()
        self.time_s = end_s

    # The client.

    def carry_out(
        self, job: str, tasks: Sequence[Task], *workloads: Workload
    ) -> Iterator[tuple[str, Outcome]]:
        """See `Crew.carry_out`."""
        self.models |= {workload.sha256: workload.onnx for workload in workloads}
        pending, taken = {task.id: task for task in tasks}, list[str]()
        self._submit(job, list(pending.values()))
        while pending:
            if self.killed:
                raise ClientKilled
            results = self.pool.collect(job, self.client, taken)
            if results is None:
                self._submit(job, list(pending.values()))
                results = {}
            taken = list(results)
            for task_id in taken:
                if self.killed:
                    raise ClientKilled
                if pending.pop(task_id, None) is not None:
                    yield task_id, results[task_id]
            if not taken:
                self.step()
        self.pool.collect(job, self.client, taken)

    def _submit(self, job: str, tasks: Sequence[Task]) -> None:
        told = [Task.from_dict(task.to_dict()) for task in tasks]
        while True:
            try:
                self.pool.submit(
                    job,
                    told,
                    title="table",
                    client=self.client,
                    wanted=self.wanted,
                    kind=self._kind,
                )
                break
            except (
                UsageError
            ):  # the pool has not noticed yet that the client before this one is gone
                self.pass_time(TICK_S)
        for agent in self.agents.values():
            if agent.idle:
                self._wake(agent, self.rpc_s)

    # The devices.

    def kill(self, agent: Agent, down_s: float, noticed_s: float | None = None) -> None:
        """End an agent's process; the pool hears of it after a while, and it starts anew later."""
        lost, self_incarnation = agent.name, agent.incarnation
        agent.life, agent.bench, agent.idle, agent.hung = agent.life + 1, None, False, False
        if noticed_s is not None:
            self.after(
                noticed_s, lambda: self.pool.fail(lost, self_incarnation, "its process went away")
            )
        life = agent.life
        self.after(down_s, lambda: self._start(agent) if agent.life == life else None)

    def _start(self, agent: Agent) -> None:
        device = agent.make(next(agent.lives))
        try:
            device.open()
        except DeviceError:
            self.kill(agent, BACK_S)
            return
        agent.bench = Bench(device, agent.name)
        agent.incarnation = self.pool.join(agent.name, device.info())
        self._ask(agent)

    def _wake(self, agent: Agent, delay_s: float) -> None:
        agent.idle, life = False, agent.life
        self.after(delay_s, lambda: self._ask(agent) if agent.life == life else None)

    def _ask(self, agent: Agent) -> None:
        if agent.bench is None or agent.hung:
            return
        try:
            hot = agent.bench.hot()
        except DeviceError as error:
            self._broken(agent, str(error))
            return
        lease = self.pool.lease(agent.name, agent.incarnation, hot=hot)
        if lease.expelled:
            agent.incarnation = self.pool.join(agent.name, agent.bench.device.info())
            self._wake(agent, self.rpc_s)
        elif hot:
            agent.bench.clear()
            agent.bench.rest(ASK_S)
            self._wake(agent, ASK_S)
        elif lease.tasks:
            self._do(agent, list(lease.tasks), 2 * self.rpc_s)
        else:
            agent.idle, life = True, agent.life
            self.after(
                ASK_S, lambda: self._ask(agent) if agent.life == life and agent.idle else None
            )

    def _do(self, agent: Agent, tasks: list[Task], delay_s: float) -> None:
        """Begin the first of these tasks; the result is known when its time has passed."""
        bench, task, life = agent.bench, tasks[0], agent.life
        if bench is None:
            return
        begun_s = bench.now()
        try:
            outcome = bench.carry_out(task, self.models)
        except DeviceError as error:
            reason, took_s = str(error), bench.now() - begun_s
            self.after(
                delay_s + took_s,
                lambda: self._broken(agent, reason) if agent.life == life else None,
            )
            return
        took_s = bench.now() - begun_s
        self.after(delay_s + took_s, lambda: self._done(agent, life, tasks, outcome, took_s))

    def _done(
        self, agent: Agent, life: int, tasks: list[Task], outcome: Outcome | None, took_s: float
    ) -> None:
        if agent.life != life or agent.hung:
            return
        agent.busy_s += took_s
        self.measured.append((tasks[0].id, agent.name))
        told = outcome is not None and self.pool.report(
            agent.name, agent.incarnation, tasks[0].id, outcome
        )
        if told and tasks[1:]:
            self._do(agent, tasks[1:], self.rpc_s)
        else:
            self._wake(agent, self.rpc_s)

    def _broken(self, agent: Agent, reason: str) -> None:
        agent.broken += 1
        self.pool.fail(agent.name, agent.incarnation, reason)
        self.kill(agent, BACK_S)

    def _tick(self) -> None:
        for name, _ in self.pool.tick():
            self.kill(self.agents[name], BACK_S)
        for agent in self.agents.values():  # work that came back to the queue finds those who wait
            if agent.idle and any(job.queue for job in self.pool.jobs.values()):
                self._wake(agent, self.rpc_s)
        self.after(TICK_S, self._tick)


class Chaos:
    """Faults at random times, by a seed.

    Args:
        lab: What suffers.
        seed: Of everything.
        every_s: Mean seconds between two faults.
        until_s: Virtual time after which nothing more goes wrong.
    """

    def __init__(self, lab: Simulation, seed: int, every_s: float, until_s: float) -> None:
        self.lab, self._every_s, self._until_s = lab, every_s, until_s
        self._rng = np.random.default_rng(seed)
        self.happened: Counter[str] = Counter()
        self._next()

    def _next(self) -> None:
        delay_s = float(self._rng.exponential(self._every_s))
        if self.lab.now() + delay_s < self._until_s:
            self.lab.after(delay_s, self._strike)

    def _strike(self) -> None:
        kinds = {"device": 0.4, "host": 0.15, "hang": 0.2, "pool": 0.1, "client": 0.15}
        kind = str(self._rng.choice(list(kinds), p=list(kinds.values())))
        self.happened[kind] += 1
        agents = list(self.lab.agents.values())
        victim = agents[int(self._rng.integers(len(agents)))]
        down_s, noticed_s = float(self._rng.uniform(1, 60)), float(self._rng.uniform(*NOTICED_S))
        if kind == "device":
            self.lab.kill(victim, down_s, noticed_s)
        elif kind == "host":
            for agent in agents:
                if agent.host == victim.host:
                    self.lab.kill(agent, down_s, noticed_s)
        elif kind == "hang":
            victim.hung = True  # until the pool has it ended
        elif kind == "pool":
            self.lab.pool = Pool(self.lab.now, self.lab.rules)
            for agent in agents:
                if agent.hung or (not agent.idle and agent.bench is None):
                    self.lab.kill(
                        agent, down_s
                    )  # nobody else would end it: the new pool does not know it
        else:
            self.lab.killed = True
        self._next()
