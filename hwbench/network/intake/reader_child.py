"""The process that reads model files: it takes requests, and forks a worker for each.

A worker has limits of memory, of processor time, and of core files, walls around it (`walls`), and
a temporary folder of its own, which is the only one it may write to. It ends with the reader, and
the reader with the process that started it, whatever ended that: the end of the pipe tells. See
`reader` for the other side.
"""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hwbench.errors import HwbenchError, SchemaError, WorkloadError, error_to_dict
from hwbench.network import graph
from hwbench.network.intake import archives, files, hugging_face, onnx_bounds, torch_files, walls
from hwbench.network.intake.input_texts import InputRequest
from hwbench.network.intake.torch_files import ReadRequest
from hwbench.network.intake.torch_onnx import Exported
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding
from hwbench.records.layer_key import LayerKey
from hwbench.records.scratch import remove_own, scratch_folder

if TYPE_CHECKING:
    import resource

_POLL_S = 0.02
"""How often the memory of a worker is looked at."""
_ENDING_S = 0.001
"""How often the end of a worker is looked for that has closed its files already."""
_LOADING_POLL_S = 0.1
"""How often the pipe of requests is looked at while a library is loaded."""
_DETAIL_LENGTH = 300
"""Characters of a message of a library that are passed on."""


def main() -> None:
    """Answer requests from standard input on standard output until that ends."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with scratch_folder() as folder:
        if sys.platform == "linux":
            _serve(os.fdopen(0, "rb", buffering=0, closefd=False), answers, folder)
        else:
            job = json.loads(sys.stdin.buffer.readline())
            _work(job, folder, walls.raise_walls(folder))
            _send(answers, folder, {})
            os.chdir(folder.parent)  # a folder that is someone's current one may not be removable


def _serve(requests: IO[bytes], answers: IO[bytes], folder: Path) -> None:
    """Fork a worker for each request, one after the other.

    Args:
        requests: One line of JSON per file; unbuffered, so that `select` sees what is left.
        answers: What is said of each file.
        folder: A private temporary folder.
    """
    import ctypes
    import resource  # noqa: F401 - loaded once for all workers

    import onnx
    import onnx.checker
    import onnx.shape_inference

    # Only the C library can ask the kernel to end this process with its parent.
    set_option = ctypes.CDLL(None).prctl
    first = True
    while line := requests.readline():
        job = json.loads(line)
        if not first:
            import onnx.reference  # noqa: F401 - a first file may not need it, later ones share it
        first = False
        if job["torch"] and "torch" not in sys.modules:
            # Most errors need no torch, which takes seconds to load.
            answered = _serve_job(job | {"plan_only": True}, requests, answers, folder, set_option)
            if answered is None:
                return
            if answered:
                continue
            with _ending_with(requests):
                import torch  # noqa: F401 - nothing of a file is read yet
        if _serve_job(job, requests, answers, folder, set_option) is None:
            return


@contextmanager
def _ending_with(requests: IO[bytes]) -> Iterator[None]:
    """End this process while the block runs, if nobody waits for it any more.

    Loading a large library takes seconds, in which nothing else looks at the pipe.

    Args:
        requests: The pipe of requests: as none comes meanwhile, it is readable when its writer is
            gone.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            ready, _, _ = select.select([requests], [], [], _LOADING_POLL_S)
            if ready:
                remove_own()
                os._exit(1)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()  # no thread may run when this process forks


def _serve_job(
    job: Mapping[str, Any],
    requests: IO[bytes],
    answers: IO[bytes],
    folder: Path,
    set_option: Callable[[int, int], object],
) -> bool | None:
    """Fork a worker for one request, and send what it says.

    Args:
        job: The request.
        requests: The pipe of requests.
        answers: Where the answer goes.
        folder: A private temporary folder.
        set_option: The kernel's `prctl`.

    Returns:
        Whether there was something to say; None if nobody waits for it any more.
    """
    scratch = Path(tempfile.mkdtemp(dir=folder))
    watched, held = os.pipe()
    reader = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(watched)
        # 1 is PR_SET_PDEATHSIG. If the reader ended before that, nobody waits any more.
        set_option(1, signal.SIGKILL)
        if os.getppid() == reader:
            _run_worker(job, scratch, requests, answers)
        os._exit(1)
    os.close(held)
    ended = _watch(child, job["limits"], watched, requests)
    os.close(watched)
    if ended is None:
        return None
    answered = _send(answers, scratch, ended, is_plan=job.get("plan_only", False))
    shutil.rmtree(scratch, ignore_errors=True)
    return answered


def _run_worker(
    job: Mapping[str, Any], scratch: Path, requests: IO[bytes], answers: IO[bytes]
) -> None:
    """Read one file in a fork of the reader; this process ends here."""
    os.setsid()
    # The pipes are the reader's: what a file makes its worker do must not answer for it.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, requests.fileno())
    os.dup2(null, answers.fileno())
    output = os.open(scratch / "output", os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _limit_resources(job["limits"])
    request = job["request"]
    missing_walls: tuple[str, ...] = ()
    # A pickle that is trusted, or code that the user named, may do what it likes.
    if not (request["trust_pickle"] or request["arch"] or request["main"]):
        missing_walls = walls.raise_walls(scratch)
    code = 1
    try:
        _work(job, scratch, missing_walls)
        code = 0
    finally:
        sys.stderr.flush()
        # No clean-up of the reader's: it is not this process's to do.
        os._exit(code)


def _limit_resources(limits: Mapping[str, Any]) -> None:
    """Bound what this process may take, beside what it has already."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    bounds = {
        # Address space is no measure, as libraries reserve much that they never touch.
        resource.RLIMIT_DATA: pages * resource.getpagesize() + limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["memory_bytes"],
        resource.RLIMIT_CPU: math.ceil(limits["seconds"]),
    }
    for kind, bound in bounds.items():
        _, highest = resource.getrlimit(kind)
        if highest != resource.RLIM_INFINITY:
            bound = min(bound, highest)  # noqa: PLW2901
        # At the lower of two limits of time comes a signal that says so, at the higher the end.
        spare = 1 if kind == resource.RLIMIT_CPU and bound != highest else 0
        resource.setrlimit(kind, (bound, bound + spare))


def _watch(
    child: int, limits: Mapping[str, Any], watched: int, requests: IO[bytes]
) -> dict[str, Any] | None:
    """Wait for a worker, and end it at its limits.

    Args:
        child: Its process.
        limits: What it may take.
        watched: The end of a pipe that closes when the worker ends.
        requests: The pipe of requests: as none comes meanwhile, it is readable when its writer is
            gone.

    Returns:
        What the worker used, and what ended it unless it ended by itself. None if nobody waits for
        it any more.
    """
    memory_limit = limits["memory_bytes"] + _resident_bytes(os.getpid())
    # The kernel ends a worker that computes for too long; one that only waits is ended here.
    deadline = time.monotonic() + limits["wait_s"]
    ended: dict[str, Any] | None = {}
    watches = [watched, requests.fileno()]
    while True:
        ready, _, _ = select.select(watches, [], [], _POLL_S if watched in watches else _ENDING_S)
        if requests.fileno() in ready:
            ended = None
            break
        finished, status, used = os.wait4(child, os.WNOHANG)
        if finished:
            _kill_group(child)
            return _explain_status(status) | _describe_usage(used)
        if watched in ready:
            # It closes shortly before the kernel has the status; reading it would tell no more.
            watches.remove(watched)
        if time.monotonic() > deadline:
            ended = {"ended_by": "time", "detail": ""}
            break
        if _resident_bytes(child) > memory_limit:
            ended = {"ended_by": "memory", "detail": ""}
            break
    _kill_group(child)
    _, _, used = os.wait4(child, 0)
    if ended is None:
        return None
    return ended | _describe_usage(used)


def _kill_group(child: int) -> None:
    for kill in (os.killpg, os.kill):
        with suppress(OSError):
            kill(child, signal.SIGKILL)


def _explain_status(status: int) -> dict[str, Any]:
    """Say what ended a worker, by the status that the kernel gives."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return {"ended_by": "time", "detail": ""}
    if code < 0:
        return {"ended_by": "signal", "detail": -code}
    return {}


def _describe_usage(used: resource.struct_rusage) -> dict[str, Any]:
    """Say what a worker used: processor time, and the most memory it held, libraries included."""
    return {"used_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}


def _resident_bytes(process: int) -> int:
    """Count the memory that a process holds, in bytes; 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _send(
    answers: IO[bytes], scratch: Path, ended: Mapping[str, Any], *, is_plan: bool = False
) -> bool:
    """Send what a worker left: a line of JSON, then the model.

    Args:
        answers: Where it goes.
        scratch: The folder of the worker.
        ended: What ended it; empty if it ended by itself.
        is_plan: Whether it was asked for errors alone: without one, nothing is sent.

    Returns:
        Whether something was sent.
    """
    result, model = scratch / "result.json", scratch / "model.onnx"
    answer = dict(ended)
    size = 0
    if "ended_by" not in answer:
        try:
            answer |= dict(json.loads(result.read_text()))
            if "workload" in answer:
                size = model.stat().st_size
        except (OSError, TypeError, ValueError, RecursionError):
            detail = _read_last_line(scratch / "output")
            # Thus the C library ends a process that has no memory left for a thread.
            is_memory = "cannot allocate memory" in detail
            answer |= {"ended_by": "memory" if is_memory else "exit", "detail": detail}
    if is_plan and not answer.keys() & {"error", "ended_by"}:
        return False
    answer["artifact_bytes"] = size
    answers.write(json.dumps(answer).encode() + b"\n")
    if size:
        with model.open("rb") as file:
            shutil.copyfileobj(file, answers, 1 << 20)
    answers.flush()
    return True


def _read_last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    texts = [" ".join(line.split()) for line in lines if line.strip()]
    return texts[-1][:_DETAIL_LENGTH] if texts else "no message"


def _work(job: Mapping[str, Any], scratch: Path, missing_walls: Sequence[str]) -> None:
    """Read one file, and leave `result.json` and, if all went well, `model.onnx`.

    Args:
        job: The request.
        scratch: A folder for this file alone.
        missing_walls: What this process is not kept from.
    """
    tempfile.tempdir = str(scratch)
    name = job["request"]["name"]
    result: dict[str, Any]
    try:
        if job["rehearses"]:
            os.chdir(job["folder"])
            torch_files.rehearse(archives.inspect(Path(name)), name)
            (scratch / "result.json").write_text(json.dumps({"rehearsed": True}))
            return
        workload = _read(job, scratch)
        if workload is None:
            (scratch / "result.json").write_text("{}")
            return
        (scratch / "model.onnx").write_bytes(workload.artifact)
        findings = list(workload.findings)
        if job["torch"] and missing_walls:
            findings.append(_make_finding(missing_walls))
        facts = {
            "name": workload.name,
            "inputs": [asdict(spec) for spec in workload.inputs],
            "batch": workload.batch,
            "precision": workload.precision,
            "macs": workload.macs,
            "params": workload.params,
            "file_bytes": workload.file_bytes,
            "findings": [asdict(finding) for finding in findings],
            "format": workload.format,
            "node_names": dict(workload.node_names),
            "weights": None if workload.weights is None else asdict(workload.weights),
        }
        result = {"workload": facts}
        text = json.dumps(result)
    except HwbenchError as error:
        text = json.dumps(error_to_dict(error))
    except MemoryError:
        text = json.dumps({"ended_by": "memory", "detail": ""})
    except Exception as error:  # noqa: BLE001 - whatever libraries raise about a file is the file's
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_DETAIL_LENGTH]
        message = f"{name} is damaged, or breaks the rules of its format ({reason})"
        text = json.dumps(error_to_dict(SchemaError(f"{message}; export it anew")))
    (scratch / "result.json").write_text(text)


def _make_finding(missing_walls: Sequence[str]) -> Finding:
    """Say what a file of torch was not kept from while it ran."""
    return Finding(
        "reader_without_walls",
        f"this system cannot keep a process from {' and '.join(missing_walls)}: the file of torch"
        " was run with its operators checked and its memory and time bounded, but without a wall",
    )


def _read(job: Mapping[str, Any], scratch: Path) -> Workload | None:
    """Check a file, export it, describe it, and do what its user will do with it next.

    Returns:
        The workload; None if only what needs no torch was asked for, and all of that is well.
    """
    fields = dict(job["request"])
    fields["inputs"] = tuple(
        InputRequest(**(row | {"shape": tuple(row["shape"])})) for row in fields["inputs"]
    )
    fields["dims"] = tuple((name, size) for name, size in fields["dims"])
    fields["main"] = tuple(fields["main"])
    request = ReadRequest(**fields)
    os.chdir(job["folder"])
    sys.path[:] = job["paths"]
    path = Path(request.name)
    exported: Exported
    if path.is_dir():
        folder = hugging_face.inspect_folder(path, request)
        size = folder.size_bytes
        if job.get("plan_only"):
            return None
        os.chdir(scratch)
        exported = hugging_face.export_folder(folder, request, scratch)
    else:
        size = path.stat().st_size
        file = archives.inspect(path, trust_pickle=request.trust_pickle)
        if file.kind == "onnx":
            exported = files.export_onnx(file, path, request)
            os.chdir(scratch)
            try:
                return _describe(exported, request, size, job)
            except (SchemaError, WorkloadError) as error:
                os.chdir(job["folder"])
                files.blame_sizes(file, path, request, error)
                raise
        else:
            # From here on a relative path leads nowhere but into the folder of this file.
            plan = torch_files.plan_file(file, request)
            if job.get("plan_only"):
                return None
            os.chdir(scratch)
            exported = torch_files.export_file(plan, request)
    return _describe(exported, request, size, job)


def _describe(
    exported: Exported, request: ReadRequest, size_bytes: int, job: Mapping[str, Any]
) -> Workload:
    """Describe what was read, and do what its user will do with it next."""
    workload = files.describe_workload(exported, request, job["precision"], size_bytes)
    _rehearse(workload, job["limits"]["memory_bytes"])
    return workload


def _rehearse(workload: Workload, memory_bytes: int) -> None:
    """Load a workload as measuring will, so that it repeats only what went well here.

    Errors with a name of hwbench's are left to whoever meets them there.

    Args:
        workload: The workload.
        memory_bytes: What those who run it may need by the file's word alone.

    Raises:
        MemoryError: They would need more.
    """
    if onnx_bounds.count_bytes(graph.load(workload.onnx_graph)) > memory_bytes:
        raise MemoryError
    with suppress(HwbenchError):
        model = graph.load(workload.onnx_graph)
        graph.zero_share(model)
        graph.count(model)
        for layer in graph.all_layers(model):
            if layer.key is not None:
                LayerKey.parse(str(layer.key))
