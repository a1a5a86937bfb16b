"""What is found out before Ray is started."""

from __future__ import annotations

import socket

import pytest

from hwbench.errors import UsageError
from hwbench.lab.hosts import serve_head


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_that_is_taken_is_named(host):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port} of {host} is taken"):
            serve_head(host, port, print)


def test_a_port_is_taken_that_is_so_at_any_address_of_a_name(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with pytest.raises(UsageError, match="is taken"):
            serve_head("somewhere", port, print)
