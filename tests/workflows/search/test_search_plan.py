"""Plans of searches: options, what is refused at once, and how a killed search is found."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hwbench.errors import UsageError
from hwbench.search import load_method, searches
from hwbench.search.amc.options import AmcOptions
from hwbench.search.data import Preprocessing
from hwbench.search.options import SearchOptions, WidthOptions, option, option_infos
from hwbench.search.practise.method import PractiseOptions
from hwbench.search.training_settings import TrainingSettings
from hwbench.workflows.search.plan import Limit, Plan, recorded_method

HALF = Limit("latency", share=0.5)
KNOWN = [
    (Plan.of("amc", HALF), "f613316a313c7420e9f4947ff9b87e82209371c785e33404c2f90fe6143da351"),
    (
        Plan.of(
            "amc",
            Limit("macs", share=0.6),
            trials=30,
            seed=3,
            lower=0.1,
            step=4,
            baselines=False,
            explore="everywhere",
            data="digits",
            images=100,
            importance="l2",
            reconstruct=False,
            trial_epochs=0.5,
            tune="kd",
            tune_epochs=3,
            temperature=2.0,
        ),
        "bc808bae11abdae2b9f4c551c7f9b4f00c3217e8513099c62be96191e9ce5b5b",
    ),
    (
        Plan.of("amc", reward="latency", budget_s=60.0),
        "7f3bad4497dd53e963bb6693043dc52784ac4d067dfce95e946fac5c869a59a7",
    ),
    (
        Plan.of(
            "amc",
            Limit("size", amount=2e6),
            single_weights=True,
            evaluate="a:b",
            weights="w.pt",
            train_epochs=5,
        ),
        "8e549f9c7b636b42f8a04f4a629b8f9d142e6859438ed3a7fe1d1db02fb4c711",
    ),
    (
        Plan.of("abcpruner", HALF),
        "f5ac660105dbf5751ad3bfec5ec54c761e2547c4387a6e00c2ec284275866276",
    ),
    (
        Plan.of(
            "abcpruner",
            Limit("latency", amount=0.012),
            alpha=0.6,
            sources=4,
            cycles=3,
            patience=2,
            trial_epochs=2.0,
            step=16,
            tune_steps=7,
        ),
        "67ebaeb7714fd88f140caf6248ebf6c3249e4ff450ae964222a12b6f1aece15b",
    ),
    (Plan.of("practise", HALF), "245b38cb62643e839f33f589f133dae11e7fdd3b69a8ac724ea87bcca87ca6c6"),
    (
        Plan.of("practise", HALF, adaptor_steps=7, images=16, tune="none", seed=9),
        "f5883135e166b7418bc6ba6867cdb9f9ef0b75c464653e9c1c47658d2275d44a",
    ),
]
"""Plans, and their keys for the facts `net`, `abc` and `table`, as from the first version on."""
FIELDS = {
    "method",
    "limit",
    "trials",
    "budget_s",
    "seed",
    "step",
    "lower",
    "reward",
    "single_weights",
    "explore",
    "baselines",
    "alpha",
    "sources",
    "cycles",
    "patience",
    "data",
    "images",
    "evaluate",
    "weights",
    "importance",
    "reconstruct",
    "train_epochs",
    "trial_epochs",
    "adaptor_steps",
    "tune",
    "tune_epochs",
    "tune_steps",
    "temperature",
}


@pytest.mark.parametrize(("plan", "key"), KNOWN, ids=lambda value: str(value)[:8])
def test_a_killed_search_of_an_earlier_version_is_found(plan, key):
    assert plan.key("net", "abc", "table") == key


def test_time_is_no_part_of_the_identity_but_all_else_is():
    plan = Plan.of("amc", HALF)
    assert plan.changed(budget_s=5.0).key() == plan.key()
    others = (plan.changed(seed=1), plan.changed(lower=0.1), plan.changed(tune="none"))
    assert len({one.key() for one in (plan, *others)}) == 4
    assert plan.key("net") != plan.key("other net")


@pytest.mark.parametrize("method", ["amc", "abcpruner", "practise"])
def test_records_have_the_fields_they_always_had(method):
    data = Plan.of(method, HALF).to_dict()
    assert set(data) == FIELDS
    assert data["limit"] == {"kind": "latency", "share": 0.5, "amount": None}


def test_arguments_of_later_versions_are_recorded_where_they_are_given():
    given = {
        "mean": (0.5,),
        "std": (0.25,),
        "scale": 255.0,
        "accept_untrained": True,
        "tune_with": TrainingSettings(rate=0.1),
    }
    plan = Plan.of("amc", HALF, data="digits", **given)
    assert set(plan.to_dict()) == FIELDS | set(given)
    usual = Plan.of("amc", HALF, data="digits")
    assert plan.key() != usual.key()
    assert usual.changed(accept_untrained=True).key() == usual.key()
    assert plan.preprocessing() == Preprocessing((0.5,), (0.25,), 255.0)
    assert usual.preprocessing() is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mean": (0.5,)}, "none were given; pass data=..."),
        ({"data": "digits", "std": (0.0,)}, "expected numbers above 0"),
        ({"data": "digits", "scale": 1.0, "transform": "a:b"}, "leave out mean, std and scale"),
    ],
)
def test_impossible_ways_to_read_pictures_are_refused(arguments, said):
    with pytest.raises(UsageError, match=said):
        Plan.of("amc", HALF, **arguments)


def test_options_are_given_as_an_object_or_beside_the_rest():
    plan = Plan("amc", HALF, AmcOptions(explore="everywhere"), trials=3)
    assert plan == Plan.of("amc", HALF, explore="everywhere", trials=3)
    assert plan.changed(explore="nearby", trials=None) == Plan("amc", HALF)
    assert Plan("amc", HALF).options == AmcOptions()


def test_options_of_another_search_are_refused():
    with pytest.raises(UsageError, match="AmcOptions were given to practise"):
        Plan("practise", HALF, AmcOptions())
    with pytest.raises(
        UsageError, match=r"practise has no option .alpha.; its options are adaptor_steps"
    ):
        Plan.of("practise", HALF, alpha=0.5)
    with pytest.raises(
        UsageError, match="unknown search 'annealing'; expected one of knapsack, amc, "
    ):
        Plan("annealing", HALF)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": 1}, "sources is 1; expected at least 2"),
        ({"alpha": 1.5}, "alpha is 1.5; expected at most 1"),
        ({"trial_epochs": -1.0}, "trial_epochs is -1.0; expected at least 0"),
        ({"step": 0}, "step is 0; expected at least 1"),
    ],
)
def test_options_are_held_to_their_descriptions(options, message):
    with pytest.raises(UsageError, match=message):
        Plan.of("abcpruner", HALF, **options)
    with pytest.raises(UsageError, match=r"lower is 1\.2; expected a share above 0 and below 1"):
        AmcOptions(lower=1.2)


def test_every_option_is_described():
    for name in searches():
        for option_name, info in option_infos(load_method(name).options_type).items():
            assert info.help.endswith("."), (name, option_name)


@dataclass(frozen=True)
class Restarts(SearchOptions):
    restarts: int = option("How often the search starts anew.", default=3, least=1)
    plain: str = "undescribed"


def test_options_of_other_packages_need_no_description():
    assert list(option_infos(Restarts)) == ["restarts", "plain"]
    assert Restarts.from_record({"restarts": 5, "seed": 1}) == Restarts(5)
    with pytest.raises(UsageError, match="at least 1"):
        Restarts(0)


def test_searches_are_known_again_from_their_records():
    method = recorded_method(Plan.of("practise", HALF, adaptor_steps=7).to_dict())
    assert method is not None
    assert method.options == PractiseOptions(7)
    assert recorded_method({"method": "of a package that is gone"}) is None
    assert recorded_method({"method": "amc", "reward": "of another version"}) is None


def test_all_searches_of_widths_share_the_options_of_widths():
    for name in ("amc", "abcpruner"):
        assert issubclass(load_method(name).options_type, WidthOptions)
