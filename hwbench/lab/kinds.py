"""Which devices are of one kind, and which ones a selector means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from hwbench.errors import Argument, UsageError
from hwbench.lab.tasks import digest
from hwbench.records.codec import from_plain
from hwbench.records.device import DeviceInfo

SPECIMEN = frozenset({"serial", "uuid", "seed"})
"""Details that tell one specimen of a kind from the others; every other fact must agree."""


def kind_of(info: DeviceInfo) -> DeviceInfo:
    """Describe what all devices of one kind have in common.

    That is everything but the address and what names the specimen.
    """
    target_id = info.target_id
    for name, value in info.details:
        # A number is left alone: a seed of 3 is no part of a name in which a 3 happens to stand.
        if name in SPECIMEN and value and not value.isdigit():
            target_id = target_id.replace(value, "")
    details = tuple((name, value) for name, value in info.details if name not in SPECIMEN)
    return replace(
        info, address=info.address.partition(":")[0], target_id=target_id, details=details
    )


def kind_id(info: DeviceInfo) -> str:
    """Hash the kind of a device: devices of one kind have the same identity."""
    return digest(asdict(kind_of(info)))


def info_from(data: Mapping[str, Any]) -> DeviceInfo:
    """Rebuild the description of a device from plain JSON types."""
    return from_plain(DeviceInfo, data, "device of a lab")


@dataclass(frozen=True, slots=True)
class Selector:
    """Names devices of a lab: `android:*`, `cpu@rack1`, or a fact such as `soc=Tensor G3`.

    Attributes:
        text: The selector as it was written. With a `=` before any `:` it is a fact: the name of a
            detail of the device, or `target`, `runtime` or `host`, and its value. One of `ALIASES`
            that is no detail is looked for in the target. Anything else is an address, maybe with
            the host after an @. A * stands for anything.
    """

    text: str

    def matches(self, name: str, info: DeviceInfo) -> bool:
        """Tell whether the selector means a device.

        Args:
            name: The name of the device, `ADDRESS@HOST`.
            info: What the device is.
        """
        fact, equals, wanted = self.text.partition("=")
        if not equals or ":" in fact or "*" in fact:
            driver = info.address.partition(":")[0]
            return any(fnmatchcase(text, self.text) for text in (name, info.address, driver))
        facts = {
            "target": info.target,
            "runtime": info.runtime,
            "host": name.rpartition("@")[2],
            **dict(info.details),
        }
        wanted = wanted.casefold()
        if fact in facts:
            return fnmatchcase(facts[fact].casefold(), wanted)
        return fact in ALIASES and fnmatchcase(info.target.casefold(), f"*{wanted}*")


ALIASES = frozenset({"soc", "model", "gpu", "name"})
"""Facts that drivers write into the target's name: `Pixel 8, Tensor G3, big cluster`."""


def one_kind(devices: Mapping[str, DeviceInfo], wanted: str) -> DeviceInfo:
    """Describe the one kind that some devices are of.

    Args:
        devices: The devices by name.
        wanted: The selector that means them, for messages.

    Raises:
        UsageError: There are no devices, or they are of several kinds.
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
            f"{wanted!r} means devices of {len(groups)} kinds ({_groups_text(groups)}), which"
            f" differ in {describe_difference(first, second)}; a table is of one kind",
            Argument("device", "soc=Tensor G3", purpose="name it more closely"),
        )
    return kind_of(devices[groups[0][0]])


def describe_difference(first: DeviceInfo, second: DeviceInfo) -> str:
    """Describe the first fact in which the kinds of two devices differ, with both values."""
    for name, first_value, second_value in _pair_facts(kind_of(first), kind_of(second)):
        if first_value != second_value:
            return f"{name}: {first_value} and {second_value}"
    return "nothing"


def _pair_facts(first: DeviceInfo, second: DeviceInfo) -> Iterable[tuple[str, str, str]]:
    """Walk over the facts of two devices: the name, and the value of each."""
    yield "driver", first.address, second.address
    yield "target", first.target, second.target
    yield "runtime", first.runtime, second.runtime
    first_details, second_details = dict(first.details), dict(second.details)
    for name in first_details | second_details:
        yield name, first_details.get(name, "none"), second_details.get(name, "none")
    yield "identity", first.target_id, second.target_id


def _groups_text(groups: Sequence[Sequence[str]]) -> str:
    """Write groups of devices for people: the first of each, and how many more there are."""
    texts = []
    for names in groups[:4]:
        text = names[0]
        if len(names) > 1:
            text += f" and {len(names) - 1} more"
        texts.append(text)
    return "; ".join(texts)
