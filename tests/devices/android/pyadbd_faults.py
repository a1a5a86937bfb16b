"""Faults that a test asks of the Python adbd: what goes wrong, and at which packet."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

IN_PACKETS = ("drop", "delay", "truncate", "corrupt", "wrong_id", "cut")
"""Faults of a packet on its way to the host."""
IN_CONDUCT = ("refuse", "unauthorised", "reboot", "corrupt_push", "corrupt_put")
"""Faults of the phone: it refuses the next service, forgets the host's key, goes away for a while,
or takes in damaged
contents of a file: one of the file service, or one given to a runner."""
KINDS = IN_PACKETS + IN_CONDUCT


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: One of `KINDS`.
        at: The packet it happens to, counting from 1 those that the phone sends on all connections
            since the plan was laid; a fault of conduct happens at the first occasion from there on.
        seconds: How long a delay or a restart takes.
    """

    kind: str
    at: int
    seconds: float = 0.1


class CutConnectionError(Exception):
    """The connection is to end here."""


class Faults:
    """A plan of faults, and how far it has come. Each fault happens once.

    Args:
        plan: The faults, in any order.
        seed: For which byte is damaged, and where a packet is cut.
    """

    def __init__(self, plan: Iterable[Fault] = (), seed: int = 0) -> None:
        self._left = list(plan)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.sent = 0
        self.happened: list[Fault] = []

    def due(self, kind: str) -> Fault | None:
        """The fault of that kind whose time has come, once."""
        with self._lock:
            for fault in self._left:
                if fault.kind == kind and fault.at <= self.sent + 1:
                    self._left.remove(fault)
                    self.happened.append(fault)
                    return fault
        return None

    def outgoing(self, packet: bytes) -> bytes:
        """The bytes that really leave instead of `packet`.

        Raises:
            CutConnectionError: After the bytes it carries, the connection ends.
        """
        with self._lock:
            self.sent += 1
            faults = [
                fault for fault in self._left if fault.kind in IN_PACKETS and fault.at == self.sent
            ]
            self._left = [fault for fault in self._left if fault not in faults]
            self.happened += faults
        for fault in faults:
            packet = self._damaged(packet, fault) if packet else packet
        return packet

    def _damaged(self, packet: bytes, fault: Fault) -> bytes:
        if fault.kind == "drop":
            return b""
        if fault.kind == "delay":
            time.sleep(fault.seconds)
        elif fault.kind == "truncate":
            return packet[: self._random.randrange(1, len(packet))]
        elif fault.kind == "corrupt":
            return self.flipped(packet)
        elif fault.kind == "wrong_id":
            which = self._random.choice((4, 8))
            return (
                packet[:which]
                + struct.pack("<I", self._random.randrange(1, 1 << 16))
                + packet[which + 4 :]
            )
        elif fault.kind == "cut":
            raise CutConnectionError(packet[: self._random.randrange(len(packet))])
        return packet

    def taken(self, data: bytes) -> bytes:
        """What arrives of a packet's data from the host, which holds the contents of a file or the
        beginning of them.
        """
        if data.startswith(b"DATA"):
            kind, first = "corrupt_push", 64
        elif data[5:9] == b"put ":  # behind the head of a frame of the shell service
            kind, first = "corrupt_put", data.find(b"\n") + 1
        else:
            return data
        return (
            data[:first] + self.flipped(data[first:])
            if len(data) > first and self.due(kind)
            else data
        )

    def flipped(self, data: bytes) -> bytes:
        """`data` with one bit of it changed."""
        at = self._random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << self._random.randrange(8)]) + data[at + 1 :]
