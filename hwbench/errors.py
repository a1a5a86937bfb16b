"""Every error hwbench raises on purpose, and the exit code of the command line for each.

One message is one line: what happened, with the value, what was expected, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence


class HwbenchError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 2


class UsageError(HwbenchError):
    """The request itself is wrong: an unknown name, a missing option, values that exclude each other."""


class DeviceError(HwbenchError):
    """The target, its runtime or the way to it failed."""

    exit_code = 3


class DeviceUnavailableError(DeviceError):
    """The device cannot be opened: absent, not permitted, its library missing, or in use by another process."""


class DeviceLostError(DeviceError):
    """The device went away while it was in use; samples received before are kept."""


class DeviceTimeoutError(DeviceError):
    """The device did not answer within the time allowed."""


class DeviceCommandError(DeviceError):
    """A command on the device ended with a failure.

    Attributes:
        argv: The command, as an argument list.
        code: Its exit status.
        output_tail: The end of what it printed.
    """

    def __init__(self, message: str, argv: Sequence[str], code: int, output_tail: str) -> None:
        super().__init__(message)
        self.argv = tuple(argv)
        self.code = code
        self.output_tail = output_tail


class WorkloadError(HwbenchError):
    """The model cannot be turned into something to measure."""


class UnsupportedLayerError(WorkloadError):
    """The runtime or hwbench has no way to run or describe a layer of the model."""

    exit_code = 4


class BuildError(WorkloadError):
    """The runtime refused to build the model."""

    exit_code = 4


class UnsafeModelError(WorkloadError):
    """The model file would execute code, or reaches outside its folder, and was not trusted to."""


class MeasurementError(HwbenchError):
    """Samples were taken but do not make a measurement."""

    exit_code = 3


class OutputParseError(MeasurementError):
    """The output of a runtime or profiler is not in the expected form."""


class LookupTableError(HwbenchError):
    """A lookup table cannot answer."""


class MissingEntryError(LookupTableError):
    """A layer has no entry in the table."""


class StaleTableError(LookupTableError):
    """The table was made for another device, runtime or settings."""


class SchemaError(HwbenchError):
    """A stored or exchanged file is damaged, or of a schema this version does not read."""


class StoreUnavailableError(HwbenchError):
    """The server of the store cannot be reached, or does not take what is written.

    Nothing of that is half-written.
    """


class IncomparableError(HwbenchError):
    """Two measurements differ in more than the model, so their ratio means nothing."""
