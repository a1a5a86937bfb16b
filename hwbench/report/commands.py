"""The commands that repeat what a store holds, from its records alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwbench.lookup_tables.table import IMPORTED
from hwbench.network.widths import DEFAULT_LOWER, DEFAULT_STEP
from hwbench.records.measurement import Settings
from hwbench.render.units import shape
from hwbench.search.options import option_defaults, option_infos
from hwbench.workflows.profile import DEFAULT_SETTINGS
from hwbench.workflows.search.plan import plan_defaults, recorded_method

if TYPE_CHECKING:
    from hwbench.lookup_tables import LookupTable
    from hwbench.records.measurement import Measurement


def profile_command(record: Measurement) -> str:
    """What measures one model again."""
    precision = [] if record.precision == "fp32" else ["--precision", record.precision]
    return _join_words(
        [
            "profile",
            record.model,
            *_device_words(record),
            *precision,
            *_settings_words(record, DEFAULT_SETTINGS),
        ]
    )


def compare_command(baseline: Measurement, candidate: Measurement) -> str:
    """What compares two models again."""
    precision = [] if baseline.precision == "fp32" else ["--precision", baseline.precision]
    if candidate.precision != baseline.precision:
        precision += ["--candidate-precision", candidate.precision]
    effect = baseline.settings.min_effect
    least = [] if effect == Settings().min_effect else ["--min-effect", f"{effect:g}"]
    words = [
        "compare",
        baseline.model,
        candidate.model,
        *_device_words(baseline),
        *precision,
        *least,
    ]
    return _join_words([*words, *_settings_words(baseline, Settings())])


def table_command(table: LookupTable) -> str:
    """What builds a table again; for one of another tool's files, what shows it."""
    made = table.provenance
    if not made.sources or IMPORTED in dict(made.device.details):
        return _join_words(["table", "show", made.device.address])
    source = made.sources[0]
    words = ["table", "build", source.model, "--device", made.device.address]
    words += [] if source.step == DEFAULT_STEP else ["--widths", str(source.step)]
    words += [] if source.lower == DEFAULT_LOWER else ["--lower", f"{source.lower:g}"]
    return _join_words([*words, *_threads_words(made.threads)])


def search_command(record: Mapping[str, Any]) -> str:
    """What searches again, from the record of a search that ended."""
    plan = record["plan"]
    words = ["search", plan["method"], record["model"]]
    for name in ("device", "table"):
        words += [f"--{name}", record[name]] if record.get(name) else []
    limit = plan["limit"]
    if limit is not None:
        words += [f"--{limit['kind']}", _amount_text(limit)]
    defaults = plan_defaults()
    del defaults["limit"]
    method = recorded_method(plan)
    if method is not None:
        infos = option_infos(method.options_type)
        for name, default in option_defaults(method.options_type).items():
            if infos[name].on_command_line:
                defaults[name] = default
    for name, default in defaults.items():
        words += _option_words(name, plan.get(name, default), default)
    return _join_words(words)


def _option_words(name: str, value: object, default: object) -> list[str]:
    """An option as the command line takes it; nothing where it has its default."""
    if value == default:
        return []
    option = name.removesuffix("_s").replace("_", "-")
    if isinstance(default, bool):
        return [f"--no-{option}" if default else f"--{option}"]
    return [f"--{option}", str(value)]


def _amount_text(limit: Mapping[str, Any]) -> str:
    """A budget as `--latency` and its like take it: a share, or an amount in its base unit."""
    if limit["share"] is not None:
        return f"{limit['share']:g}"
    unit = {"latency": "s", "size": "B"}.get(limit["kind"], "")
    return f"{limit['amount']:.10g}{unit}"


def _device_words(record: Measurement) -> list[str]:
    inputs: list[str] = []
    for spec in record.inputs:
        name = "" if len(record.inputs) == 1 else f"{spec.name}="
        inputs += ["--input", name + shape(spec.shape)]
    return ["--device", record.device.address, *inputs]


def _settings_words(record: Measurement, usual: Settings) -> list[str]:
    settings = record.settings
    words = [*_threads_words(settings.threads), *(["--isolate"] if settings.isolate else [])]
    words += [] if settings.budget_s == usual.budget_s else ["--budget", f"{settings.budget_s:g}"]
    words += [] if settings.seed == usual.seed else ["--seed", str(settings.seed)]
    return words if settings.layers else [*words, "--no-layers"]


def _threads_words(threads: int) -> list[str]:
    return [] if threads == 1 else ["--threads", str(threads)]


def _join_words(words: list[str]) -> str:
    return shlex.join(["hwbench", *words])
