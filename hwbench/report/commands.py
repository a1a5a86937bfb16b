"""The commands that repeat what a store holds, from its records alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwbench.lookup_tables.table import IMPORTED
from hwbench.network.widths import DEFAULT_LOWER, DEFAULT_STEP
from hwbench.records.measurement import Settings
from hwbench.render.units import shape
from hwbench.search.options import option_defaults, option_infos
from hwbench.search.training_settings import TrainingSettings
from hwbench.workflows.matrix import DEFAULT_SETTINGS as MATRIX_SETTINGS
from hwbench.workflows.profile import DEFAULT_SETTINGS
from hwbench.workflows.search.plan import plan_defaults, recorded_method

if TYPE_CHECKING:
    from hwbench.lookup_tables import LookupTable
    from hwbench.records.measurement import Measurement
    from hwbench.workflows.matrix import Matrix


def profile_command(record: Measurement) -> str:
    """What measures one model again."""
    words = ["profile", record.model, *_device_words(record)]
    words += _option_words("precision", record.precision, "fp32")
    words += _float_words("sustain", record.settings.sustain_s, 0.0)
    return _join_words([*words, *_settings_words(record, DEFAULT_SETTINGS)])


def compare_command(baseline: Measurement, candidate: Measurement) -> str:
    """What compares two models again."""
    usual = Settings()
    words = ["compare", baseline.model, candidate.model, *_device_words(baseline)]
    words += _option_words("precision", baseline.precision, "fp32")
    words += _option_words("candidate_device", candidate.device.address, baseline.device.address)
    words += _option_words("candidate_precision", candidate.precision, baseline.precision)
    words += _float_words("min_effect", baseline.settings.min_effect, usual.min_effect)
    words += _float_words("sustain", baseline.settings.sustain_s, 0.0)
    return _join_words([*words, *_settings_words(baseline, usual)])


def matrix_command(matrix: Matrix) -> str:
    """What measures a matrix again."""
    columns = matrix.columns
    words = ["matrix", *matrix.models]
    for device in dict.fromkeys(column.device for column in columns):
        words += ["--device", device]
    precisions = ",".join(dict.fromkeys(column.precision for column in columns))
    threads = ",".join(dict.fromkeys(str(column.threads) for column in columns))
    batches = dict.fromkeys(str(column.batch) for column in columns if column.batch is not None)
    words += _option_words("precision", precisions, "fp32")
    words += _option_words("threads", threads, "1")
    words += _option_words("batch", ",".join(batches), "")
    for cell in matrix.cells:
        if cell.record is not None:
            words += _float_words("budget", cell.record.settings.budget_s, MATRIX_SETTINGS.budget_s)
            break
    return _join_words(words)


def history_command(model: str, newest: Measurement) -> str:
    """What shows a history in a terminal."""
    return _join_words(["history", model, "--device", newest.device.address])


def table_command(table: LookupTable) -> str:
    """What builds a table again; for one of another tool's files, what shows it."""
    made = table.provenance
    if not made.sources or IMPORTED in dict(made.device.details):
        return _join_words(["table", "show", made.device.address])
    source = made.sources[0]
    words = ["table", "build", source.model, "--device", made.device.address]
    words += _option_words("widths", source.step, DEFAULT_STEP)
    words += _float_words("lower", source.lower, DEFAULT_LOWER)
    words += _option_words("threads", made.threads, 1)
    return _join_words(words)


def search_command(record: Mapping[str, Any], budgets: Sequence[str] = ()) -> str:
    """What searches again, from the record of a search that ended.

    Args:
        record: The record.
        budgets: The budgets of a search for several; empty for that of the record.
    """
    plan = record["plan"]
    words = ["search", plan["method"], record["model"]]
    for name in ("device", "table"):
        words += _option_words(name, record.get(name) or None, None)
    limit = plan["limit"]
    if limit is not None:
        words += [f"--{limit['kind']}", ",".join(budgets) or _amount_text(limit)]
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
        return [f"--no-{option}"] if default else [f"--{option}"]
    if isinstance(value, Mapping):
        return [f"--{option}", str(TrainingSettings(**value))]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [f"--{option}", ",".join(f"{number:.10g}" for number in value)]
    return [f"--{option}", str(value)]


def _float_words(name: str, value: float, default: float) -> list[str]:
    """An option with a number as short as people write it; nothing where it has its default."""
    return [] if value == default else _option_words(name, f"{value:g}", None)


def _amount_text(limit: Mapping[str, Any]) -> str:
    """A budget as `--latency` and its like take it: a share, or an amount in its base unit."""
    if limit["share"] is not None:
        return f"{limit['share']:g}"
    unit = {"latency": "s", "size": "B"}.get(limit["kind"], "")
    return f"{limit['amount']:.10g}{unit}"


def _device_words(record: Measurement) -> list[str]:
    words = ["--device", record.device.address]
    for spec in record.inputs:
        name = "" if len(record.inputs) == 1 else f"{spec.name}="
        words += ["--input", name + shape(spec.shape)]
    return words


def _settings_words(record: Measurement, usual: Settings) -> list[str]:
    settings = record.settings
    return [
        *_option_words("threads", settings.threads, 1),
        *_option_words("isolate", settings.isolate, default=False),
        *_float_words("budget", settings.budget_s, usual.budget_s),
        *_option_words("seed", settings.seed, usual.seed),
        *_option_words("layers", settings.layers, default=True),
    ]


def _join_words(words: list[str]) -> str:
    return shlex.join(["hwbench", *words])
