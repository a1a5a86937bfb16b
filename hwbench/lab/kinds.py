"""Which devices are alike, and which ones are meant by `--device`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from hwbench.errors import UsageError
from hwbench.lab.tasks import digest
from hwbench.records.codec import from_plain
from hwbench.records.device import DeviceInfo

SPECIMEN = frozenset({"serial", "uuid", "seed"})
"""Details that tell one specimen of a kind from the others; every other fact must agree."""


def kind_of(info: DeviceInfo) -> DeviceInfo:
    """What all devices of one kind have in common: everything but the address, and what names the specimen."""
    own = [value for name, value in info.details if name in SPECIMEN and value]
    target_id = info.target_id
    for value in own:
        if not value.isdigit():  # a seed of 3 is no part of a name in which a 3 happens to stand
            target_id = target_id.replace(value, "")
    details = tuple((name, value) for name, value in info.details if name not in SPECIMEN)
    return replace(
        info, address=info.address.partition(":")[0], target_id=target_id, details=details
    )


def kind_id(info: DeviceInfo) -> str:
    """Identity of a device's kind."""
    return digest(asdict(kind_of(info)))


def info_from(data: Mapping[str, Any]) -> DeviceInfo:
    """Rebuild from plain JSON types."""
    return from_plain(DeviceInfo, data, "device of a lab")


@dataclass(frozen=True, slots=True)
class Selector:
    """What `--device` means in a lab: `android:*`, `cpu@rack1`, or a fact such as `soc=Tensor G3`.

    Attributes:
        text: As it was written. With a `=` before any `:` it is a fact: the name of a detail of the
            device, or of `target` and `runtime`, and what its value is; the value of any other fact
            may also merely contain it. Else it is an address, or one with the host after an @. A *
            stands for anything.
    """

    text: str

    def matches(self, name: str, info: DeviceInfo) -> bool:
        """Whether it means the device of that name (`ADDRESS@HOST`)."""
        fact, equals, wanted = self.text.partition("=")
        if not equals or ":" in fact or "*" in fact:
            return any(
                fnmatchcase(one, self.text)
                for one in (name, info.address, info.address.partition(":")[0])
            )
        facts = {
            "target": info.target,
            "runtime": info.runtime,
            "host": name.rpartition("@")[2],
            **dict(info.details),
        }
        if fact in facts:
            return fnmatchcase(facts[fact].casefold(), wanted.casefold())
        return fact in ALIASES and fnmatchcase(info.target.casefold(), f"*{wanted.casefold()}*")


ALIASES = frozenset({"soc", "model", "gpu", "name"})
"""Facts that drivers write into the target's name: `Pixel 8, Tensor G3, big cluster`."""


def one_kind(devices: Mapping[str, DeviceInfo], wanted: str) -> DeviceInfo:
    """The kind of these devices, by name.

    Raises:
        UsageError: There are none, or they are of several kinds.
    """
    kinds: dict[str, list[str]] = {}
    for name, info in devices.items():
        kinds.setdefault(kind_id(info), []).append(name)
    if not kinds:
        raise UsageError(f"no device of the lab is meant by {wanted!r}; see: hwbench lab status")
    groups = list(kinds.values())
    if len(groups) > 1:
        first, second = devices[groups[0][0]], devices[groups[1][0]]
        raise UsageError(
            f"{wanted!r} means devices of {len(groups)} kinds ({_listed(groups)}), which differ in"
            f" {difference(first, second)}; a table is of one kind: name it more closely, such as"
            " --device 'soc=Tensor G3'"
        )
    return kind_of(devices[groups[0][0]])


def difference(first: DeviceInfo, second: DeviceInfo) -> str:
    """The first fact in which two devices differ, with both values."""
    for what, one, other in _facts(kind_of(first), kind_of(second)):
        if one != other:
            return f"{what}: {one} and {other}"
    return "nothing"


def _facts(first: DeviceInfo, second: DeviceInfo) -> Iterable[tuple[str, str, str]]:
    yield "driver", first.address, second.address
    yield "target", first.target, second.target
    yield "runtime", first.runtime, second.runtime
    ours, theirs = dict(first.details), dict(second.details)
    for name in ours | theirs:
        yield name, ours.get(name, "none"), theirs.get(name, "none")
    yield "identity", first.target_id, second.target_id


def _listed(groups: Sequence[Sequence[str]]) -> str:
    return "; ".join(
        f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}" for names in groups[:4]
    )
