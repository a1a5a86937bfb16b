"""The version of hwbench, where every room can read it without loading the package's front door."""

from __future__ import annotations

from functools import lru_cache

__version__ = "0.1.0"


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Commit of the checkout that hwbench runs from; None for an installed package."""
    from pathlib import Path

    root = Path(__file__).parents[1]
    return _commit_of(str(root)) if (root / ".git").exists() else None


def commit_here() -> str | None:
    """Commit of the repository that the current folder belongs to; None outside of any.

    It is looked up once for each folder, since a build of a table asks for it hundreds of times.
    """
    from pathlib import Path

    try:
        return _commit_of(str(Path.cwd()))
    except OSError:  # the folder is gone
        return None


@lru_cache(maxsize=16)
def _commit_of(folder: str) -> str | None:
    from subprocess import SubprocessError, run

    try:
        answer = run(
            ["git", "-C", folder, "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, SubprocessError):
        return None
    return answer.stdout.strip()
