"""Ray's own processes: the head of a lab, and a host that joins it.

A token is needed for either; Ray refuses who has another.

Whoever has the token may run code on the hosts, as with any Ray cluster: hwbench asks nothing of
them but its own tasks, but Ray itself has no list of what is allowed. So the token is a password,
and the head listens on this computer alone unless told otherwise.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwbench.errors import DeviceUnavailableError, UsageError
from hwbench.optional import import_optional

TOKEN, TOKEN_FILE = "HWBENCH_LAB_TOKEN", "HWBENCH_LAB_TOKEN_FILE"
START_S = 120.0
"""Longest wait for Ray's processes to answer."""
POLL_S, ANSWER_S = 0.2, 5.0
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""What Ray's own `ray health-check` asks (src/ray/protobuf/gcs_service.proto of ray-project/ray)."""
STORE_BYTES = 256 * 1024 * 1024
"""Memory of each host for models on their way; Ray would take a third of the computer."""
STOP_S = 15.0


def token_path() -> Path:
    """Where the token is kept: `$HWBENCH_LAB_TOKEN_FILE`, else a file in the user's configuration folder."""
    import platformdirs

    return Path(
        os.environ.get(TOKEN_FILE) or platformdirs.user_config_path("hwbench") / "lab_token"
    )


def make_token() -> Path | None:
    """Make a token if there is none; the file it is in, None for a variable.

    Raises:
        UsageError: The file cannot be written.
    """
    path = token_path()
    if os.environ.get(TOKEN):
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with os.fdopen(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii"
            ) as file:
                file.write(secrets.token_hex(32))
    except OSError as error:
        raise UsageError(
            f"cannot write the token to {path}: {error.strerror or error}; set {TOKEN}"
        ) from error
    return path


def environment() -> dict[str, str]:
    """Variables for Ray: the token, no telemetry, no guessing.

    Raises:
        UsageError: There is no token, or others can read it.
    """
    token, path = os.environ.get(TOKEN, ""), token_path()
    if not token:
        try:
            token, mode = path.read_text(encoding="ascii").strip(), path.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"no token: copy {path} from the lab's head, or set {TOKEN} or {TOKEN_FILE}"
            ) from error
        if mode & 0o077:
            raise UsageError(f"others can read the token in {path}; chmod 600 it")
    if len(token) < 16:
        raise UsageError(
            f"the token has {len(token)} characters; expected at least 16: take that of hwbench lab"
            " start"
        )
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }


@contextmanager
def ray_node(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Ray's processes of this computer, for as long as the block lasts.

    Args:
        words: For `ray start`.
        log: Where they write what they have to say.
    """
    flags = [
        "--object-store-memory",
        str(STORE_BYTES),
        "--disable-usage-stats",
        "--dashboard-agent-listen-port",
        "0",
        "--block",
    ]
    command = [sys.executable, "-m", "hwbench.lab.ray_start", "start", *words, *flags]
    variables = {**os.environ, **environment()}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def head_words(host: str, port: int) -> list[str]:
    """For the head of a lab; it runs nothing but the pool."""
    from hwbench.lab.actors import POOL_RESOURCE

    return [
        "--head", "--node-ip-address", host, "--port", str(port), "--num-cpus", "0", "--num-gpus", "0",
        "--resources", json.dumps({POOL_RESOURCE: 1}), "--include-dashboard", "false",
    ]  # fmt: skip


def host_words(address: str, own: str | None, resources: Mapping[str, float]) -> list[str]:
    """For a host that joins; it offers its devices and nothing else.

    Args:
        address: Of the head.
        own: Of this computer, as the others reach it; None to let Ray find it.
        resources: Its devices.
    """
    words = [
        "--address",
        address,
        "--num-cpus",
        "0",
        "--num-gpus",
        "0",
        "--resources",
        json.dumps(dict(resources)),
    ]
    return words if own is None else [*words, "--node-ip-address", own]


def connect(
    address: str, process: subprocess.Popen[bytes] | None = None, log: Path | None = None
) -> None:
    """Connect this process to a lab.

    Args:
        address: `HOST:PORT` of its head.
        process: Ray's processes of this computer, if they were just started; they are waited for.
        log: What they wrote.

    Raises:
        UsageError: There is no token.
        DeviceUnavailableError: The lab cannot be reached, or refuses the token.
    """
    variables = environment()
    os.environ.update(variables)
    ray = import_optional("ray", "lab", "labs", DeviceUnavailableError)
    from hwbench.lab.actors import NAMESPACE
    from hwbench.lab.ray_start import heed_variables, keep_loopback

    heed_variables()
    keep_loopback()
    until_s = time.monotonic() + (START_S if process is not None else 0.0)
    while (reason := _refusal(address, variables["RAY_AUTH_TOKEN"])) is not None:
        if process is not None and process.poll() is not None:
            raise DeviceUnavailableError(f"Ray does not start here: {tail(log)}")
        if time.monotonic() > until_s:
            raise DeviceUnavailableError(
                f"no lab at {address} can be reached ({reason}); is hwbench lab start running"
                " there?"
            )
        time.sleep(POLL_S)
    try:
        ray.init(
            address,
            namespace=NAMESPACE,
            logging_level=logging.ERROR,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        line = str(error).strip().partition("\n")[0]
        text = (
            f"this computer has not joined the lab at {address} ({line}); on it: hwbench lab join"
            f" {address}"
        )
        raise DeviceUnavailableError(text) from error


def disconnect() -> None:
    """Undo `connect`, or what there is of it."""
    import ray

    ray.shutdown()


def _refusal(address: str, token: str) -> str | None:
    """Why a lab does not answer; None if it does.

    Ray itself would try for minutes before it says so.

    Raises:
        DeviceUnavailableError: It has another token, for which no waiting helps.
    """
    import grpc  # type: ignore[import-untyped]

    try:
        with grpc.insecure_channel(address) as channel:
            channel.unary_unary(ALIVE)(
                b"", timeout=ANSWER_S, metadata=(("authorization", f"Bearer {token}"),)
            )
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise DeviceUnavailableError(
                f"the lab at {address} has another token; take that of its head"
            ) from error
        return str(error.details()).rpartition(": ")[2] or error.code().name
    return None


def tail(log: Path | None) -> str:
    """The last words of Ray's processes."""
    if log is None or not log.exists():
        return "no log"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " ".join(lines[-3:])[:400] or "no word"


def find_pool() -> Any:
    """The pool of the lab that this process is connected to; None if there is none."""
    import ray

    from hwbench.lab.actors import NAMESPACE, POOL

    try:
        return ray.get_actor(POOL, NAMESPACE)
    except (ValueError, ray.exceptions.RayError):
        return None


def pool_of(address: str) -> Any:
    """The pool of the lab that this process is connected to.

    Raises:
        DeviceUnavailableError: There is none.
    """
    pool = find_pool()
    if pool is None:
        raise DeviceUnavailableError(
            f"at {address} is a Ray cluster, but no lab; start one: hwbench lab start"
        )
    return pool
