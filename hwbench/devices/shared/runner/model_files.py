"""Model files on this computer, where a native runner reads them."""

from __future__ import annotations

from pathlib import Path

from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.network.workload import Workload

KEPT_MODELS = 4
"""Models whose files are kept.

Building a table prepares hundreds of models once, a comparison prepares the same two repeatedly.
"""


class ModelFiles:
    """Files of the models that were prepared last.

    Args:
        folder: An empty folder for them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, runner: RunnerProcess, workload: Workload) -> Path:  # noqa: ARG002 - it reads our own files
        """Write the model where the runner can read it, in place of the one written longest ago."""
        path = self._folder / f"{workload.sha256}.{workload.format}"
        if not path.exists():
            oldest_first = sorted(
                self._folder.glob(f"*.{workload.format}"),
                key=lambda file: file.stat().st_mtime_ns,
            )
            surplus = max(0, len(oldest_first) + 1 - KEPT_MODELS)
            for file in oldest_first[:surplus]:
                file.unlink()  # a session that is loaded no longer needs its file
            path.write_bytes(workload.artifact)
        return path
