"""The native runner as a program.

Where its source is, how it is built, and which library it opens on this computer.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
from hashlib import sha256
from pathlib import Path

from hwbench.devices.shared.runner.protocol import one_line
from hwbench.errors import (
    DeviceCommandError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    UsageError,
)
from hwbench.network.ort import onnxruntime
from hwbench.records.scratch import scratch_folder
from hwbench.user_folders import cache_folder

_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O2", "-Wall", "-Wextra")
_COMPILE_TIMEOUT_S = 120.0


ORT_RUNNER, LITERT_RUNNER = "hwbench_runner.c", "hwbench_litert.c"
"""The runners' C files: of ONNX Runtime, and of LiteRT."""
_SHARED = "plan.h"
"""What they share; it lies beside them."""


def runner_source(name: str = ORT_RUNNER) -> Path:
    """Find a runner's C file.

    It is in `runners/native` of a checkout, and beside this module in an installed wheel.

    Args:
        name: Name of the file.

    Raises:
        DeviceUnavailableError: It is in neither place.
    """
    here = Path(__file__).resolve().parent
    for source in (
        here.parents[3] / "runners" / "native" / name,
        here / name,
    ):
        if source.is_file():
            return source
    raise DeviceUnavailableError(
        f"the native runner's source is not beside {here}; install hwbench again"
    )


def runner_sources(name: str) -> tuple[Path, Path]:
    """Find a runner's C file, and the header that it shares with the others."""
    source = runner_source(name)
    return source, source.with_name(_SHARED)


def build_runner(cc: str | None = None, name: str = ORT_RUNNER) -> Path:
    """Compile a runner, once for each source, compiler and set of flags.

    Later calls find it in the user's cache.

    Args:
        cc: Compiler with its options, as one would type it (`aarch64-linux-gnu-gcc`). None for
            `$CC`, or else the first of cc, gcc and clang.
        name: Name of its C file.

    Returns:
        The program, for the compiler's target.

    Raises:
        DeviceUnavailableError: No compiler, or the cache cannot be written.
        DeviceCommandError: The compiler refused.
        DeviceTimeoutError: The compiler did not finish.
        UsageError: The compiler is no command.
    """
    source, header = runner_sources(name)
    compiler = _find_compiler(cc)
    # The program is named after all that decides what it does, the compiler's version included.
    version = _run_compiler([*compiler, "--version"])
    texts = [file.read_text(encoding="utf-8") for file in (source, header)]
    identity = "\0".join([*texts, version, *compiler, *_FLAGS])
    cache = cache_folder()
    program_name = f"runner-{sha256(identity.encode()).hexdigest()[:16]}"
    try:
        kept = _find_kept(cache, program_name)
        if kept is not None:
            return kept
        cache.mkdir(parents=True, exist_ok=True)
        with scratch_folder(cache) as folder:
            fresh = folder / "runner"
            _run_compiler([*compiler, *_FLAGS, "-o", str(fresh), str(source), "-ldl"])
            fresh.chmod(0o755)
            program = cache / f"{program_name}-{_content_hash(fresh)}"
            fresh.replace(program)  # whole or not at all, also when two processes build at once
    except OSError as error:
        raise DeviceUnavailableError(
            f"cannot keep the native runner in {cache} ({error}); set XDG_CACHE_HOME"
        ) from error
    return program


def _find_kept(cache: Path, name: str) -> Path | None:
    """A program that was built earlier and is still what was built; others of its name are removed.

    Its own name ends with the hash of its content, so that one which was cut off or changed since
    is not executed. Nor is one that somebody else could have put there, or can change.
    """
    for program in sorted(cache.glob(f"{name}*")):
        facts = program.lstat()
        is_ours = facts.st_uid == os.geteuid() and not facts.st_mode & 0o022
        is_file = stat.S_ISREG(facts.st_mode)
        if is_file and is_ours and program.name == f"{name}-{_content_hash(program)}":
            return program
        program.unlink()
    return None


def _content_hash(program: Path) -> str:
    return sha256(program.read_bytes()).hexdigest()[:32]


def _find_compiler(cc: str | None) -> list[str]:
    """Find a compiler that is installed, as an argument list."""
    wanted = cc or os.environ.get("CC")
    candidates = [[name] for name in _COMPILERS]
    if wanted:
        try:
            candidates = [shlex.split(wanted)]
        except ValueError as error:
            raise UsageError(
                f"the C compiler {wanted!r} is no command ({error}); set CC to one, such as gcc"
            ) from error
    for argv in candidates:
        if argv and shutil.which(argv[0]):
            return argv
    names = wanted or ", ".join(_COMPILERS)
    raise DeviceUnavailableError(
        f"no C compiler found ({names}); install one (apt install gcc) or set CC"
    )


def _run_compiler(argv: list[str]) -> str:
    """Run the compiler, and return what it wrote to standard output."""
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            timeout=_COMPILE_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise DeviceUnavailableError(
            f"cannot start the C compiler {argv[0]} ({error}); set CC to one that works"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DeviceTimeoutError(
            f"{argv[0]} did not finish within {_COMPILE_TIMEOUT_S:.0f} s; try again"
        ) from error
    if done.returncode != 0:
        tail = one_line(done.stderr[-2000:].decode("utf-8", "replace"))
        raise DeviceCommandError(
            f"{shlex.join(argv[:1])} failed ({done.returncode}): {tail}",
            argv,
            done.returncode,
            tail,
        )
    return done.stdout.decode("utf-8", "replace")


def ort_library() -> Path:
    """Find the C library inside the installed onnxruntime package.

    It is of the same version as the Python module.

    Raises:
        DeviceUnavailableError: onnxruntime is missing, or its package has no such library.
    """
    folder = Path(str(onnxruntime().__file__)).resolve().parent / "capi"
    libraries = sorted(folder.glob("libonnxruntime.so*"))
    if not libraries:
        raise DeviceUnavailableError(
            f"no libonnxruntime.so in {folder}; pip install onnxruntime for Linux"
        )
    return libraries[0]
