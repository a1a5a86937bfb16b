"""Parsers and quoting of the adb transport, for every input that chance can think of."""

from __future__ import annotations

import struct
import subprocess
import time
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.devices.android.adb import sync
from hwbench.devices.android.adb.shell import ShellParser, frame_input, quote_command
from hwbench.errors import DeviceError, OutputParseError, UsageError

words = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).map(lambda name: f"HW_{name}")


@given(st.lists(words, max_size=5), st.dictionaries(names, words, max_size=3))
@settings(max_examples=60, deadline=None)
def test_what_is_quoted_reaches_a_program_as_it_was(
    arguments: list[str], env: dict[str, str]
) -> None:
    program = [
        "sh",
        "-c",
        'pwd; for a in "$@"; do printf "%s\\0" "$a"; done; for n in '
        + " ".join(env)
        + '; do printenv -0 "$n"; done',
    ]
    line = quote_command([*program, "sh", *arguments], env, "/usr/bin")
    output = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout
    assert output == b"/usr/bin\n" + b"".join(
        word.encode() + b"\0" for word in [*arguments, *env.values()]
    )


@pytest.mark.parametrize(
    ("argv", "env", "cwd"),
    [
        ([], {}, None),
        ([""], {}, None),
        (["a\0b"], {}, None),
        (["a"], {"A=B": "c"}, None),
        (["a"], {"A": "\0"}, None),
        (["a=b"], {"A": "c"}, None),
        (["a"], {}, "relative"),
        (["a"], {}, "/\0"),
        (["a", "x" * 40_000], {}, None),
    ],
)
def test_what_cannot_be_quoted_is_refused(
    argv: list[str], env: dict[str, str], cwd: str | None
) -> None:
    with pytest.raises(UsageError):
        quote_command(argv, env, cwd)


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[first:last] for first, last in pairwise(edges)]


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))),
    st.integers(0, 255),
    st.lists(st.integers(0, 10_000)),
)
def test_shell_frames_are_read_however_they_are_cut(
    frames: list[tuple[int, bytes]], code: int, places: list[int]
) -> None:
    sent = b"".join(
        struct.pack("<BI", kind, len(data)) + data for kind, data in frames
    ) + struct.pack("<BIB", 3, 1, code)
    parser, received = ShellParser(), [b"", b""]
    for piece in _cut(sent, places):
        assert parser.code is None
        for index, data in enumerate(parser.feed(piece)):
            received[index] += data
    assert parser.code == code
    assert received == [
        b"".join(data for kind, data in frames if kind == wanted) for wanted in (1, 2)
    ]


@given(st.binary(max_size=60))
def test_other_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(OutputParseError):
        ShellParser().feed(data)


def test_input_is_framed_and_no_input_is_not() -> None:
    assert frame_input(b"") == b""
    assert frame_input(b"abc") == b"\0\3\0\0\0abc"


class Recorded:
    """A stream that answers with given bytes, in given pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.sent = pieces, b""

    def send(self, data: bytes, deadline: float) -> None:
        self.sent += data

    def receive(self, deadline: float) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        pass


def _soon() -> float:
    return time.monotonic() + 5


@given(st.lists(st.binary(min_size=1, max_size=100)), st.lists(st.integers(0, 10_000)))
def test_a_pulled_file_is_read_however_it_is_cut(chunks: list[bytes], places: list[int]) -> None:
    answer = (
        b"".join(struct.pack("<4sI", b"DATA", len(chunk)) + chunk for chunk in chunks)
        + b"DONE\0\0\0\0"
    )
    stream = Recorded(_cut(answer, places))
    assert sync.pull(stream, "/ü", 10_000, _soon()) == b"".join(chunks)
    assert stream.sent == b"RECV\3\0\0\0/\xc3\xbc"


@given(
    st.binary(max_size=100),
    st.sampled_from(["pull", "stat1", "stat2", "push"]),
    st.lists(st.integers(0, 200)),
)
def test_any_other_answer_is_a_typed_error(answer: bytes, what: str, places: list[int]) -> None:
    stream = Recorded(_cut(answer, places))
    with suppress(DeviceError, OutputParseError):
        if what == "pull":
            sync.pull(stream, "/x", 1000, _soon())
        elif what == "push":
            sync.push(stream, "/x", 0o644, [b"1"], _soon())
        else:
            sync.stat(stream, "/x", frozenset({"stat_v2"} if what == "stat2" else ()), _soon())


@given(st.lists(st.binary(max_size=200_000), max_size=3))
@settings(max_examples=20, deadline=None)
def test_a_pushed_file_travels_in_chunks_that_a_phone_takes(pieces: list[bytes]) -> None:
    stream = Recorded([b"OKAY\0\0\0\0"])
    sync.push(stream, "/x", 0o755, pieces, _soon())
    name, size = struct.unpack_from("<4sI", stream.sent)
    assert (name, stream.sent[8 : 8 + size]) == (b"SEND", b"/x,33261")
    rest, contents = stream.sent[8 + size :], b""
    while rest[:4] == b"DATA":
        (size,) = struct.unpack_from("<I", rest, 4)
        assert size <= 64 << 10
        contents, rest = contents + rest[8 : 8 + size], rest[8 + size :]
    assert contents == b"".join(pieces)
    assert rest[:4] == b"DONE"
    assert len(rest) == 8


@given(st.integers(0, 0o7777), st.integers(0, 2**63 - 1), st.integers(0, 2**62))
def test_the_newer_stat_is_read(mode: int, size: int, modified: int) -> None:
    answer = b"STA2" + struct.pack("<IQQ4IQ3q", 0, 1, 2, mode, 1, 0, 0, size, 0, modified, 0)
    assert sync.stat(Recorded([answer]), "/x", frozenset({"stat_v2"}), _soon()) == sync.RemoteStat(
        mode, size, modified
    )


def test_stat_tells_a_missing_file_from_a_forbidden_one() -> None:
    features = frozenset({"stat_v2"})
    assert sync.stat(Recorded([b"STA2\2\0\0\0" + bytes(64)]), "/x", features, _soon()) is None
    with pytest.raises(DeviceError, match="Permission denied"):
        sync.stat(Recorded([b"STA2\x0d\0\0\0" + bytes(64)]), "/x", features, _soon())
