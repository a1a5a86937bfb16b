"""Options that several commands share: each defined once, with its check.

A command takes a whole group as one parameter; `options` spreads the group's fields over the
command line.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from functools import wraps
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from hwbench.records.measurement import Settings

T = TypeVar("T")


def options(command: Callable[..., T]) -> Callable[..., T]:
    """Spread dataclass parameters over the command's signature, and gather their fields again."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    signature = inspect.signature(command)
    spread: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        own = (
            _parameters(groups[name])
            if name in groups
            else [parameter.replace(annotation=hints[name])]
        )
        spread += [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own]

    @wraps(command)
    def run(**values: Any) -> T:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        return command(**values)

    run.__signature__ = signature.replace(parameters=spread)  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in spread}
    return run


def _parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(f.name, kind, default=f.default, annotation=hints[f.name])
        for f in fields(group)
    ]


def share(text: str | float) -> float:
    """A share above 0 and below 1, written `1%` or `0.01`.

    Raises:
        typer.BadParameter: It is not.
    """
    written = str(text).strip()
    try:
        value = float(written.removesuffix("%")) / (100 if written.endswith("%") else 1)
    except ValueError as error:
        raise typer.BadParameter(f"{written!r} is not a share; write 1% or 0.01") from error
    if not 0 < value < 1:
        raise typer.BadParameter(f"{written!r} is not between 0 and 100 %; write 1% or 0.01")
    return value


def duration(text: str | float) -> float:
    """A positive, finite number of seconds.

    Raises:
        typer.BadParameter: It is not.
    """
    return _positive(text, "number of seconds")


def timespan(text: str | float) -> float:
    """A positive number of seconds, also written `90s`, `10m` or `1h`.

    Raises:
        typer.BadParameter: It is not.
    """
    written = str(text).strip()
    unit_s = {"s": 1, "m": 60, "h": 3600}.get(written[-1:], 0)
    number = written[:-1] if unit_s else written
    return (unit_s or 1) * _positive(number, "time such as 90s, 10m or 1h")


def factor(text: str | float) -> float:
    """A positive, finite factor.

    Raises:
        typer.BadParameter: It is not.
    """
    return _positive(text, "factor")


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Numbers with commas between them; None where none were given.

    Args:
        option: What they are given by, without dashes.
        text: What was written.

    Raises:
        typer.BadParameter: They are not numbers.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(
            f"--{option} is {text!r}; expected a number, or three with commas between them"
        ) from error


def _positive(text: str | float, noun: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a {noun}") from error
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{text} is not a positive {noun}")
    return value


def wait_for_busy_devices(context: typer.Context, wait_s: float | None) -> float | None:
    """Wait for devices in use, until the command ends."""
    if wait_s is not None:
        from hwbench.devices.shared.lock import wait_for_devices

        context.with_resource(wait_for_devices(wait_s))
    return wait_s


def writable(target: str | None) -> str | None:
    """Refuse a file that could not be written *before* anything is measured for it."""
    if target in {None, "-"}:
        return target
    path = Path(str(target))
    if path.is_dir():
        raise typer.BadParameter(f"{target!r} is a folder; give a file, or - for standard output")
    if not path.parent.is_dir():
        raise typer.BadParameter(f"the folder {str(path.parent)!r} does not exist")
    return target


class Precision(StrEnum):
    """Precisions of a workload."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"


class OutputFormat(StrEnum):
    """What standard output holds."""

    text = "text"
    md = "md"
    json = "json"


VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Also show the traceback of an error.", rich_help_panel="Output"
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", metavar="ADDRESS", help="The device to measure on. hwbench devices lists them."
    ),
]
LabOption = Annotated[
    str | None,
    typer.Option(
        "--lab",
        metavar="HOST:PORT",
        help="Measure in the lab at this address. --device then selects among its devices, such as"
        " 'android:*' or 'soc=Tensor G3'.",
    ),
]
ThreadsOption = Annotated[
    int, typer.Option(min=1, help="Number of threads, each pinned to a core of its own.")
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="The store: a SQLite file or the URL of a database. Without it $HWBENCH_STORE,"
        " or a file in the user's data folder.",
    ),
]
MinEffectOption = Annotated[
    float | None,
    typer.Option(
        "--min-effect",
        parser=share,
        metavar="SHARE",
        help="The smallest difference that matters; 1% if not given.",
    ),
]
FailOnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="RULE",
        help=(
            "Exit with code 1 if this rule holds, such as FIELD<NUMBER (also <=, >, >=)."
            " Repeatable."
        ),
    ),
]


DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Images to evaluate the models on: a folder with one sub-folder per class, or with"
        " train and test; fashion-mnist; digits; or package.module:factory of torch datasets.",
    ),
]
EvaluateOption = Annotated[
    str | None,
    typer.Option(
        "--evaluate",
        metavar="MODULE:FUNCTION",
        help="What evaluates a model in place of its accuracy: takes a torch module that runs it,"
        " and gives a number, or one for each sample.",
    ),
]
JunitOption = Annotated[
    str | None,
    typer.Option(
        "--junit",
        metavar="FILE",
        help="Also write the result as JUnit XML to this file: SLOWER and rules that were hit are"
        " failures, UNRESOLVED is skipped.",
        callback=writable,
        rich_help_panel="Output",
    ),
]


@dataclass(frozen=True)
class ModelFiles:
    """How the model files are read, whatever batch and precision they are measured in."""

    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="SHAPE",
            help="An input: 1x3x224x224, NAME=1x128:int64, or with the range of its values"
            " NAME=1x128:int64[0,30522]. Repeatable.",
            rich_help_panel="Model",
        ),
    ] = None
    values: Annotated[
        str | None,
        typer.Option(
            "--inputs",
            metavar="FILE",
            help="Values of the inputs, by numpy.savez: by name, or in order. They also say the"
            " shapes.",
            rich_help_panel="Model",
        ),
    ] = None
    dims: Annotated[
        list[str] | None,
        typer.Option(
            "--dim",
            metavar="NAME=SIZE",
            help="The size of a dimension that an ONNX model names, such as seq=128. Repeatable.",
            rich_help_panel="Model",
        ),
    ] = None
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FACTORY",
            help="What builds the network, for a file that holds weights alone. The module is"
            " imported and the function called, also with literal arguments, as in"
            " 'timm:create_model(\"resnet18\")'. Layers are cut to narrower weights.",
            rich_help_panel="Model",
        ),
    ] = None
    main: Annotated[
        list[str] | None,
        typer.Option(
            "--main",
            metavar="FILE",
            help="The script that saved a whole module, for its classes of __main__; only what they"
            " need is run. Repeatable.",
            rich_help_panel="Model",
        ),
    ] = None
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--trust-pickle",
            help=(
                "Allow the model file to run code while it loads. Only for files whose author you"
                " trust."
            ),
            rich_help_panel="Model",
        ),
    ] = False
    read_limit: Annotated[
        float,
        typer.Option(
            "--read-limit",
            parser=factor,
            metavar="FACTOR",
            help="Multiply the memory and the time that reading a model file may take.",
            rich_help_panel="Model",
        ),
    ] = 1.0

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the workflows."""
        return {
            "inputs": tuple(self.inputs or ()),
            "values": self.values,
            "dims": tuple(self.dims or ()),
            "arch": self.arch,
            "main": tuple(self.main or ()),
            "trust_pickle": self.trust_pickle,
            "read_limit": self.read_limit,
        }


@dataclass(frozen=True)
class BatchedModel(ModelFiles):
    """How the model files are read, and in which batch they are measured."""

    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="The batch size: leading dimension of the inputs.", rich_help_panel="Model"
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the workflows."""
        return super().arguments() | {"batch": self.batch}


@dataclass(frozen=True)
class ModelSource(BatchedModel):
    """How the model files are read, and in which batch and precision they are measured."""

    precision: Annotated[
        Precision, typer.Option(help="The precision to measure in.", rich_help_panel="Model")
    ] = Precision.fp32

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the workflows."""
        return super().arguments() | {"precision": self.precision.value}


IsolateOption = Annotated[
    bool,
    typer.Option(
        "--isolate",
        help="Run each model in a process of its own.",
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        parser=duration,
        metavar="SECONDS",
        help="The longest that measuring may take. Without it: 10 for profile, for each run of"
        " selftest and for each cell of matrix, 45 for table build, else 30.",
    ),
]
WaitOption = Annotated[
    float | None,
    typer.Option(
        "--wait",
        parser=duration,
        metavar="SECONDS",
        callback=wait_for_busy_devices,
        help="The longest to wait for a device that another run measures on. Without it, a busy"
        " device is an error.",
    ),
]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Seed for the order of rounds and for random inputs.")
]


@dataclass(frozen=True)
class Protocol:
    """How to measure."""

    device: DeviceOption = "cpu"
    threads: ThreadsOption = 1
    isolate: IsolateOption = False
    budget: BudgetOption = None
    tail: Annotated[
        bool,
        typer.Option(
            "--tail",
            help="Time single inferences for the whole budget, and show how long the slowest are"
            " (p50, p90, p95, p99, worst).",
        ),
    ] = False
    seed: SeedOption = 0
    wait: WaitOption = None

    def settings(
        self,
        base: Settings,
        *,
        layers: bool = True,
        min_effect: float | None = None,
        sustain: float | None = None,
    ) -> Settings:
        """`base` with what was asked for."""
        return replace(
            base,
            sustain_s=sustain or 0.0,
            threads=self.threads,
            isolate=self.isolate,
            budget_s=base.budget_s if self.budget is None else self.budget,
            seed=self.seed,
            tail=self.tail,
            layers=layers,
            min_effect=base.min_effect if min_effect is None else min_effect,
        )


CandidatePrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="The precision of the candidate, if it differs.", rich_help_panel="Model"),
]
SustainOption = Annotated[
    float | None,
    typer.Option(
        "--sustain",
        parser=timespan,
        metavar="TIME",
        help="Then run without a pause for this long, such as 10m, and tell how much slower that"
        " becomes, and when. The device may rest for up to a minute before.",
    ),
]
NoLayersOption = Annotated[
    bool, typer.Option("--no-layers", help="Measure the end-to-end latency only, without layers.")
]


@dataclass(frozen=True)
class Keeping:
    """Where records are kept, if at all."""

    store: StoreOption = None
    no_save: Annotated[bool, typer.Option("--no-save", help="Do not write to the store.")] = False

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the workflows."""
        return {"store": self.store, "save": not self.no_save}

    def show(self, record_id: str) -> str:
        """The command that shows a kept record; without the password of the store."""
        from hwbench.store import redacted

        elsewhere = f" --store {quote(redacted(self.store))}" if self.store else ""
        return f"hwbench store show {record_id}{elsewhere}"


@dataclass(frozen=True)
class Output:
    """What is written, and how."""

    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            callback=writable,
            help="Also write the result as JSON to this file. - is the same as --format json.",
            rich_help_panel="Output",
        ),
    ] = None
    layout: Annotated[
        OutputFormat,
        typer.Option(
            "--format",
            help="What to print: text, Markdown (for a pull request) or JSON.",
            rich_help_panel="Output",
        ),
    ] = OutputFormat.text
    verbose: VerboseOption = False

    @property
    def for_machines(self) -> bool:
        """Whether standard output holds JSON and nothing else."""
        return self.json == "-" or self.layout is OutputFormat.json
