"""The measuring core, on the virtual device, where the truth is known and time costs nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.devices.virtual.device import FIRST_RUN_FACTOR, LOAD_S, PREPARE_S, Fault, Law, Virtual
from hwbench.devices.virtual.noise import SessionOffset, Spikes, Throttling, White
from hwbench.errors import (
    DeviceLostError,
    MeasurementError,
    OutputParseError,
    OutputTooLargeError,
    UsageError,
)
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.sessions import measure, measure_interleaved, measure_on
from hwbench.measuring.stopping import CONFIRM, GRACE_S
from hwbench.records.comparison import compare
from hwbench.records.measurement import Measurement, Settings
from hwbench.stats import Verdict
from tests.support.models import conv_workload, told

QUICK = Settings(layers=False)
A, B = told("a"), told("b")


ORDINARY = (White(0.01), SessionOffset(0.003))


def virtual(ratio: float = 1.0, noise=ORDINARY, seed: int = 0, **more) -> Virtual:
    return Virtual(
        noise=noise, seed=seed, latencies_s={A.sha256: 0.01, B.sha256: 0.01 * ratio}, **more
    )


class Recorder(MeasuringCallback):
    def __init__(self):
        self.samples, self.warm, self.sessions, self.done = [[], []], 0, 0, ()

    def sampled(self, record, session, samples_s, blocks, *, warm_up):
        assert warm_up or len(samples_s) == len(blocks)
        self.warm += warm_up * len(samples_s)
        self.samples[record] += [] if warm_up else samples_s

    def session_ended(self, sessions, elapsed_s, so_far):
        self.sessions = sessions

    def finished(self, records):
        self.done = records


def test_latency_and_interval_are_near_the_truth():
    with virtual() as device:
        record = measure(device, A, QUICK)
    assert record.median_s == pytest.approx(0.01, rel=0.01)
    assert record.median_ci_s[0] * 0.995 < 0.01 < record.median_ci_s[1] * 1.005
    assert record.complete
    assert record.clock == "virtual"


def test_record_survives_json():
    with Virtual() as device:
        record = measure(device, conv_workload(), replace(QUICK, layers=True, budget_s=5))
    assert Measurement.from_dict(record.to_dict()) == record


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(0.97, Verdict.FASTER), (1.03, Verdict.SLOWER), (1.0, Verdict.SAME), (1.004, Verdict.SAME)],
)
def test_verdicts_are_right(ratio, verdict):
    for seed in range(5):
        with virtual(ratio, seed=seed) as device:
            found = compare(*measure_interleaved(device, [A, B], replace(QUICK, seed=seed)))
        assert found.verdict is verdict
        assert found.speedup_ci[0] - 0.004 < 1 / ratio < found.speedup_ci[1] + 0.004


def test_a_small_budget_leaves_it_unresolved_and_says_so():
    with virtual(noise=(White(0.3), SessionOffset(0.05))) as device:
        found = compare(*measure_interleaved(device, [A, B], replace(QUICK, budget_s=3)))
    assert found.verdict is Verdict.UNRESOLVED
    assert "too_few_samples" in {finding.code for finding in found.findings}


@pytest.mark.slow
def test_false_verdicts_and_coverage_over_many_comparisons():
    """The study results/virtual_truth/ does this with 1,000 runs for every kind of noise."""
    runs, false, covered = 120, 0, 0
    for seed in range(runs):
        with virtual(seed=seed, noise=(White(0.02), SessionOffset(0.01))) as device:
            found = compare(*measure_interleaved(device, [A, B], replace(QUICK, seed=seed)))
        false += found.verdict in {Verdict.FASTER, Verdict.SLOWER}
        covered += found.speedup_ci[0] <= 1 <= found.speedup_ci[1]
    assert false <= 2
    assert covered / runs >= 0.88


def test_a_latency_stops_early_when_it_is_clear_and_not_before_the_minimum():
    with virtual(noise=(White(0.005),)) as device:
        first = measure(device, A, QUICK)
        assert device.time_s() < QUICK.budget_s / 2
    assert CONFIRM < QUICK.min_sessions <= first.series.sessions <= QUICK.min_sessions + 2


def test_a_large_effect_is_called_after_three_sessions():
    with virtual(0.4) as device:
        found = compare(*measure_interleaved(device, [A, B], QUICK))
        assert device.time_s() < 4
    assert found.verdict is Verdict.FASTER
    assert found.baseline.series.sessions == 3
    assert "too_few_samples" not in {finding.code for finding in found.findings}


def test_several_candidates_stop_when_the_last_one_is_told():
    small = told("c")
    latencies_s = {A.sha256: 0.01, B.sha256: 0.004, small.sha256: 0.0095}
    with Virtual(noise=ORDINARY, latencies_s=latencies_s) as device:
        first, *others = measure_interleaved(device, [A, B, small], QUICK)
    assert [compare(first, other).verdict for other in others] == [Verdict.FASTER] * 2
    assert 4 <= first.series.sessions <= 8


def test_a_small_budget_makes_sessions_shorter_and_not_fewer():
    with virtual(0.8) as device:
        found = compare(*measure_interleaved(device, [A, B], replace(QUICK, budget_s=2)))
        assert device.time_s() <= 2.5
    assert found.verdict is Verdict.FASTER


def test_keeps_to_the_budget():
    with virtual(1.01, noise=(White(0.1), SessionOffset(0.03))) as device:
        measure_interleaved(device, [A, B], replace(QUICK, budget_s=10))
        assert device.time_s() <= 10.5


@pytest.mark.parametrize("budget_s", [0.5, 3, 10, 30])
@pytest.mark.parametrize("latency_s", [0.02, 0.3, 1.3, 5.0, 40.0])
@pytest.mark.parametrize("count", [1, 2])
def test_no_network_is_too_slow_for_a_budget(count, latency_s, budget_s):
    """What is fixed: preparing (0.05 s a network here), and half a second for a second session."""
    workloads = [A, B][:count]
    with Virtual(noise=(White(0.01),), latencies_s={A.sha256: latency_s, B.sha256: 1}) as device:
        (first, *_) = measure_interleaved(device, workloads, replace(QUICK, budget_s=budget_s))
        took_s = device.time_s()
    block_s = latency_s + (count - 1)
    assert took_s <= budget_s + 1.05 * block_s + 4 * count * PREPARE_S + GRACE_S
    assert first.median_s == pytest.approx(latency_s, rel=0.05)
    if latency_s > 0.3:
        (found,) = (each for each in first.findings if each.code == "too_few_samples")
        assert f"fit into {budget_s:g} s" in found.text
    if latency_s > budget_s:
        assert first.series.samples_s[0] > 0
        assert (len(first.series), len(first.warm_up)) == (1, 0)
        assert "with 1 round in all" in found.text


@pytest.mark.parametrize("slowness", [1, 300, 1000, 30000])
def test_layers_are_profiled_as_far_as_the_budget_goes(slowness):
    law = Law(macs_per_s=50e9 / slowness, bytes_per_s=20e9 / slowness, network_overhead_s=0)
    with Virtual(law=law, noise=(White(0.01),)) as device:
        workload = conv_workload(size=64)
        record = measure(device, workload, replace(QUICK, layers=True, budget_s=4))
        took_s = device.time_s()
    assert took_s <= 4 + 1.05 * record.median_s + 6 * PREPARE_S + GRACE_S
    codes = {finding.code for finding in record.findings}
    assert (record.profile is None) == ("layers_unknown" in codes) == (slowness > 300)


def test_two_sessions_are_taken_even_if_the_budget_is_too_small_for_an_interval():
    with virtual() as device:
        assert set(measure(device, A, replace(QUICK, budget_s=0.01)).series.session) == {0, 1}


def test_blocks_pair_samples_and_sessions_number_them():
    with virtual() as device:
        first, second = measure_interleaved(device, [A, B], replace(QUICK, budget_s=5))
    assert first.series.block == second.series.block == tuple(range(len(first.series.samples_s)))
    assert list(first.series.session) == sorted(first.series.session)
    assert first.group_id == second.group_id
    assert first.id != second.id


def test_short_models_are_looped_and_samples_stay_per_inference():
    with Virtual(latencies_s={A.sha256: 20e-6}, noise=(White(0.01),)) as device:
        record = measure(device, A, replace(QUICK, budget_s=5))
    assert record.loops == pytest.approx(QUICK.min_round_s / 20e-6, abs=2)
    assert record.median_s == pytest.approx(20e-6, rel=0.01)


def test_single_inferences_show_the_spikes_that_means_hide():
    latencies_s = {A.sha256: 20e-6}
    noise = (White(0.01), Spikes(probability=0.03, factor=5, tail=8))
    with Virtual(latencies_s=latencies_s, noise=noise) as device:
        tail = measure(device, A, replace(QUICK, budget_s=4, tail=True))
        assert device.time_s() > 3  # nothing but the budget ends it
    with Virtual(latencies_s=latencies_s, noise=noise) as device:
        means = measure(device, A, replace(QUICK, budget_s=4))
    assert tail.loops == 1
    assert len(tail.series) >= 2000
    assert tail.quantile(0.5).estimate == pytest.approx(20e-6, rel=0.02)
    assert tail.quantile(0.99).estimate > 90e-6
    assert tail.worst_s == max(tail.series.samples_s)
    assert means.loops > 1
    assert (means.quantile(0.99), means.worst_s) == (None, None)


def test_same_seed_same_samples():
    def once(seed):
        with virtual() as device:
            return measure(device, A, replace(QUICK, seed=seed, budget_s=4)).series.samples_s

    assert once(1) == once(1)


def test_a_lost_device_keeps_what_was_sampled():
    seen = Recorder()
    with (
        virtual(faults=[Fault("lost", after_rounds=200)]) as device,
        pytest.raises(DeviceLostError),
    ):
        measure_interleaved(device, [A, B], QUICK, seen)
    assert len(seen.samples[0]) == len(seen.samples[1]) > 20
    assert not seen.done


@pytest.mark.parametrize("kind", ["nan", "zero", "miscount"])
def test_impossible_samples_never_become_a_number(kind):
    with virtual(faults=[Fault(kind, after_rounds=100)]) as device, pytest.raises(MeasurementError):
        measure(device, A, QUICK)


def test_throttled_sessions_are_repeated_after_cooling():
    noise = (White(0.005), Throttling(after_s=3.0, factor=1.5, recovery_s=10.0))
    with virtual(noise=noise) as device:
        record = measure(device, A, replace(QUICK, budget_s=120, target=0.0005, max_sessions=8))
    assert record.median_s == pytest.approx(0.01, rel=0.01)
    assert max(record.series.samples_s) < 0.0125
    assert "throttled" in {finding.code for finding in record.findings}


def test_layers_close_on_the_unprofiled_latency():
    with Virtual(noise=(White(0.01),)) as device:
        record = measure(device, conv_workload(), replace(QUICK, layers=True, budget_s=8))
        truth = {layer.name: device.law.layer_s(layer.key) for layer in record.profile.layers}
    assert [layer.name for layer in record.profile.layers][:2] == [
        "features.0.conv",
        "features.1.conv",
    ]
    for layer in record.profile.layers:
        assert layer.median_s == pytest.approx(truth[layer.name], rel=0.05)
    assert record.closure == pytest.approx(sum(truth.values()) / record.median_s, rel=0.02)


def test_what_starting_takes_is_kept_for_each_session_and_its_intervals_cover():
    """The first session does not count: files may have come from the disk then."""
    runs, covered = 250, {"load_s": 0, "first_run_s": 0}
    few = replace(QUICK, max_sessions=4, stop_at_difference=False, session_s=0.05)
    truth = {"load_s": LOAD_S, "first_run_s": FIRST_RUN_FACTOR * 0.01}
    for seed in range(runs):
        with virtual(seed=seed) as device:
            record = measure(device, A, replace(few, seed=seed))
        assert len(record.starts) == 4
        for quantity, true in truth.items():
            estimate = record.start(quantity)
            assert estimate.sessions == 3
            covered[quantity] += estimate.ci[0] <= true <= estimate.ci[1]
    for hits in covered.values():
        assert 0.91 <= hits / runs <= 0.99  # 95 %, and three deviations of 250 runs


def test_gains_at_the_start_are_paired_by_session():
    with virtual(0.5) as device:
        found = compare(*measure_interleaved(device, [A, B], QUICK))
    gain, (low, high) = found.start_gain("first_run_s")
    assert low < 2 < high
    assert gain == pytest.approx(2, rel=0.5)
    assert found.start_gain("peak_memory_bytes") is None


def test_a_session_that_is_repeated_starts_once():
    noise = (White(0.005), Throttling(after_s=3.0, factor=1.5, recovery_s=10.0))
    with virtual(noise=noise) as device:
        record = measure(device, A, replace(QUICK, budget_s=120, target=0.0005, max_sessions=8))
    assert len(record.starts) == record.series.sessions == 8


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_time_to_load_never_becomes_a_number(monkeypatch, bad):
    real = Virtual._prepare
    monkeypatch.setattr(Virtual, "_prepare", lambda *asked: replace(real(*asked), load_s=bad))
    with virtual() as device, pytest.raises(MeasurementError):
        measure(device, A, QUICK)


def test_memory_is_looked_at_in_a_process_of_its_own_for_a_share_of_the_time(monkeypatch):
    alone = []

    def peak(self, prepared):
        if not prepared.settings.isolate:
            return None
        alone.append(prepared.workload.name)
        return 1000

    monkeypatch.setattr(Virtual, "measures_memory", lambda self: True, raising=False)
    monkeypatch.setattr(Virtual, "peak_memory_bytes", peak, raising=False)
    with virtual() as device:
        record, _ = measure_interleaved(device, [A, B], replace(QUICK, session_s=0.1))
    assert record.peak_memory_bytes == 1000
    assert record.start("peak_memory_bytes").estimate == pytest.approx(1000)
    assert 2 <= len(alone) < 2 * record.series.sessions
    assert set(alone) == {A.name, B.name}


def test_memory_that_the_runtime_counts_needs_no_process_of_its_own(monkeypatch):
    monkeypatch.setattr(Virtual, "measures_memory", lambda self: False, raising=False)
    monkeypatch.setattr(Virtual, "peak_memory_bytes", lambda self, prepared: 1000, raising=False)
    with virtual() as device:
        record = measure(device, A, replace(QUICK, session_s=0.1))
    assert {start.peak_memory_bytes for start in record.starts} == {1000}


def test_bad_requests_are_refused():
    with virtual() as device:
        with pytest.raises(UsageError, match="no workload"):
            measure_interleaved(device, [], QUICK)
        with pytest.raises(UsageError, match="positive"):
            measure(device, A, replace(QUICK, budget_s=0))


def test_what_went_wrong_first_is_what_is_heard(monkeypatch):
    """A device that fails to release after an interruption must not hide the interruption."""

    def interrupted(self, order, loops):
        self._release = lambda prepared: (_ for _ in ()).throw(DeviceLostError("gone"))
        raise KeyboardInterrupt

    monkeypatch.setattr(Virtual, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt), virtual() as device:
        measure(device, A, QUICK)


@pytest.mark.parametrize("budget_s", [0.2, 1, 2, 3, 5])
@pytest.mark.parametrize("slowness", [1, 30, 100, 300])
@pytest.mark.parametrize("prepare_s", [0.01, 0.3, 1.1])
def test_layers_that_no_session_had_time_for_are_told_of(slowness, budget_s, prepare_s):
    class Slow(Virtual):
        def _prepare(self, workload, settings):
            self._clock.idle(prepare_s)
            return super()._prepare(workload, settings)

    law = Law(macs_per_s=50e9 / slowness, bytes_per_s=20e9 / slowness, network_overhead_s=0)
    with Slow(law=law, noise=(White(0.01),)) as device:
        settings = replace(QUICK, layers=True, budget_s=budget_s)
        record = measure(device, conv_workload(size=64), settings)
    codes = {finding.code for finding in record.findings}
    assert (record.profile is None) == ("layers_unknown" in codes)


@pytest.mark.parametrize("fits", [1, 0])
def test_a_profile_that_is_too_large_is_tried_with_one_inference(monkeypatch, fits):
    small = Virtual._profile_layers

    def profile(self, prepared, runs):
        if runs > fits:
            raise OutputTooLargeError("profile.json has 64 MiB or more, which is not read")
        return small(self, prepared, runs)

    monkeypatch.setattr(Virtual, "_profile_layers", profile)
    with Virtual(noise=(White(0.01),)) as device:
        record = measure(device, conv_workload(), replace(QUICK, layers=True, budget_s=3))
    assert record.complete
    assert (record.profile is not None) is bool(fits)
    texts = {finding.code: finding.text for finding in record.findings}
    assert ("layers_unknown" in texts) is not bool(fits)
    assert fits or "64 MiB" in texts["layers_unknown"]


def test_a_profile_that_cannot_be_read_costs_the_layers_not_the_latency(monkeypatch):
    def unreadable(self, prepared, runs):
        raise OutputParseError("inferences differ in the nodes they executed")

    monkeypatch.setattr(Virtual, "profile_layers", unreadable)
    with virtual() as device:
        record = measure(device, A, replace(QUICK, layers=True, budget_s=5))
    assert record.profile is None
    assert "layers_unknown" in {finding.code for finding in record.findings}


def test_a_slow_model_is_not_said_to_be_unsettled():
    with Virtual(noise=(), latencies_s={A.sha256: 0.3}) as device:
        record = measure(device, A, replace(QUICK, budget_s=20))
    assert "not_settled" not in {finding.code for finding in record.findings}


def test_throttling_is_said_once():
    with virtual(faults=[Fault("throttled", after_rounds=100)]) as device:
        record = measure(device, A, replace(QUICK, budget_s=60))
    assert [finding.code for finding in record.findings].count("throttled") == 1


def test_a_larger_budget_resolves_more():
    """Nothing but the budget bounds the sessions."""
    with virtual(1.01, noise=(White(0.02), SessionOffset(0.02))) as device:
        first, _ = measure_interleaved(device, [A, B], replace(QUICK, budget_s=90))
    assert first.series.sessions > 60


def test_intervals_of_layers_cover_what_they_take():
    hits = total = 0
    workload = conv_workload()
    for seed in range(12):
        with Virtual(noise=(White(0.03), SessionOffset(0.01)), seed=seed) as device:
            settings = replace(QUICK, layers=True, budget_s=6, seed=seed)
            record = measure(device, workload, settings)
            truth = {layer.name: device.law.layer_s(layer.key) for layer in record.profile.layers}
        for layer in record.profile.layers:
            low, high = layer.ci_s
            hits += low <= truth[layer.name] <= high
            total += 1
    assert hits / total >= 0.85


def test_layers_shorter_than_the_profiler_can_tell_are_named(monkeypatch):
    real = Virtual.profile_layers
    monkeypatch.setattr(
        Virtual, "profile_layers", lambda *asked: replace(real(*asked), node_cost_s=1.0)
    )
    with Virtual(noise=()) as device:
        record = measure(device, conv_workload(), replace(QUICK, layers=True, budget_s=5))
    text = next(finding.text for finding in record.findings if finding.code == "below_resolution")
    assert f"{len(record.profile.layers)} layers" in text
    assert all(layer.median_s > 0 and layer.is_bound for layer in record.profile.layers)


def test_layers_that_the_profiler_can_tell_are_not():
    with Virtual(noise=(White(0.01),)) as device:
        record = measure(device, conv_workload(), replace(QUICK, layers=True, budget_s=5))
    assert "below_resolution" not in {finding.code for finding in record.findings}


def test_two_devices_take_turns():
    """As two runtimes of one target do."""
    slow = Virtual("seed=1", latencies_s={A.sha256: 0.010})
    fast = Virtual("seed=2", latencies_s={A.sha256: 0.005})
    with slow, fast:
        records = measure_on([slow, fast], [A, A], QUICK)
        found = compare(*records)
    assert [record.device.address for record in records] == ["virtual:seed=1", "virtual:seed=2"]
    assert records[0].group_id == records[1].group_id
    assert records[0].series.block == records[1].series.block
    assert records[1].median_s == pytest.approx(0.005, rel=0.1)
    assert found.verdict is Verdict.FASTER
    assert found.findings[0].code == "runtime_differs"
