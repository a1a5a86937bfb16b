"""The pool of a lab: its devices, the work that waits, and who holds what.

There is no Ray, no device and no thread in here.

Devices ask for work (`lease`) and report each task as it is done; nothing is pushed to them. What a
device holds goes back to the queue when it fails, heats, hangs or falls silent. It is then
*expelled*: a new incarnation of it may join, but what the old one still reports is not believed, so
that each task has one result. Clients submit tasks under the name of a job and collect results
until they have taken all. The name says what the work is, so a client that was killed finds under
it what was done meanwhile.

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
from hwbench.lab.records import Job, Lease, Member, MemberState, Rules
from hwbench.lab.tasks import Outcome, Task
from hwbench.records.device import DeviceInfo


class Pool:
    """The lab's state. Each method is one step of it, atomic in whatever runs it.

    Args:
        clock: Gives the time in seconds; only differences count.
        rules: What the pool waits for, and how long.
    """

    def __init__(self, clock: Callable[[], float], rules: Rules | None = None) -> None:
        self.now, self.rules = clock, rules or Rules()
        self.members: dict[str, Member] = {}
        self.jobs: dict[str, Job] = {}

    # What devices call.

    def join(self, name: str, info: DeviceInfo) -> int:
        """Take a device in, or back; what its earlier incarnation held goes elsewhere.

        Returns:
            The number of the incarnation, which the device gives with every later call.
        """
        now_s, before = self.now(), self.members.get(name)
        if before is not None:
            self._expel(before, "joined anew")
        incarnation = 1 if before is None else before.incarnation + 1
        member = Member(name, info, kind_id(info), incarnation, MemberState.FREE, now_s, now_s)
        if before is not None:
            member.done, member.busy_s = before.done, before.busy_s
        self.members[name] = member
        for job in self.jobs.values():
            if _may_work_for(member, job):
                job.members.add(name)
        return incarnation

    def lease(self, name: str, incarnation: int, *, hot: bool = False) -> Lease:
        """Hand out work to a device that has none, or gave up what it had.

        Args:
            name: The name of the device.
            incarnation: The number that `join` gave it.
            hot: Whether it is slowing itself down; then it gets no work.
        """
        member = self._find_member(name, incarnation)
        if member is None:
            return Lease(expelled=True)
        held_job = self.jobs.get(member.job)
        if hot and member.held and held_job is not None:
            # It counts as a failure: a task that heats whatever device does it would be tried for
            # ever.
            task_id = next(iter(member.held))
            self._count_failure(held_job, task_id, member, "it slowed itself down under load")
        self._return_work(member)
        self._set_state(member, MemberState.HOT if hot else MemberState.FREE)
        job = None if hot else self._find_neediest_job(member)
        if job is None:
            return Lease()
        tasks = [job.waiting.pop(job.queue.popleft()) for _ in range(self._batch_size(job))]
        job.running.update(task.id for task in tasks)
        member.job, member.held = job.id, {task.id: task for task in tasks}
        member.begun_s = self.now()
        self._set_state(member, MemberState.BUSY)
        return Lease(job.id, tuple(tasks))

    def report(self, name: str, incarnation: int, task_id: str, outcome: Outcome) -> bool:
        """Take the outcome of a task that the device holds.

        Returns:
            Whether the device holds the task; if it does not any more, the outcome is dropped, so
            that nothing counts twice.
        """
        member = self._find_member(name, incarnation)
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
        member = self._find_member(name, incarnation)
        if member is not None:
            self._expel(member, reason)

    def leave(self, name: str) -> None:
        """The device is taken out of the lab, whatever its state; what it holds goes elsewhere."""
        if name in self.members:
            self._expel(self.members[name], "left")
            del self.members[name]

    # What clients call.

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

        Tasks that wait, run or are done already are not added again, but for those that failed.

        Args:
            job_id: The identity of the work.
            tasks: The tasks.
            title: The name of the work, for people.
            client: The client that wants the results.
            wanted: The selector of the devices that may do it.
            kind: The identity of the only kind of device that may do it; empty for any.

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
                if self._is_up(member) and _may_work_for(member, job)
            }
        elif job.client != client and now_s - job.heard_s < self.rules.unheard_s:
            raise UsageError(
                f"{job.title} is being done for {job.client} already; wait for it, or give it up"
                " there"
            )
        job.client, job.heard_s = client, now_s
        for task in tasks:
            if "error" in job.results.get(task.id, {}):  # it failed, and is asked for once more
                del job.results[task.id], job.failures[task.id]
            if not any(task.id in ids for ids in (job.waiting, job.running, job.results)):
                job.waiting[task.id] = task
                job.queue.append(task.id)

    def collect(
        self, job_id: str, client: str, taken: Sequence[str] = ()
    ) -> dict[str, Outcome] | None:
        """Forget the results that a client has safe, and give it those that it has not.

        Args:
            job_id: The identity of the work.
            client: The client.
            taken: The tasks whose results it has safe.

        Returns:
            The outcomes by task; None if the job is not known.

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
        """Let a client go that may come back.

        Until then nothing more is begun, and what is running comes to its end and is kept.
        """
        job = self.jobs.get(job_id)
        if job is not None and job.client == client:
            job.heard_s = min(job.heard_s, self.now() - self.rules.unheard_s)

    def close(self, job_id: str, client: str) -> None:
        """Let a client go for good: what is running comes to its end and is forgotten."""
        job = self.jobs.get(job_id)
        if job is not None and job.client == client:
            del self.jobs[job_id]

    # What is called as time passes.

    def tick(self) -> list[tuple[str, int]]:
        """Expel devices that hang or are silent, and forget what is old.

        Returns:
            The name and incarnation of each device that was expelled; whatever is left of it should
            be ended.
        """
        now_s, expelled = self.now(), []
        for member in list(self.members.values()):
            if member.state is MemberState.FAILED:
                if now_s - member.since_s > self.rules.kept_s:
                    del self.members[member.name]
            elif now_s > member.deadline_s:
                task = next(iter(member.held.values()))
                self._expel(
                    member, f"did not finish a task ({task.kind}) within {task.limit_s:.0f} s"
                )
                expelled.append((member.name, member.incarnation))
            elif not member.held and now_s - member.heard_s > self.rules.silent_s:
                self._expel(member, f"was not heard of for {self.rules.silent_s:.0f} s")
                expelled.append((member.name, member.incarnation))
        for job in list(self.jobs.values()):
            if now_s - job.heard_s > self.rules.kept_s:
                del self.jobs[job.id]
        return expelled

    def devices(self, wanted: str) -> dict[str, DeviceInfo]:
        """Find the devices meant by a selector that are in the lab and have not failed."""
        selector = Selector(wanted)
        devices = {}
        for member in self.members.values():
            if self._is_up(member) and selector.matches(member.name, member.info):
                devices[member.name] = member.info
        return devices

    def status(self) -> dict[str, Any]:
        """Describe devices, queue, health, and who holds what, as plain JSON types."""
        now_s = self.now()
        members = sorted(self.members.values(), key=lambda member: member.name)
        return {
            "devices": [self._describe_member(member, now_s) for member in members],
            "jobs": [self._describe_job(job, now_s) for job in self.jobs.values()],
            "rules": asdict(self.rules),
        }

    def _describe_member(self, member: Member, now_s: float) -> dict[str, Any]:
        job = self.jobs.get(member.job)
        works = job is not None and bool(member.held)
        return {
            "name": member.name,
            "target": member.info.target,
            "runtime": member.info.runtime,
            "details": dict(member.info.details),
            "kind": member.kind[:12],
            "state": member.state.value,
            "since_s": now_s - member.since_s,
            "reason": member.reason,
            "holds": [] if job is None else list(member.held),
            "job": job.title if job is not None and works else None,
            "client": job.client if job is not None and works else None,
            "done": member.done,
            "busy_s": member.busy_s,
        }

    def _describe_job(self, job: Job, now_s: float) -> dict[str, Any]:
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
            "listening": self._is_listening(job, now_s),
        }

    def _find_member(self, name: str, incarnation: int) -> Member | None:
        """Find a device, if this is the incarnation that is believed, and note that it called."""
        member = self.members.get(name)
        if member is None or member.incarnation != incarnation or not self._is_up(member):
            return None
        member.heard_s = self.now()
        return member

    @staticmethod
    def _is_up(member: Member) -> bool:
        return member.state is not MemberState.FAILED

    def _set_state(self, member: Member, state: MemberState) -> None:
        if member.state is not state:
            member.state, member.since_s = state, self.now()

    def _expel(self, member: Member, reason: str) -> None:
        if not self._is_up(member):
            return
        job = self.jobs.get(member.job)
        if job is not None and member.held:
            self._count_failure(job, next(iter(member.held)), member, reason)
        self._return_work(member)
        self._set_state(member, MemberState.FAILED)
        member.reason = reason
        for other in self.jobs.values():
            other.members.discard(member.name)

    def _count_failure(self, job: Job, task_id: str, member: Member, reason: str) -> None:
        """Count the failure of a device at a task; a task that fails everywhere is given up."""
        job.failures[task_id] += 1
        if job.failures[task_id] >= self.rules.attempts:
            del member.held[task_id]
            job.running.discard(task_id)
            text = (
                f"{job.title}: {job.failures[task_id]} devices failed at one task, the last,"
                f" {member.name}: {reason}"
            )
            job.results[task_id] = error_to_dict(DeviceLostError(text))

    def _return_work(self, member: Member) -> None:
        """Put what a device holds back to the head of the queue."""
        job = self.jobs.get(member.job)
        if job is not None:
            for task in reversed(member.held.values()):
                job.running.discard(task.id)
                job.waiting[task.id] = task
                job.queue.appendleft(task.id)
        member.job, member.held = "", {}

    def _is_listening(self, job: Job, now_s: float) -> bool:
        return now_s - job.heard_s < self.rules.unheard_s

    def _find_neediest_job(self, member: Member) -> Job | None:
        """Find the job that a device may work for and for which least is being done.

        Of equals it is the earliest.
        """
        now_s = self.now()
        neediest: Job | None = None
        for job in self.jobs.values():
            if not job.queue or member.name not in job.members:
                continue
            if not self._is_listening(job, now_s):
                continue
            if neediest is None or len(job.running) < len(neediest.running):
                neediest = job
        return neediest

    def _batch_size(self, job: Job) -> int:
        """Decide how many tasks to hand out at once.

        They should be enough to be worth the way, which how long earlier ones took tells; until one
        is done, one is handed out. And they should be no more than leaves the other devices busy to
        the end: half of what is left, shared by all devices, so that batches shrink towards it.
        """
        if not job.done or job.busy_s <= 0:
            return 1
        worthwhile = int(self.rules.batch_s / (job.busy_s / job.done))
        share = math.ceil(len(job.queue) / (2 * max(1, len(job.members))))
        return max(1, min(share, worthwhile))


def _may_work_for(member: Member, job: Job) -> bool:
    return job.kind in {"", member.kind} and job.wanted.matches(member.name, member.info)
