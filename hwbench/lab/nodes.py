"""Ray's own processes: the head of a lab, and a host that joins it.

Either needs a token; Ray refuses whoever has another.

Whoever has the token may run code on the hosts, as with any Ray cluster: hwbench asks nothing of
them but its own tasks, but Ray itself has no list of what is allowed. So the token is a password,
and the head listens on this computer alone unless it is asked to do otherwise.
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
from hwbench.user_folders import home_folder

TOKEN, TOKEN_FILE = "HWBENCH_LAB_TOKEN", "HWBENCH_LAB_TOKEN_FILE"
START_S = 120.0
"""Longest wait for Ray's processes to answer, in seconds."""
POLL_S, ANSWER_S = 0.2, 5.0
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""What Ray's own `ray health-check` calls (src/ray/protobuf/gcs_service.proto of Ray's sources)."""
STORE_BYTES = 256 * 1024 * 1024
"""Memory of each host for models in transit, in bytes; Ray would take a third of the computer."""
STOP_S = 15.0


def token_path() -> Path:
    """Find the file of the token.

    It is `$HWBENCH_LAB_TOKEN_FILE`, else a file in the user's configuration folder.
    """
    path = os.environ.get(TOKEN_FILE)
    if path:
        return Path(path)
    return home_folder("user_config_path", f"set {TOKEN_FILE}") / "lab_token"


def make_token() -> Path | None:
    """Make a token if there is none.

    Returns:
        The file that holds it; None if it is in a variable.

    Raises:
        UsageError: The file cannot be written.
    """
    path = token_path()
    if os.environ.get(TOKEN):
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # The file is made with its permissions, so that nobody else can ever open it.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
    except OSError as error:
        raise UsageError(
            f"cannot write the token to {path}: {error.strerror or error}; set {TOKEN}"
        ) from error
    return path


def ray_environment() -> dict[str, str]:
    """Make the environment variables for Ray: the token, and no telemetry or guessing.

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
    """Run Ray's processes of this computer for as long as the block lasts.

    Args:
        words: The arguments of `ray start`.
        log: The file that they write their messages to.
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
    variables = {**os.environ, **ray_environment()}
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


def head_arguments(host: str, port: int) -> list[str]:
    """Make the arguments of `ray start` for the head of a lab, which runs nothing but the pool.

    Args:
        host: The address of this computer, as the others reach it.
        port: The port of the lab.
    """
    from hwbench.lab.actors import POOL_RESOURCE

    words = ["--head", "--node-ip-address", host, "--port", str(port)]
    words += ["--num-cpus", "0", "--num-gpus", "0"]
    words += ["--resources", json.dumps({POOL_RESOURCE: 1}), "--include-dashboard", "false"]
    return words


def host_arguments(address: str, own: str | None, resources: Mapping[str, float]) -> list[str]:
    """Make the arguments of `ray start` for a host, which offers its devices and nothing else.

    Args:
        address: The address of the lab's head.
        own: The address of this computer, as the others reach it; None to let Ray find it.
        resources: The custom resources that stand for its devices.
    """
    words = ["--address", address, "--num-cpus", "0", "--num-gpus", "0"]
    words += ["--resources", json.dumps(dict(resources))]
    if own is not None:
        words += ["--node-ip-address", own]
    return words


def connect(
    address: str, process: subprocess.Popen[bytes] | None = None, log: Path | None = None
) -> None:
    """Connect this process to a lab.

    Args:
        address: The address of the lab's head, `HOST:PORT`.
        process: Ray's processes of this computer, if they were just started; they are waited for.
        log: The file that they write to.

    Raises:
        UsageError: There is no token.
        DeviceUnavailableError: The lab cannot be reached, or refuses the token.
    """
    variables = ray_environment()
    os.environ.update(variables)
    ray = import_optional("ray", "lab", "labs", DeviceUnavailableError)
    from hwbench.lab.actors import NAMESPACE
    from hwbench.lab.ray_start import keep_loopback, reload_variables

    reload_variables()
    keep_loopback()
    until_s = time.monotonic() + (START_S if process is not None else 0.0)
    while True:
        reason = _find_refusal(address, variables["RAY_AUTH_TOKEN"])
        if reason is None:
            break
        if process is not None and process.poll() is not None:
            raise DeviceUnavailableError(f"Ray does not start here: {read_log_tail(log)}")
        if time.monotonic() > until_s:
            raise DeviceUnavailableError(
                f"no lab at {address} can be reached ({reason}); is hwbench lab start running"
                " there?"
            )
        time.sleep(POLL_S)
    try:
        with _own_sigterm():
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


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's way to end at SIGTERM: Ray sets one that leaves without tidying up."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is not before:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def disconnect() -> None:
    """Undo `connect`, also if it came only half-way."""
    import ray

    ray.shutdown()


def _find_refusal(address: str, token: str) -> str | None:
    """Find out why a lab does not answer.

    Ray itself would try for minutes before it says so.

    Returns:
        The reason; None if the lab answers.

    Raises:
        DeviceUnavailableError: The lab has another token, against which no waiting helps.
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


def read_log_tail(log: Path | None) -> str:
    """Read the last lines of the log of Ray's processes."""
    if log is None or not log.exists():
        return "no log"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " ".join(lines[-3:])[:400] or "an empty log"


def find_pool() -> Any:
    """Find the pool of the lab that this process is connected to; None if there is none."""
    import ray

    from hwbench.lab.actors import NAMESPACE, POOL

    try:
        return ray.get_actor(POOL, NAMESPACE)
    except (ValueError, ray.exceptions.RayError):
        return None


def require_pool(address: str) -> Any:
    """Give the pool of the lab that this process is connected to.

    Raises:
        DeviceUnavailableError: There is no pool.
    """
    pool = find_pool()
    if pool is None:
        raise DeviceUnavailableError(
            f"at {address} is a Ray cluster, but no lab; start one: hwbench lab start"
        )
    return pool
