"""Checkpoints of a training in the user's cache folder, so that a killed one goes on."""

from __future__ import annotations

import io
import logging
import pickle
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.network.intake.failures import FAILURES, reason
from hwbench.records.scratch import scratch_folder
from hwbench.user_folders import cache_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

FOLDER = "training"
"""The folder of checkpoints, in the cache folder."""
KEPT_S = 14 * 24 * 3600
"""Seconds after which nobody is expected to go on with a training that was killed."""
DIGEST = sha256().digest_size


class FileCheckpoint:
    """The state of one training in a file, which is whole or not there.

    Args:
        facts: What tells the training from others.
    """

    def __init__(self, facts: Sequence[str]) -> None:
        name = sha256("\n".join(facts).encode()).hexdigest()
        self.path: Path = cache_folder() / FOLDER / f"{name}.pt"

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None where there is none that can be read."""
        import torch

        if not self.path.is_file():
            return None
        data = self.path.read_bytes()
        try:
            if sha256(data[DIGEST:]).digest() != data[:DIGEST]:
                raise ValueError("it is not what was written")
            state: dict[str, Any] = torch.load(io.BytesIO(data[DIGEST:]), weights_only=True)
        except (*FAILURES, pickle.UnpicklingError, EOFError) as error:
            logger.warning(
                "the checkpoint %s cannot be read (%s); the training begins anew",
                self.path,
                reason(error),
            )
            return None
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state in place of the last one; one that cannot be written is not kept."""
        import torch

        written = io.BytesIO()
        torch.save(state, written)
        data = written.getvalue()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with scratch_folder(self.path.parent) as folder:
                whole = folder / self.path.name
                whole.write_bytes(sha256(data).digest() + data)
                whole.replace(self.path)
            self._remove_old()
        except OSError as error:
            logger.warning(
                "the training is not kept, as %s cannot be written (%s)",
                self.path,
                error.strerror or error,
            )

    def remove(self) -> None:
        """Keep nothing any more."""
        self.path.unlink(missing_ok=True)

    def _remove_old(self) -> None:
        """Remove what others left behind."""
        for path in self.path.parent.glob("*.pt"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()
