"""Packets that no phone sends close the direct connection with a typed error.

Those that are merely late do no harm.
"""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.devices.android.adb.direct import DirectLink
from hwbench.devices.android.adb.link import Stream
from hwbench.errors import DeviceError, DeviceLostError, DeviceTimeoutError, DeviceUnavailableError


def packet(
    name: str,
    first: int,
    second: int,
    data: bytes = b"",
    *,
    checksum: int | None = None,
    magic: int = 0xFFFFFFFF,
) -> bytes:
    code = int.from_bytes(name.encode(), "little")
    return (
        struct.pack(
            "<6I",
            code,
            first,
            second,
            len(data),
            sum(data) if checksum is None else checksum,
            code ^ magic,
        )
        + data
    )


GREETING = packet(
    "CNXN", 0x01000001, 1 << 20, b"device::ro.product.name=x;features=shell_v2,stat_v2"
)
ACCEPTED = packet("OKAY", 7, 1)


class Script:
    """A pipe whose other end says what was written down for it."""

    def __init__(self, said: bytes) -> None:
        self.said, self.written, self.closed = said, b"", False

    def write(self, data: bytes, deadline: float) -> None:
        self.written += data

    def read(self, size: int, deadline: float) -> bytes:
        if len(self.said) < size:
            raise DeviceTimeoutError("nothing more is written down")
        data, self.said = self.said[:size], self.said[size:]
        return data

    def close(self) -> None:
        self.closed = True


def _soon() -> float:
    return time.monotonic() + 5


def opened(said: bytes) -> tuple[Script, DirectLink, Stream]:
    pipe = Script(GREETING + ACCEPTED + said)
    link = DirectLink(pipe, "phone", "tcp", _soon())
    return pipe, link, link.open("sync:", _soon())


def test_a_greeting_and_a_stream() -> None:
    pipe, link, stream = opened(packet("WRTE", 7, 1, b"data") + packet("CLSE", 7, 1))
    assert link.features == {"shell_v2", "stat_v2"}
    assert stream.receive(_soon()) == b"data"
    assert stream.receive(_soon()) == b""
    assert pipe.written.endswith(packet("OKAY", 1, 7))
    stream.close()
    assert not link.closed


@pytest.mark.parametrize(
    "said",
    [
        packet("WRTE", 7, 9, b"data"),
        packet("WRTE", 8, 1, b"data"),
        packet("OKAY", 8, 1),
        packet("CLSE", 8, 1),
        packet("WRTE", 7, 1, b"data", checksum=5),
        packet("WRTE", 7, 1, b"data", magic=0xFFFFFFFE),
        struct.pack("<6I", 0x45545257, 7, 1, 1 << 24, 0, 0x45545257 ^ 0xFFFFFFFF),
        packet("SYNC", 1, 1),
        packet("OPEN", 7, 0, b"tcp:1\0"),
        packet("AUTH", 1, 0, bytes(20)),
        bytes(24),
    ],
    ids=[
        "unknown stream",
        "other stream",
        "other okay",
        "other close",
        "checksum",
        "magic",
        "length",
        "sync",
        "open",
        "auth",
        "zeros",
    ],
)
def test_what_no_phone_sends(said: bytes) -> None:
    pipe, link, stream = opened(said)
    with pytest.raises(DeviceLostError, match=r"phone sent .* connect anew"):
        stream.receive(_soon())
    assert link.closed
    assert pipe.closed
    with pytest.raises(DeviceLostError, match="is closed"):
        link.open("sync:", _soon())


def test_the_last_words_of_a_closed_stream_are_not_those_of_the_next() -> None:
    late = packet("WRTE", 7, 1, b"late") + packet("OKAY", 7, 1) + packet("CLSE", 7, 1)
    _, link, stream = opened(late + packet("OKAY", 8, 2) + late + packet("WRTE", 8, 2, b"next"))
    stream.close()
    assert link.open("sync:", _soon()).receive(_soon()) == b"next"


def test_a_packet_that_is_acknowledged_twice() -> None:
    _, link, stream = opened(2 * packet("OKAY", 7, 1) + packet("WRTE", 7, 1, b"answer"))
    stream.send(b"question", _soon())
    assert stream.receive(_soon()) == b"answer"
    assert not link.closed


def test_data_before_the_stream_is_accepted() -> None:
    link = DirectLink(Script(GREETING + packet("WRTE", 7, 1, b"early")), "phone", "tcp", _soon())
    with pytest.raises(DeviceLostError):
        link.open("sync:", _soon())


def test_a_refused_stream_leaves_the_connection() -> None:
    link = DirectLink(
        Script(GREETING + packet("CLSE", 0, 1) + packet("OKAY", 8, 2)), "phone", "tcp", _soon()
    )
    with pytest.raises(DeviceUnavailableError, match="phone refuses the service 'nonsense'"):
        link.open("nonsense:x", _soon())
    link.open("sync:", _soon())


@pytest.mark.parametrize(
    "greeting", [packet("OKAY", 1, 1), packet("AUTH", 9, 0), packet("CNXN", 1, 5, b"device::")]
)
def test_a_greeting_that_is_none(greeting: bytes) -> None:
    pipe = Script(greeting)
    with pytest.raises(DeviceLostError):
        DirectLink(pipe, "phone", "tcp", _soon())
    assert pipe.closed


@given(
    st.binary(max_size=200),
    st.lists(st.sampled_from(["OKAY", "WRTE", "CLSE", "CNXN", "AUTH"]), max_size=4),
    st.binary(max_size=30),
)
def test_any_bytes_end_in_a_typed_error_or_data(
    noise: bytes, names: list[str], data: bytes
) -> None:
    _, _, stream = opened(b"".join(packet(name, 7, 1, data) for name in names) + noise)
    for _ in range(5):
        try:
            stream.receive(_soon())
        except DeviceError as error:
            assert "\n" not in str(error)
            break
    stream.close()
