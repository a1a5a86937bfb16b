"""Every error hwbench raises on purpose, and the exit code of the command line for each.

A message is one line: what happened, with the value, and what was expected. What would help stands
beside it as a `Remedy`, in terms of the Python functions; the command line shows the same remedy as
a command that can be pasted. So no message names an option, and no caller reads of an option that
it does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Value = str | int | float | bool | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument that would help, of the call that failed.

    Attributes:
        name: As the Python functions call it (`trust_pickle`).
        value: What to pass, several texts for all entries of a list; None leaves the value to the
            caller.
        change: In place of a value, how it should differ: "another", "a longer", "no".
        purpose: What passing it does, or when it is right: "only if you trust its author".
        also: Further arguments that are needed with it, by name; None leaves a value to the caller.
    """

    name: str
    value: Value = None
    change: str = ""
    purpose: str = ""
    also: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.change:
            text = f"pass {self.change} {self.name}"
        elif self.value is None:
            text = f"pass {self.name}=..."
        else:
            text = f"pass {self.name}={self.value!r}"
        for name, value in self.also.items():
            text += f" and {name}=..." if value is None else f" and {name}={value!r}"
        return f"{self.purpose}: {text}" if self.purpose else text


@dataclass(frozen=True, slots=True)
class Call:
    """Another function of hwbench that would help.

    Attributes:
        function: Its name (`build_table`).
        arguments: What to pass, by name; None leaves a value to the caller.
        purpose: What calling it does: "measure it".
    """

    function: str
    arguments: Mapping[str, Value] = field(default_factory=dict)
    purpose: str = ""

    def __str__(self) -> str:
        arguments = ", ".join(
            f"{name}=..." if value is None else f"{name}={value!r}"
            for name, value in self.arguments.items()
        )
        text = f"{self.function}({arguments})"
        return f"{self.purpose}: {text}" if self.purpose else f"call {text}"


Remedy = Argument | Call
"""What would help against an error."""


class HwbenchError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns.

    Args:
        message: What happened, with the value, and what was expected.
        remedies: What would help, any one of them.
    """

    exit_code = 2

    def __init__(self, message: str, *remedies: Remedy) -> None:
        super().__init__(message, *remedies)
        self.message = message
        self.remedies = remedies

    def add_remedy(self, remedy: Remedy) -> None:
        """Name another thing that would help; for whoever handles the error on its way."""
        self.remedies = (*self.remedies, remedy)

    def __str__(self) -> str:
        return "; ".join([self.message, ", or ".join(map(str, self.remedies))]).removesuffix("; ")


class UsageError(HwbenchError):
    """The request itself is wrong: an unknown name, or values that exclude each other."""


class DeviceError(HwbenchError):
    """The target, its runtime or the way to it failed."""

    exit_code = 3


class DeviceUnavailableError(DeviceError):
    """The device cannot be opened: absent, not permitted, its library missing, or in use."""


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


class OutputTooLargeError(OutputParseError):
    """The output of a runtime or profiler is larger than hwbench reads; less of it would do."""


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


class StoreLostError(StoreUnavailableError):
    """The store's file was deleted or replaced while in use; what was written to it is gone."""

    exit_code = 3


class IncomparableError(HwbenchError):
    """Two measurements differ in more than the model, so their ratio means nothing."""


def error_to_dict(error: HwbenchError) -> dict[str, Any]:
    """An error as plain JSON types, so that another process can raise it."""
    data: dict[str, Any] = {"error": type(error).__name__, "text": error.message}
    if error.remedies:
        data["remedies"] = [asdict(remedy) for remedy in error.remedies]
    return data


def error_from_dict(
    data: Mapping[str, Any], unknown: type[HwbenchError] = DeviceError
) -> HwbenchError:
    """The error that `error_to_dict` described, its message on one line.

    Args:
        data: What `error_to_dict` returned in another process.
        unknown: Class for an error whose own class is not known here, or needs more than a message.
    """
    remedies: list[Remedy] = []
    for remedy in data.get("remedies", ()):
        if "function" in remedy:
            remedies.append(Call(**remedy))
        else:
            value = remedy.get("value")
            listed = tuple(value) if isinstance(value, list) else value
            remedies.append(Argument(**{**remedy, "value": listed}))
    kind = _KINDS.get(str(data["error"]), unknown)
    return kind(" ".join(str(data["text"]).split()), *remedies)


def _all_kinds(base: type[HwbenchError]) -> dict[str, type[HwbenchError]]:
    kinds = {base.__name__: base}
    for kind in base.__subclasses__():
        kinds.update(_all_kinds(kind))
    return kinds


_KINDS = _all_kinds(HwbenchError)
del _KINDS["DeviceCommandError"]  # it needs a command as well
