"""Who does what: the devices of a lab, the work that waits, and who holds what.

No Ray, no device and no thread is in here.

Devices ask for work (`lease`) and report each task as it is done; nobody pushes. What a device
holds goes back to the queue when it fails, heats, hangs or falls silent. It is then *expelled*: a
new incarnation of it may join, but what the old one still says is not believed, so that each task
has one result. Clients submit tasks under the name of a job and collect results until they have
taken all; a name says what the work is, so a client that was killed finds under it what was done
meanwhile.

The pool lives in memory. Should it be lost, devices join the next one and clients submit again what
they miss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from hwbench.errors import DeviceLostError, UsageError, error_to_dict
from hwbench.lab.kinds import Selector, kind_id
from hwbench.lab.records import Job, Lease, Member, Rules, State
from hwbench.lab.tasks import Outcome, Task
from hwbench.records.device import DeviceInfo


class Pool:
    """The lab's state. Each method is one step of it, atomic in whatever runs it.

    Args:
        clock: Seconds; only differences count.
        rules: What it waits for.
    """

    def __init__(self, clock: Callable[[], float], rules: Rules | None = None) -> None:
        self.now, self.rules = clock, rules or Rules()
        self.members: dict[str, Member] = {}
        self.jobs: dict[str, Job] = {}

    # What devices say.

    def join(self, name: str, info: DeviceInfo) -> int:
        """Take a device in, or back; what its earlier incarnation held goes elsewhere.

        Returns:
            The incarnation, which it says with all that follows.
        """
        now_s, before = self.now(), self.members.get(name)
        if before is not None:
            self._expel(before, "joined anew")
        incarnation = 1 if before is None else before.incarnation + 1
        member = Member(name, info, kind_id(info), incarnation, State.FREE, now_s, now_s)
        if before is not None:
            member.done, member.busy_s = before.done, before.busy_s
        self.members[name] = member
        for job in self.jobs.values():
            if _may(member, job):
                job.members.add(name)
        return incarnation

    def lease(self, name: str, incarnation: int, *, hot: bool = False) -> Lease:
        """Work for a device that has none, or gave up what it had; none for one that is hot."""
        member = self._standing(name, incarnation)
        if member is None:
            return Lease(expelled=True)
        held = self.jobs.get(member.job)
        if (
            hot and member.held and held is not None
        ):  # counted, or one that heats whatever it does would be tried for ever
            self._failed(held, next(iter(member.held)), member, "it slowed itself down under load")
        self._return(member)
        self._turn(member, State.HOT if hot else State.FREE)
        job = None if hot else self._neediest(member)
        if job is None:
            return Lease()
        tasks = [job.waiting.pop(job.queue.popleft()) for _ in range(self._batch(job))]
        job.running.update(task.id for task in tasks)
        member.job, member.held = job.id, {task.id: task for task in tasks}
        member.begun_s = self.now()
        self._turn(member, State.BUSY)
        return Lease(job.id, tuple(tasks))

    def report(self, name: str, incarnation: int, task_id: str, outcome: Outcome) -> bool:
        """Take what became of a task that the device holds.

        False where it holds it no longer, so that nothing counts twice.
        """
        member = self._standing(name, incarnation)
        if member is None or task_id not in member.held:
            return False
        now_s, job = self.now(), self.jobs.get(member.job)
        del member.held[task_id]
        took_s, member.begun_s = now_s - member.begun_s, now_s
        member.done, member.busy_s = member.done + 1, member.busy_s + took_s
        if job is not None:
            job.running.discard(task_id)
            job.results[task_id] = outcome
            job.done, job.busy_s = job.done + 1, job.busy_s + took_s
        return True

    def fail(self, name: str, incarnation: int, reason: str) -> None:
        """The device failed, or is lost: its work goes elsewhere, and it has to join anew."""
        member = self._standing(name, incarnation)
        if member is not None:
            self._expel(member, reason)

    def leave(self, name: str) -> None:
        """The device is taken out of the lab, whatever its state; what it holds goes elsewhere."""
        if name in self.members:
            self._expel(self.members[name], "left")
            del self.members[name]

    # What clients say.

    def submit(
        self,
        job_id: str,
        tasks: Iterable[Task],
        *,
        title: str,
        client: str,
        wanted: str,
        kind: str = "",
    ) -> None:
        """Add tasks to a job.

        Those that wait, run or are done already are not added again, but for those that failed.

        Raises:
            UsageError: The same work is being done for another client.
        """
        now_s, job = self.now(), self.jobs.get(job_id)
        if job is None:
            job = self.jobs[job_id] = Job(
                job_id, title, client, Selector(wanted), kind, now_s, now_s
            )
            job.members = {
                member.name
                for member in self.members.values()
                if self._up(member) and _may(member, job)
            }
        elif job.client != client and now_s - job.heard_s < self.rules.unheard_s:
            raise UsageError(
                f"{job.title} is being done for {job.client} already; wait for it, or give it up"
                " there"
            )
        job.client, job.heard_s = client, now_s
        for task in tasks:
            if "error" in job.results.get(task.id, {}):  # it is asked for once more
                del job.results[task.id], job.failures[task.id]
            if (
                task.id not in job.waiting
                and task.id not in job.running
                and task.id not in job.results
            ):
                job.waiting[task.id] = task
                job.queue.append(task.id)

    def collect(
        self, job_id: str, client: str, taken: Sequence[str] = ()
    ) -> dict[str, Outcome] | None:
        """Forget the results that the client has safe, and give it those that it has not.

        None if the job is not known.

        Raises:
            UsageError: Another client has taken over.
        """
        job = self.jobs.get(job_id)
        if job is None:
            return None
        if job.client != client:
            raise UsageError(f"{job.title} was taken over by {job.client}")
        job.heard_s = self.now()
        for task_id in taken:
            job.results.pop(task_id, None)
        return dict(job.results)

    def release(self, job_id: str, client: str) -> None:
        """The client goes and may come back.

        Until then no more is begun, and what is running comes to its end and is kept.
        """
        job = self.jobs.get(job_id)
        if job is not None and job.client == client:
            job.heard_s = min(job.heard_s, self.now() - self.rules.unheard_s)

    def close(self, job_id: str, client: str) -> None:
        """The client wants nothing more; what is running comes to its end and is forgotten."""
        job = self.jobs.get(job_id)
        if job is not None and job.client == client:
            del self.jobs[job_id]

    # What time says.

    def tick(self) -> list[tuple[str, int]]:
        """Expel devices that hang or are silent, forget what is old.

        Returns:
            Name and incarnation of each device that was expelled; whatever is left of it should be
            ended.
        """
        now_s, gone = self.now(), []
        for member in list(self.members.values()):
            if member.state is State.FAILED:
                if now_s - member.since_s > self.rules.kept_s:
                    del self.members[member.name]
            elif now_s > member.deadline_s:
                task = next(iter(member.held.values()))
                self._expel(
                    member, f"did not finish a task ({task.kind}) within {task.limit_s:.0f} s"
                )
                gone.append((member.name, member.incarnation))
            elif not member.held and now_s - member.heard_s > self.rules.silent_s:
                self._expel(member, f"was not heard of for {self.rules.silent_s:.0f} s")
                gone.append((member.name, member.incarnation))
        for job in list(self.jobs.values()):
            if now_s - job.heard_s > self.rules.kept_s:
                del self.jobs[job.id]
        return gone

    def devices(self, wanted: str) -> dict[str, DeviceInfo]:
        """The devices meant by a selector that are in the lab and have not failed."""
        selector = Selector(wanted)
        return {
            m.name: m.info
            for m in self.members.values()
            if self._up(m) and selector.matches(m.name, m.info)
        }

    def status(self) -> dict[str, Any]:
        """Devices, queue, health, and who holds what, as plain JSON types."""
        now_s = self.now()
        devices = [
            {
                "name": m.name,
                "target": m.info.target,
                "runtime": m.info.runtime,
                "details": dict(m.info.details),
                "kind": m.kind[:12],
                "state": m.state.value,
                "since_s": now_s - m.since_s,
                "reason": m.reason,
                "holds": [] if m.job not in self.jobs else list(m.held),
                "job": self.jobs[m.job].title if m.held and m.job in self.jobs else None,
                "client": self.jobs[m.job].client if m.held and m.job in self.jobs else None,
                "done": m.done,
                "busy_s": m.busy_s,
            }
            for m in sorted(self.members.values(), key=lambda m: m.name)
        ]
        return {
            "devices": devices,
            "jobs": [self._shown(job, now_s) for job in self.jobs.values()],
            "rules": asdict(self.rules),
        }

    def _shown(self, job: Job, now_s: float) -> dict[str, Any]:
        return {
            "id": job.id[:12],
            "title": job.title,
            "client": job.client,
            "device": job.wanted.text,
            "devices": len(job.members),
            "waiting": len(job.waiting),
            "running": len(job.running),
            "done": job.done,
            "since_s": now_s - job.since_s,
            "listening": self._listening(job, now_s),
        }

    def _standing(self, name: str, incarnation: int) -> Member | None:
        """The device, if it is the incarnation that is believed; it was heard of."""
        member = self.members.get(name)
        if member is None or member.incarnation != incarnation or not self._up(member):
            return None
        member.heard_s = self.now()
        return member

    @staticmethod
    def _up(member: Member) -> bool:
        return member.state is not State.FAILED

    def _turn(self, member: Member, state: State) -> None:
        if member.state is not state:
            member.state, member.since_s = state, self.now()

    def _expel(self, member: Member, reason: str) -> None:
        if not self._up(member):
            return
        job = self.jobs.get(member.job)
        if job is not None and member.held:
            self._failed(job, next(iter(member.held)), member, reason)
        self._return(member)
        self._turn(member, State.FAILED)
        member.reason = reason
        for one in self.jobs.values():
            one.members.discard(member.name)

    def _failed(self, job: Job, task_id: str, member: Member, reason: str) -> None:
        """Count the failure of a device at a task; one that fails everywhere is given up."""
        job.failures[task_id] += 1
        if job.failures[task_id] >= self.rules.attempts:
            del member.held[task_id]
            job.running.discard(task_id)
            text = (
                f"{job.title}: {job.failures[task_id]} devices failed at one task, the last,"
                f" {member.name}: {reason}"
            )
            job.results[task_id] = error_to_dict(DeviceLostError(text))

    def _return(self, member: Member) -> None:
        """What the device holds goes back to the head of the queue."""
        job = self.jobs.get(member.job)
        if job is not None:
            for task in reversed(member.held.values()):
                job.running.discard(task.id)
                job.waiting[task.id] = task
                job.queue.appendleft(task.id)
        member.job, member.held = "", {}

    def _listening(self, job: Job, now_s: float) -> bool:
        return now_s - job.heard_s < self.rules.unheard_s

    def _neediest(self, member: Member) -> Job | None:
        """The job that this device may work for and for which least is being done.

        The earliest of equals.
        """
        now_s = self.now()
        ready = [
            job
            for job in self.jobs.values()
            if job.queue and member.name in job.members and self._listening(job, now_s)
        ]
        return min(ready, key=lambda job: len(job.running), default=None)

    def _batch(self, job: Job) -> int:
        """Tasks to hand out at once: enough to be worth the way, and no more than leaves the others busy to the end."""
        worth = math.inf if job.busy_s <= 0 else self.rules.batch_s / (job.busy_s / job.done)
        share = math.ceil(len(job.queue) / (2 * max(1, len(job.members))))
        return max(1, min(share, int(worth) if job.done and worth < math.inf else 1))


def _may(member: Member, job: Job) -> bool:
    return job.kind in {"", member.kind} and job.wanted.matches(member.name, member.info)
