"""`hwbench search`: a smaller network within a budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwbench.cli.delivery import deliver, report
from hwbench.cli.lab import on
from hwbench.cli.options import (
    FailOnOption,
    Keeping,
    LabOption,
    Output,
    Source,
    duration,
    options,
    share,
)
from hwbench.cli.rules import hits, parse_rule

if TYPE_CHECKING:
    from hwbench.workflows.search.plan import Limit

search_app = typer.Typer(
    help="Find a smaller network that keeps to a budget, and measure what it gains.",
    epilog="Example: hwbench search amc zoo:mobilenet_v1 --table pixel1 --latency 0.55",
)
FIELDS = ("predicted_ratio", "quality")
MODEL_HELP = "zoo:NAME, module:factory, or a pickled module. Else one from the zoo."
ModelArgument = Annotated[
    str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)
]


def _folder(target: str | None) -> str | None:
    """Refuse a folder that cannot be made *before* anything is searched for it."""
    if target is not None and (
        Path(target).is_file() or not Path(target).absolute().parent.is_dir()
    ):
        raise typer.BadParameter(
            f"{target!r} is a file, or lies in no folder; give a folder that can be made"
        )
    return target


@dataclass(frozen=True)
class Budget:
    """What the network may cost, and the search itself."""

    latency: Annotated[
        str | None,
        typer.Option(
            metavar="AMOUNT", help="0.5 or 50% of the original, or 12ms.", rich_help_panel="Budget"
        ),
    ] = None
    macs: Annotated[
        str | None,
        typer.Option(
            metavar="AMOUNT", help="Multiply-accumulates: 0.5, 285M.", rich_help_panel="Budget"
        ),
    ] = None
    params: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="Parameters: 0.5, 2M.", rich_help_panel="Budget"),
    ] = None
    size: Annotated[
        str | None,
        typer.Option(
            metavar="AMOUNT", help="Bytes of weights: 0.5, 4MB.", rich_help_panel="Budget"
        ),
    ] = None
    budget: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="SECONDS",
            help="Longest time to search.",
            rich_help_panel="Budget",
        ),
    ] = None
    trials: Annotated[
        int | None, typer.Option(min=1, help="Networks to try.", rich_help_panel="Budget")
    ] = None
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Judge so many at once, a process and a thread each; same result.",
            rich_help_panel="Budget",
        ),
    ] = None

    def limit(self) -> Limit | None:
        """The one limit on the network.

        Raises:
            typer.BadParameter: There are several.
        """
        from hwbench.workflows.search.plan import KINDS, Limit

        given = [(kind, getattr(self, kind)) for kind in KINDS if getattr(self, kind) is not None]
        if len(given) > 1:
            raise typer.BadParameter(
                f"{' and '.join(f'--{kind}' for kind, _ in given)} were given; a search has one"
                " budget"
            )
        return Limit.parse(*given[0]) if given else None


@dataclass(frozen=True)
class Learning:
    """Images, training, and where latencies come from."""

    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="ADDRESS",
            help="Steers the search and measures the result; else cpu.",
        ),
    ] = None
    table: Annotated[
        str | None,
        typer.Option(
            "--table", metavar="TABLE", help="A lookup table instead; alone, nothing is measured."
        ),
    ] = None
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0
    data: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES", help="A folder, module:factory, or digits.", rich_help_panel="Images"
        ),
    ] = None
    images: Annotated[
        int | None, typer.Option(min=1, help="Train on so many only.", rich_help_panel="Images")
    ] = None
    evaluate: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="Judges a network, 0 to 1.", rich_help_panel="Images"
        ),
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="State dict of the original.", rich_help_panel="Model"),
    ] = None
    train_epochs: Annotated[
        int, typer.Option(min=1, help="Of an untrained original.", rich_help_panel="Images")
    ] = 20
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="none, ce, kd or features, for the result.",
            rich_help_panel="Images",
        ),
    ] = None
    tune_epochs: Annotated[
        int | None, typer.Option(min=0, help="Of the result.", rich_help_panel="Images")
    ] = None
    tune_steps: Annotated[
        int | None, typer.Option(min=0, help="Batches instead of epochs.", rich_help_panel="Images")
    ] = None
    temperature: Annotated[
        float, typer.Option(help="Of knowledge distillation (kd).", rich_help_panel="Images")
    ] = 4.0
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Write the network found here.",
            callback=_folder,
            rich_help_panel="Output",
        ),
    ] = None
    fresh: Annotated[bool, typer.Option("--fresh", help="Do not go on from an earlier run.")] = (
        False
    )

    def plan(self) -> dict[str, Any]:
        """Fields of the plan."""
        places = {"device", "table", "threads", "out", "fresh"}
        return {name: value for name, value in vars(self).items() if name not in places}


LowerOption = Annotated[
    float, typer.Option(parser=share, metavar="SHARE", help="Smallest share of a width.")
]
StepOption = Annotated[
    int | None,
    typer.Option(min=1, help="Widths are multiples of it; else the device's channel step."),
]
BaselinesOption = Annotated[
    bool,
    typer.Option(
        " /--no-baselines",
        show_default=False,
        help="Leave out hand-made policies and random search.",
    ),
]


@dataclass(frozen=True)
class Amc:
    """Reinforcement learning picks every width (AMC, He et al. 2018).

    Uniform, shallow, deep and random ones beside it.
    """

    reward: Annotated[str, typer.Option(help="error (with a budget), macs, params or latency.")] = (
        "error"
    )
    single_weights: Annotated[
        bool, typer.Option("--single-weights", help="Prune single weights, for --size.")
    ] = False
    explore: Annotated[
        str, typer.Option(help="At first: nearby uniform pruning, or everywhere, as published.")
    ] = "nearby"
    lower: LowerOption = 0.2
    step: StepOption = None
    baselines: BaselinesOption = True


@dataclass(frozen=True)
class Abcpruner:
    """An artificial bee colony picks every width (ABCPruner, Lin et al. 2020), within the budget."""

    alpha: Annotated[float, typer.Option(min=0.1, max=1.0, help="Largest share of a width.")] = 0.7
    sources: Annotated[int, typer.Option(min=2, help="Food sources.")] = 10
    cycles: Annotated[int, typer.Option(min=1, help="Cycles of the colony.")] = 10
    patience: Annotated[int, typer.Option(min=1, help="Failures before a source is given up.")] = 5
    trial_epochs: Annotated[
        float, typer.Option(min=0.0, help="Training of each network before it is judged.")
    ] = 2.0
    step: StepOption = None
    baselines: BaselinesOption = True


@dataclass(frozen=True)
class Practise:
    """Whole blocks are dropped, with few images or none (PRACTISE, Wang and Wu 2023)."""

    adaptor_steps: Annotated[
        int, typer.Option(min=1, help="Iterations for the score of one block.")
    ] = 1000


@search_app.callback(invoke_without_command=True)
def _searches(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _add(method: type[Amc | Abcpruner | Practise], default: str, example: str) -> None:
    """The command of a search, whose own options are the fields of `method`."""
    name = method.__name__.lower()

    def search(
        *,
        source: Source,
        budget: Budget,
        learning: Learning,
        keeping: Keeping,
        output: Output,
        own: Amc | Abcpruner | Practise,
        model: ModelArgument = None,
        fail_on: FailOnOption = None,
        lab: LabOption = None,
    ) -> int:
        rules = [parse_rule(text, FIELDS) for text in fail_on or ()]
        from hwbench.cli.search_progress import SearchProgress
        from hwbench.records.measurement import Settings
        from hwbench.render import searching
        from hwbench.workflows.search.run import Plan, run_search

        fields: dict[str, Any] = {
            "trials": budget.trials,
            "budget_s": budget.budget,
            **learning.plan(),
            **asdict(own),
        }
        plan = Plan(name, budget.limit(), **fields)
        with SearchProgress(model or default, keeping) as progress:
            result = on(lab, run_search)(
                model or default,
                plan,
                device=learning.device,
                table=learning.table,
                settings=Settings(threads=learning.threads, seed=learning.seed, layers=False),
                out=learning.out,
                fresh=learning.fresh,
                jobs=budget.jobs,
                callback=progress,
                **source.arguments(),
                **keeping.arguments(),
            )
        document = searching.search_document(result)
        deliver(output, searching.search_view(result), document)
        return report(hits(rules, document), 1)

    search.__annotations__["own"] = method
    search_app.command(
        name, help=method.__doc__, epilog=f"Example: hwbench search {name} {example}"
    )(options(search))


_add(Amc, "zoo:mobilenet_v1", "zoo:plain20 --data digits --device cpu --latency 0.6 --out pruned")
_add(Abcpruner, "zoo:mobilenet_v1", "zoo:plain20 --data digits --device cpu --latency 0.5 --jobs 4")
_add(Practise, "zoo:resnet20", "zoo:resnet20 --data digits --images 500 --device cpu --latency 0.8")
