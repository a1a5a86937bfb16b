"""The commands of `hwbench search`: one for every search, made of its options' descriptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
import typer.main

from hwbench.cli.delivery import deliver, report
from hwbench.cli.help_texts import join_lines
from hwbench.cli.lab import workplace
from hwbench.cli.options import (
    FailOnOption,
    Keeping,
    LabOption,
    ModelSource,
    Output,
    WaitOption,
    duration,
    factor,
    numbers,
    options,
    share,
)
from hwbench.cli.rules import Rule, hits, parse_rule
from hwbench.errors import UsageError
from hwbench.search import load_method
from hwbench.search.limit import KINDS, Limit
from hwbench.search.options import option_defaults, option_infos
from hwbench.search.training_settings import SETTINGS, TrainingSettings
from hwbench.workflows.defaults import DEFAULT_MODEL
from hwbench.workflows.search.plan import AS_USUAL, TEMPERATURE, TRAIN_EPOCHS, Plan

if TYPE_CHECKING:
    from hwbench.records.findings import Finding
    from hwbench.search.method import Method
    from hwbench.search.options import OptionInfo, SearchOptions
    from hwbench.workflows.search.front import Front
    from hwbench.workflows.search.result import SearchResult

FIELDS = ("predicted_ratio", "quality")
"""Fields of a result that `--fail-on` can name."""
SAVE_HINT = "give --out DIR"
"""What writes a network to files."""
MODEL_HELP = (
    "The network: zoo:NAME, module:factory, or a file with a pickled module. Without it, one"
    " from the zoo."
)
ModelArgument = Annotated[
    str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)
]


def _check_folder(target: str | None) -> str | None:
    """Refuse a folder that cannot be made *before* anything is searched for it."""
    if target is not None and (
        Path(target).is_file() or not Path(target).absolute().parent.is_dir()
    ):
        raise typer.BadParameter(
            f"{target!r} is a file, or lies in no folder; give a folder that can be made"
        )
    return target


def _amount(help_text: str) -> Any:
    """An option for the most that a network may cost."""
    return typer.Option(metavar="AMOUNT", help=help_text, rich_help_panel="Budget")


def training_option(help_text: str) -> Any:
    """An option for the settings of a training."""

    def parse(text: str | TrainingSettings) -> TrainingSettings:
        return text if isinstance(text, TrainingSettings) else TrainingSettings.parse(text)

    return typer.Option(
        parser=parse,
        metavar="NAME=VALUE,..",
        help=f"{help_text} Settings: {', '.join(SETTINGS)}.",
        show_default=False,
        rich_help_panel="Images",
    )


@dataclass(frozen=True)
class SearchBudget:
    """What the network may cost, and the search itself."""

    latency: Annotated[
        str | None,
        _amount(
            "The longest latency: 0.5 or 50% of the original's, or 12ms. Several, as in"
            " 0.3,0.5,0.7, share what was tried and end in a Pareto front; so do those of the"
            " options below."
        ),
    ] = None
    macs: Annotated[
        str | None,
        _amount("The most multiply-accumulates: 0.5 of the original's, or 285M."),
    ] = None
    params: Annotated[
        str | None,
        _amount("The most parameters: 0.5 of the original's, or 2M."),
    ] = None
    size: Annotated[
        str | None,
        _amount("The most bytes of weights: 0.5 of the original's, or 4MB."),
    ] = None
    budget: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="SECONDS",
            help="The longest time that the search may take with all that belongs to it: training,"
            " the table, networks that are tried, tuning and measuring.",
            rich_help_panel="Budget",
        ),
    ] = None
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Number of networks to try.", rich_help_panel="Budget"),
    ] = None
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of networks to evaluate at once, each in a process with one thread, where"
            " the search proposes several. The result does not depend on it.",
            rich_help_panel="Budget",
        ),
    ] = None

    def limits(self) -> list[Limit]:
        """The limits on the network, each for a result of its own; empty for none.

        Raises:
            typer.BadParameter: They are of several kinds.
        """
        given = [(kind, getattr(self, kind)) for kind in KINDS if getattr(self, kind) is not None]
        if len(given) > 1:
            names = " and ".join(f"--{kind}" for kind, _ in given)
            raise typer.BadParameter(f"{names} were given; a search has one kind of budget")
        limits = []
        for kind, text in given:
            limits += [Limit.parse(kind, amount) for amount in text.split(",")]
        return list(dict.fromkeys(limits))


@dataclass(frozen=True)
class Learning:
    """Images, training, and where latencies come from."""

    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="ADDRESS",
            help="The device whose latencies steer the search, and on which the result is measured;"
            " cpu if no --table is given either. hwbench devices lists them.",
        ),
    ] = None
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            metavar="TABLE",
            help="The lookup table that steers the search. Without --device nothing is measured."
            " hwbench table list shows them.",
        ),
    ] = None
    threads: Annotated[int, typer.Option(min=1, help="Number of threads of the runtime.")] = 1
    seed: Annotated[int, typer.Option(min=0, help="Seed for everything that is random.")] = 0
    wait: WaitOption = None
    data: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="The images: a folder, fashion-mnist, digits, or module:factory of a dataset.",
            rich_help_panel="Images",
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="The mean that is taken off the pixels of pictures: 0.5, or one for each channel"
            " such as 0.485,0.456,0.406. Without --mean, --std and --scale it is found out which"
            " suits a trained network.",
            rich_help_panel="Images",
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="What pixels are divided by after that: 0.5, or one for each channel.",
            rich_help_panel="Images",
        ),
    ] = None
    scale: Annotated[
        float | None,
        typer.Option(
            parser=factor,
            metavar="NUMBER",
            help="The value of a white pixel before that, such as 1 or 255; 1 if not given.",
            rich_help_panel="Images",
        ),
    ] = None
    transform: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="The function that makes the input of the network of a picture (PIL), in place of"
            " --mean, --std and --scale.",
            rich_help_panel="Images",
        ),
    ] = None
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of training images to use; all if not given.",
            rich_help_panel="Images",
        ),
    ] = None
    evaluate: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="The function that gives a network a quality from 0 to 1, in place of its"
            " accuracy.",
            rich_help_panel="Images",
        ),
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A file with the weights of the original (a state_dict).",
            rich_help_panel="Model",
        ),
    ] = None
    accept_untrained: Annotated[
        bool,
        typer.Option(
            "--accept-untrained",
            help="Search although the original answers the images no better than by guessing.",
            rich_help_panel="Model",
        ),
    ] = False
    train_epochs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of epochs that the original is trained for, if it comes untrained.",
            rich_help_panel="Images",
        ),
    ] = TRAIN_EPOCHS
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="How the result is trained: none, ce (by labels), kd (by the original's answers)"
            " or features (by the original's features).",
            rich_help_panel="Images",
        ),
    ] = None
    tune_epochs: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of epochs that the result is trained for.", rich_help_panel="Images"
        ),
    ] = None
    tune_steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of batches that the result is trained on, in place of epochs.",
            rich_help_panel="Images",
        ),
    ] = None
    train_with: Annotated[
        TrainingSettings,
        training_option("How the original is trained, if it comes untrained."),
    ] = AS_USUAL
    trial_with: Annotated[
        TrainingSettings,
        training_option("How candidates are trained, where --trial-epochs says that they are."),
    ] = AS_USUAL
    tune_with: Annotated[TrainingSettings, training_option("How the result is trained.")] = AS_USUAL
    temperature: Annotated[
        float,
        typer.Option(
            help="The temperature of knowledge distillation (kd).", rich_help_panel="Images"
        ),
    ] = TEMPERATURE
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="The folder to write the resulting network to.",
            callback=_check_folder,
            rich_help_panel="Output",
        ),
    ] = None
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew, even where an earlier run was interrupted.")
    ] = False

    def plan_arguments(self) -> dict[str, Any]:
        """Those of them that are arguments of a plan."""
        places = {"device", "table", "threads", "wait", "out", "fresh"}
        given = {name: value for name, value in vars(self).items() if name not in places}
        return given | {"mean": numbers("mean", self.mean), "std": numbers("std", self.std)}


def make_command(name: str) -> Any:
    """The command of a search; of one that cannot be loaded, a command that says why."""
    app = typer.Typer(add_completion=False)
    try:
        method = load_method(name)
        search = _make_function(name, method)
    except UsageError as error:
        failure = error

        @app.command(name, help=f"Cannot be used: {failure}.")
        def refuse() -> int:
            raise failure

        return join_lines(typer.main.get_command(app))
    help_text = "\n\n".join(filter(None, [method.summary, method.details]))
    example = f"Example: hwbench search {name} {method.example}"
    app.command(name, help=help_text, epilog=example)(search)
    return join_lines(typer.main.get_command(app))


def _make_function(name: str, method: type[Method[Any]]) -> Callable[..., int]:
    """What the command of a search runs, with its options as parameters."""
    own_options = option_group(name, method.options_type)

    def search(
        *,
        source: ModelSource,
        budget: SearchBudget,
        learning: Learning,
        keeping: Keeping,
        output: Output,
        own: Any,
        model: ModelArgument = None,
        fail_on: FailOnOption = None,
        lab: LabOption = None,
    ) -> int:
        rules = [parse_rule(text, FIELDS) for text in fail_on or ()]
        from hwbench.cli.search_progress import show_search
        from hwbench.records.measurement import Settings

        network = model or method.default_model or DEFAULT_MODEL
        limits = budget.limits()
        plan = Plan.of(
            name,
            limits[0] if limits else None,
            trials=budget.trials,
            budget_s=budget.budget,
            **learning.plan_arguments(),
            **asdict(own),
        )
        with show_search(network, keeping) as progress:
            means: dict[str, Any] = {
                "device": learning.device,
                "table": learning.table,
                "settings": Settings(threads=learning.threads, seed=learning.seed, layers=False),
                "out": learning.out,
                "fresh": learning.fresh,
                "jobs": budget.jobs,
                "callback": progress,
                **source.arguments(),
                **keeping.arguments(),
            }
            place = workplace(lab)
            if len(limits) > 1:
                found: Front | SearchResult = place.run_front(network, plan, limits, **means)
            else:
                found = place.run_search(network, plan, **means)
        return _deliver(output, found, rules)

    search.__annotations__["own"] = own_options
    return options(search)


def _deliver(output: Output, found: SearchResult | Front, rules: Sequence[Rule]) -> int:
    """Show what was found; the exit code."""
    from hwbench.workflows.search.result import SearchResult

    if isinstance(found, SearchResult):
        return _deliver_result(output, found, rules)
    return _deliver_front(output, found, rules)


def _deliver_result(output: Output, result: SearchResult, rules: Sequence[Rule]) -> int:
    """Show one result; the exit code."""
    from hwbench.render import searching

    document = searching.search_document(result)
    view = searching.search_view(result, save_hint=SAVE_HINT, layers_hint="see --json")
    deliver(output, view, document)
    return _report_faults(result.findings, hits(rules, document))


def _deliver_front(output: Output, front: Front, rules: Sequence[Rule]) -> int:
    """Show what was found for several budgets; a rule is one for each of them. The exit code."""
    from hwbench.render import fronts, searching

    deliver(output, fronts.front_view(front, save_hint=SAVE_HINT), fronts.front_document(front))
    findings, broken = list(front.findings), []
    for result in front.results:
        findings += result.findings
        texts = hits(rules, searching.search_document(result))
        broken += [f"{result.plan.limit}: {text}" for text in texts]
    return _report_faults(findings, broken)


def _report_faults(findings: Sequence[Finding], broken: Sequence[str]) -> int:
    """Say on standard error what could not be written, and which rules were hit; the exit code."""
    from hwbench.workflows.search.result import NOT_WRITTEN

    unwritten = [finding.text for finding in findings if finding.code == NOT_WRITTEN]
    return max(report(unwritten, UsageError.exit_code), report(broken, 1))


def option_group(name: str, options_type: type[SearchOptions]) -> type[Any]:
    """The options of a search as a group of the command line (see `cli.options.options`).

    Args:
        name: The search.
        options_type: The dataclass of its options.

    Raises:
        UsageError: It has an option that all searches have.
    """
    common = {
        entry.name
        for group in (ModelSource, SearchBudget, Learning, Keeping)
        for entry in fields(group)
    }
    infos, defaults = option_infos(options_type), option_defaults(options_type)
    hints = get_type_hints(options_type)
    members: list[tuple[str, Any, Any]] = []
    for option, info in infos.items():
        if option in common:
            raise UsageError(f"search {name!r} has an option {option!r}, which all searches have")
        if info.on_command_line:
            default = defaults[option] if info.command_default is None else info.command_default
            members.append(
                (option, Annotated[hints[option], _describe(option, info, default)], default)
            )
    return make_dataclass(f"{options_type.__name__}Group", members, frozen=True)


def _describe(name: str, info: OptionInfo, default: object) -> Any:
    """One option for Typer."""
    option = f"--{name.replace('_', '-')}"
    if default is True:  # only leaving it out has a name
        return typer.Option(f" /--no-{option[2:]}", show_default=False, help=info.help)
    if default is False:
        return typer.Option(option, help=info.help)
    if info.is_share:
        return typer.Option(option, parser=share, metavar="SHARE", help=info.help)
    return typer.Option(option, min=info.least, max=info.most, help=info.help)
