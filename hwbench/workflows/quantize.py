"""`hwbench quantize`: a network in int8, calibrated on the user's data, measured and evaluated.

The network is quantised once as a whole. Layers that are proven slower in int8, and layers that
alone make much of the error of the outputs, are left in fp32 in further versions; those are
measured and evaluated again, on images that calibrated nothing. The version that is kept is
measured afresh and evaluated on the test set, which has chosen nothing: the numbers that are told
were not selected. A function of the user's that gives a number for each sample chooses by every
other one of them, and the rest is told.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from hwbench.errors import Argument, HwbenchError, UnsupportedLayerError, UsageError
from hwbench.measuring.agreement import compare_outputs, describe_runtime
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.comparing import compare_measured
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.network.intake.calibrated import CalibratedNetwork
from hwbench.network.run_outputs import NetworkRunner
from hwbench.network.workload import Workload
from hwbench.records.codec import to_plain
from hwbench.records.comparison import Comparison
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings
from hwbench.records.outputs import ACCURACY, Likeness, QualityChange
from hwbench.records.quantization import (
    Quantization,
    QuantizationRecipe,
    QuantizedLayer,
    QuantizedVersion,
)
from hwbench.records.scratch import scratch_folder
from hwbench.records.untrusted import parse_json, read_text
from hwbench.records.whole_files import whole_file
from hwbench.stats import Ratio, Verdict
from hwbench.workflows.likeness import (
    Answers,
    EvaluatedNetwork,
    ask_function,
    classify,
    compare_answers,
    find_function,
    load_images,
    normalise_images,
)
from hwbench.workflows.meter import DeviceMeter, Meter, open_meter
from hwbench.workflows.recording import recording

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from hwbench.search.data import Data, Images

LOG = logging.getLogger("hwbench")
DEFAULT_SETTINGS = Settings(budget_s=60.0)
MAX_DROP = 0.01
"""Accuracy that int8 may cost by default."""
CALIBRATION_IMAGES = 128
"""Images that ranges are found on: more of them widen the ranges of all for the sake of a few."""
PROBE_IMAGES = 64
"""Images whose outputs tell how sensitive a layer is."""
VALIDATED_VERSIONS = 4
"""Networks that answer the validation set as a rule: fp32, and up to four in int8."""
FEWEST_EVALUATED = 100
"""Images that accuracies are taken from, however little time there is."""
SHARES = {
    "normalisation": 0.1,
    "calibration": 0.1,
    "first": 0.15,
    "sensitivity": 0.15,
    "validation": 0.1,
    "versions": 0.15,
    "test": 0.05,
    "final": 0.2,
}
"""Shares of the budget, in the order of the work: `first`, `versions` and `final` are measured."""
LEAST_STAGE = 0.02
"""Share of the budget that a stage has in any case, though those before it took too long."""
MODEL_SUFFIXES = (".onnx", ".pt", ".pt2", ".pth", ".safetensors")
CHOOSING, TELLING = 0, 1
"""Samples of a function, in turns: those that choose the version, and those that are told."""
FEWEST_DIVIDED = 20
"""Numbers of a function from which on half of them choose the version and the others are told."""
EVEN_SHARES, LEAST_SHARE = 3, 0.1
"""A layer is sensitive if it makes as many times the share of the error that it would have if all
layers made the same, and at least this share."""


@dataclass(frozen=True)
class _Answered:
    """What a version answers images of the validation set.

    Attributes:
        quality: Against the fp32 network.
        snr_db: Signal-to-noise ratio of its outputs, decibels.
    """

    quality: QualityChange
    snr_db: float


def quantize(
    model: str | Path | nn.Module,
    *,
    data: str | Path,
    evaluate: str | Callable[[nn.Module], Any] | None = None,
    device: str | Meter = "cpu",
    max_drop: float = MAX_DROP,
    out: str | Path | None = None,
    settings: Settings | None = None,
    store: str | None = None,
    save: bool = True,
    callback: MeasuringCallback | None = None,
    **options: Unpack[ModelOptions],
) -> Quantization:
    """Quantise a network to int8 on images, and measure what that gains and costs.

    Args:
        model: What `hwbench.profile` takes, in fp32.
        data: Images: a folder with one sub-folder per class, `package.module:factory` of torch
            datasets, `fashion-mnist` or `digits`. Ranges are found on images of the training set,
            versions are chosen on the validation set, and accuracies are of the test set.
        evaluate: A function, or its name `package.module:function`, that evaluates a network in
            place of its accuracy, as `hwbench.compare` takes it: more is better. Where it gives a
            number for each sample, every other one chooses the version and the rest is told.
        device: Address of the device to measure on, or another `Meter`.
        max_drop: Accuracy that int8 may cost: of the versions that lose no more on the validation
            set the fastest is kept. Of images without labels it is the share that may get another
            class; with `evaluate` it is in the unit of that.
        out: The ONNX file to write; the name of the model with `.int8.onnx` in the current folder
            if None. The recipe lies beside it, as `.json`.
        settings: How to measure; `budget_s` is for all of the work but reading and `evaluate`.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        save: Whether to keep the records of the final comparison in the store.
        callback: Called while the work goes on.
        options: How the model is read, see `load_workload`.

    Raises:
        UsageError: The network is not in fp32, takes no images, or a file cannot be written.
        UnsupportedLayerError: The device does not run int8.
        HwbenchError: The model cannot be read or quantised, or the device cannot run it.
    """
    settings = settings or DEFAULT_SETTINGS
    paths = _choose_paths(model, out)
    function = None if evaluate is None else find_function(evaluate)
    workload = load_workload(model, seed=settings.seed, **options)
    _check_takes_images(workload)
    images = load_images(str(data), workload, settings.seed)
    with (
        open_meter(device) as meter,
        scratch_folder() as folder,
        NetworkRunner(folder, os.cpu_count() or 1) as runner,
    ):
        _check_runs_int8(meter)
        work = _Quantizing(
            workload,
            images,
            meter,
            runner,
            settings=settings,
            callback=callback or MeasuringCallback(),
            name=str(paths[0]),
            function=function,
        )
        left = work.choose(max_drop)
        chosen = work.quantize(left)
        likeness = work.evaluate(chosen)
        with recording(store, save=save, callback=callback, likeness=likeness) as recorder:
            final = replace(settings, budget_s=work.budget.take("final"))
            records = meter.measure([workload, chosen], final, recorder)
    comparison = compare_measured(*records, likeness=likeness)
    recipe = work.describe(chosen, left)
    _write_files(paths, chosen, recipe)
    findings = (*work.findings, *_judge(comparison, max_drop))
    return Quantization(*paths, recipe, comparison, work.list_versions(left), work.layers, findings)


class _Budget:
    """Divides a budget among the stages of the work, which come in the order of `SHARES`.

    Args:
        budget_s: Seconds for all of them, from now on.
    """

    def __init__(self, budget_s: float) -> None:
        self._budget_s, self._end_s = budget_s, time.monotonic() + budget_s
        self._shares = dict(SHARES)

    def take(self, stage: str) -> float:
        """Seconds for a stage that begins: its share of what the stages before it have left."""
        to_come = sum(self._shares.values())
        share = self._shares.pop(stage)
        left_s = self._end_s - time.monotonic()
        return round(max(left_s * share / to_come, LEAST_STAGE * self._budget_s), 2)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile takes nothing from it."""
        begun_s = time.monotonic()
        try:
            yield
        finally:
            self._end_s += time.monotonic() - begun_s


class _Quantizing:
    """One network on its way to int8.

    Args:
        workload: The network in fp32.
        images: What it is calibrated and evaluated on.
        meter: What measures.
        runner: What runs networks for their outputs.
        settings: How to measure.
        callback: Called while the work goes on.
        name: What the int8 network is called.
        function: What evaluates networks in place of their accuracy, and its name; None for
            nothing.
    """

    def __init__(
        self,
        workload: Workload,
        images: Data,
        meter: Meter,
        runner: NetworkRunner,
        *,
        settings: Settings,
        callback: MeasuringCallback,
        name: str,
        function: tuple[Callable[[nn.Module], Any], str] | None,
    ) -> None:
        self.workload, self.meter, self.runner, self.name = workload, meter, runner, name
        self.settings, self.callback = settings, callback
        self.budget = _Budget(settings.budget_s)
        self.findings: list[Finding] = []
        self.layers: tuple[QuantizedLayer, ...] = ()
        self._baseline = EvaluatedNetwork(runner, workload, workload)
        self._function = function
        self._function_name = "" if function is None else function[1]
        self._said: dict[str, Answers] = {}  # by SHA-256
        if function is not None:
            self._ask_function(workload)  # where that fails, nothing else was in vain
        LOG.info("looking how the images are normalised")
        self.budget.take("normalisation")
        self.images, finding = normalise_images(images, self._baseline, settings.seed)
        self.findings += [] if finding is None else [finding]
        self._calibration_images = 0
        LOG.info("finding the ranges of the activations")
        self._network = CalibratedNetwork(workload, self._feed_calibration())
        self._probe = self.images.validation.sample(PROBE_IMAGES, settings.seed).numpy()
        self._reference = self._baseline.run(self._probe)  # loads the network
        begun_s = time.monotonic()
        self._baseline.run(self._probe)
        self._image_s = (time.monotonic() - begun_s) / len(self._probe)
        if function is None:
            self._validation = self._choose_affordable(
                self.images.validation, VALIDATED_VERSIONS, SHARES["validation"] * settings.budget_s
            )
            self._expected = classify(self._baseline, self._validation, self.images.classes)
        self._answered: dict[tuple[str, ...], _Answered] = {}
        self._ratios: dict[tuple[str, ...], Ratio] = {}

    def _feed_calibration(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Inputs for the calibration: images of the training set, evenly over the classes."""
        (spec,) = self.workload.inputs
        train, batch = self.images.train, self.workload.batch
        drawn = train.few(min(CALIBRATION_IMAGES, len(train)), self.settings.seed)
        end_s = time.monotonic() + self.budget.take("calibration")
        for start in range(0, len(drawn), batch):
            numbers = drawn.numbers[start : start + batch]
            if len(numbers) < batch:
                numbers = drawn.numbers[-batch:]
            if len(numbers) < batch:
                raise UsageError(
                    f"{self.workload.name} takes {batch} images at a time, and"
                    f" {self.images.name} has {len(drawn)} to calibrate on",
                    Argument("batch", change="a smaller"),
                )
            images, _ = drawn.batch(numbers)
            self._calibration_images = min(start + batch, len(drawn))
            yield {spec.name: images.numpy()}
            if time.monotonic() > end_s:
                return

    def _choose_affordable(self, images: Images, networks: int, seconds: float) -> Images:
        """As many images as so many networks can answer in time, evenly over the classes."""
        affordable = int(seconds / (self._image_s * networks))
        return images.few(min(len(images), max(FEWEST_EVALUATED, affordable)), self.settings.seed)

    def quantize(self, left: Sequence[str]) -> Workload:
        """The network in int8, but for some layers."""
        return self._network.quantize(self.name, left)

    def choose(self, max_drop: float) -> tuple[str, ...]:
        """Find the layers that are better left in fp32.

        Args:
            max_drop: Accuracy that int8 may cost.

        Returns:
            Their names: those of the fastest version that loses no more.
        """
        whole = self.quantize(())
        first = self._measure([whole], self.budget.take("first"))[0]
        self._ratios[()] = _ratio_of(first)
        shares = self._find_sensitivities(whole)
        self.layers = self._list_layers(first, shares)
        slower = tuple(layer.name for layer in self.layers if layer.is_slower)
        sensitive = tuple(layer.name for layer in self.layers if layer.is_sensitive)
        both = tuple(layer.name for layer in self.layers if layer.is_slower or layer.is_sensitive)
        versions: dict[tuple[str, ...], Workload] = {(): whole}
        for left in (slower, sensitive, both):
            if left not in versions:
                quantized = self.quantize(left)
                if quantized.precision == "int8":  # else nothing was left to quantise
                    versions[left] = quantized
        self.budget.take("validation")
        for left, quantized in versions.items():
            self._answered[left] = self._validate(quantized)
        budget_s = self.budget.take("versions")
        if len(versions) > 1:
            LOG.info("measuring %d versions", len(versions))
            comparisons = self._measure(list(versions.values()), budget_s)
            for left, comparison in zip(versions, comparisons, strict=True):
                self._ratios[left] = _ratio_of(comparison)
        return self._pick(max_drop)

    def _pick(self, max_drop: float) -> tuple[str, ...]:
        """The fastest version that loses little enough, or the one that loses least."""
        losses = {left: _loss(answered.quality) for left, answered in self._answered.items()}
        good = [left for left, loss in losses.items() if loss <= max_drop]
        if not good:
            return min(losses, key=losses.__getitem__)
        return min(good, key=lambda left: self._ratios[left].ratio)

    def _measure(self, quantized: Sequence[Workload], budget_s: float) -> list[Comparison]:
        """Measure int8 versions beside the fp32 network; the layers of a single one as well."""
        layers = self.settings.layers and len(quantized) == 1
        settings = replace(self.settings, budget_s=budget_s, layers=layers)
        workloads = [self.workload, *quantized]
        baseline, *others = self.meter.measure(workloads, settings, self.callback)
        return [compare_measured(baseline, other) for other in others]

    def _find_sensitivities(self, whole: Workload) -> dict[str, float]:
        """By how much the error of the outputs falls when a layer alone stays in fp32.

        Layers are tried from both ends of the network, where most of the sensitive ones are.

        Returns:
            Share of the power of the error, by the name of the layer.
        """
        error = self._error_power(whole)
        names = self._network.weighted_layers
        if not error or len(names) < 2:
            return {}
        order = sorted(range(len(names)), key=lambda place: min(place, len(names) - 1 - place))
        end_s = time.monotonic() + self.budget.take("sensitivity")
        shares: dict[str, float] = {}
        for place in order:
            if time.monotonic() > end_s:
                text = (
                    f"{len(shares)} of {len(names)} layers were left in fp32 one by one, from both"
                    " ends of the network; the budget had no time for the others"
                )
                self.findings.append(Finding("layers_untried", text))
                break
            LOG.info("leaving out one layer after the other: %d of %d", len(shares), len(names))
            quantized = self.quantize([names[place]])
            shares[names[place]] = 1 - self._error_power(quantized) / error
        return shares

    def _error_power(self, quantized: Workload) -> float:
        """Mean square of the difference between its outputs and those of the fp32 network."""
        outputs = EvaluatedNetwork(self.runner, quantized, self.workload).run(self._probe)
        self.runner.unload(quantized)
        return float(np.mean((outputs.astype(np.float64) - self._reference) ** 2))

    def _list_layers(
        self, comparison: Comparison, shares: dict[str, float]
    ) -> tuple[QuantizedLayer, ...]:
        """The layers that int8 makes slower, or much of the outputs' error; those tried first."""
        changes = {change.name: change for change in comparison.layers}
        threshold = LEAST_SHARE
        if shares:
            threshold = max(LEAST_SHARE, EVEN_SHARES / len(self._network.weighted_layers))
        layers = []
        for name in self._network.layers:
            change, share = changes.get(name), shares.get(name)
            saved_s, margin_s, is_slower = None, None, False
            if change is not None and change.baseline_s and change.candidate_s:
                saved_s, margin_s = change.saved_s, change.margin_s
                is_slower = margin_s is not None and saved_s < -margin_s
            is_sensitive = share is not None and share >= threshold
            if is_slower or is_sensitive:
                layers.append(
                    QuantizedLayer(name, saved_s, margin_s, share, is_slower, is_sensitive)
                )
        return tuple(layers)

    def _validate(self, quantized: Workload) -> _Answered:
        """What a version answers images of the validation set."""
        LOG.info("evaluating on the validation set")
        error = self._error_power(quantized)
        power = float(np.mean(self._reference.astype(np.float64) ** 2))
        snr_db = 10 * math.log10(power / error) if error and power else math.inf
        if self._function is None:
            quality = self._compare(self._expected, quantized, self._validation)
        else:
            quality = self._compare_by_function(quantized, CHOOSING)
        self.runner.unload(quantized)
        return _Answered(quality, snr_db)

    def _ask_function(self, network: Workload) -> Answers:
        """What the user's function says of a network; it is asked once for each."""
        if self._function is not None and network.sha256 not in self._said:
            LOG.info("evaluating by %s", self._function_name)
            evaluated = EvaluatedNetwork(self.runner, network, self.workload)
            with self.budget.paused():
                self._said[network.sha256] = ask_function(*self._function, evaluated)
        return self._said[network.sha256]

    def _compare_by_function(self, quantized: Workload, part: int) -> QualityChange:
        """A version against the fp32 network by the user's function.

        Args:
            quantized: The version.
            part: `CHOOSING` or `TELLING`: which of the samples count, where there are enough.
        """
        before, after = self._ask_function(self.workload), self._ask_function(quantized)
        whole = compare_answers(
            before,
            after,
            self.images.name,
            self._function_name,
            describe_runtime(self.workload, quantized),
        )
        if whole.samples < FEWEST_DIVIDED:
            return whole
        before, after = _take_part(before, part), _take_part(after, part)
        return compare_answers(before, after, whole.data, whole.measure, whole.runtime)

    def _compare(self, expected: Answers, quantized: Workload, images: Images) -> QualityChange:
        network = EvaluatedNetwork(self.runner, quantized, self.workload)
        answers = classify(network, images, self.images.classes)
        runtime = describe_runtime(self.workload, quantized)
        return compare_answers(expected, answers, self.images.name, ACCURACY, runtime)

    def evaluate(self, chosen: Workload) -> Likeness:
        """How far the version that is kept computes the same as the fp32 network."""
        quality = self._evaluate_quality(chosen)
        # Random inputs would lie outside of the ranges that it was calibrated for.
        outputs = EvaluatedNetwork(self.runner, chosen, self.workload).run(self._probe)
        inputs = f"{len(self._probe)} images of the validation set"
        pairs = [
            ([before[None]], [after[None]])
            for before, after in zip(self._reference, outputs, strict=True)
        ]
        return Likeness(compare_outputs(pairs, inputs, quality.runtime), quality)

    def _evaluate_quality(self, chosen: Workload) -> QualityChange:
        """How much worse the version that is kept is, by samples that have chosen nothing."""
        budget_s = self.budget.take("test")
        if self._function is None:
            LOG.info("evaluating on the test set")
            test = self._choose_affordable(self.images.test, 2, budget_s)
            expected = classify(self._baseline, test, self.images.classes)
            return self._compare(expected, chosen, test)
        quality = self._compare_by_function(chosen, TELLING)
        if len(self._answered) > 1 and not quality.samples:
            text = (
                f"{quality.measure} gives one number, which has also chosen among"
                f" {len(self._answered)} versions: the quality of the one that was kept looks a"
                f" little better than it is; from {FEWEST_DIVIDED} samples on, one number for"
                " each of them avoids that"
            )
            self.findings.append(Finding("quality_has_chosen", text))
        return quality

    def list_versions(self, chosen: tuple[str, ...]) -> tuple[QuantizedVersion, ...]:
        """All versions that were tried."""
        return tuple(
            QuantizedVersion(
                left,
                self._ratios.get(left),
                answered.snr_db,
                answered.quality.drop,
                answered.quality.agreement,
                left == chosen,
            )
            for left, answered in self._answered.items()
        )

    def describe(self, chosen: Workload, left: tuple[str, ...]) -> QuantizationRecipe:
        """How the version that is kept was made."""
        preprocessing = self.images.preprocessing
        return QuantizationRecipe(
            model=self.workload.name,
            model_sha256=self.workload.sha256,
            quantizer=f"onnxruntime {version('onnxruntime')}",
            format="QDQ",
            activations="uint8",
            weights="int8",
            per_channel=True,
            ranges="MinMax",
            data=self.images.name,
            images=self._calibration_images,
            seed=self.settings.seed,
            preprocessing=None if preprocessing is None else preprocessing.to_dict(),
            left_in_fp32=left,
            onnx_sha256=chosen.sha256,
        )


def _ratio_of(comparison: Comparison) -> Ratio:
    if comparison.ratio is None:
        raise UsageError(f"the versions cannot be compared: {comparison.findings[0].text}")
    return comparison.ratio


def _take_part(said: Answers, part: int) -> Answers:
    """Every other sample of what a function says of a network."""
    if said.values is None:
        return said
    values = said.values[part::2]
    return replace(said, values=values, quality=float(values.mean()))


def _loss(quality: QualityChange) -> float:
    """Accuracy that was lost; without labels the share of images that get another class.

    Where neither is known, all may be lost.
    """
    if quality.drop is not None:
        return quality.drop
    return 1.0 if quality.agreement is None else 1 - quality.agreement


def _judge(comparison: Comparison, max_drop: float) -> list[Finding]:
    """What is to be told of the version that was kept."""
    findings = []
    if comparison.verdict is not Verdict.FASTER:
        text = "int8 is not proven faster than fp32 here, so it gains nothing but size"
        findings.append(Finding("nothing_gained", text))
    quality = comparison.likeness.quality
    if quality is not None and _loss(quality) > max_drop:
        what = "of its accuracy" if quality.drop is not None else "of the fp32 network's answers"
        lost, allowed = f"{_loss(quality):.2%}", f"{max_drop:.2%}"
        if quality.measure != ACCURACY:
            what = f"by {quality.measure}"
            lost, allowed = f"{_loss(quality):.4g}", f"{max_drop:.4g}"
        text = (
            f"int8 loses {lost} {what}, more than the {allowed} that it may, and"
            " no version that was tried loses less; training that imitates int8 may help"
        )
        findings.append(Finding("accuracy_lost", text))
    return findings


def _check_runs_int8(meter: Meter) -> None:
    """Refuse a device without int8 at once; of a lab, measuring tells."""
    if isinstance(meter, DeviceMeter) and "int8" not in meter.device.precisions:
        raise UnsupportedLayerError(
            f"{meter.address} does not run int8; it runs"
            f" {', '.join(sorted(meter.device.precisions))}",
            Argument("device", change="another"),
        )


def _check_takes_images(workload: Workload) -> None:
    shapes = [spec.shape for spec in workload.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UsageError(
            f"{workload.name} does not take one batch of images, which int8 is calibrated on here"
        )


def _choose_paths(model: str | Path | nn.Module, out: str | Path | None) -> tuple[Path, Path]:
    """Where the network and its recipe are written.

    Raises:
        UsageError: The name does not end in `.onnx`, nothing can be written there, or another file
            would be lost.
    """
    is_own_choice = out is None
    if out is None:
        name = str(model) if isinstance(model, str | Path) else type(model).__name__
        stem = Path(name.removeprefix("zoo:").replace(":", "_")).name
        for suffix in MODEL_SUFFIXES:
            stem = stem.removesuffix(suffix)
        out = Path(f"{stem}.int8.onnx")
    path = Path(out)
    if path.suffix != ".onnx":
        raise UsageError(f"the network is an ONNX file, so {path} has to end in .onnx")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(
            f"nothing can be written to the folder {path.parent.resolve()}",
            Argument("out", change="another"),
        )
    if isinstance(model, str | Path) and path.resolve() == Path(model).resolve():
        raise UsageError(f"{path} is the network that is read; give another file")
    recipe_path = path.with_suffix(".json")
    if recipe_path.exists() and not _is_recipe(recipe_path):
        raise UsageError(
            f"{recipe_path}, where the recipe goes, exists and is none",
            Argument("out", change="another"),
        )
    if is_own_choice and path.exists() and not recipe_path.exists():
        raise UsageError(
            f"{path} exists, and no recipe beside it says that it was made here",
            Argument("out", str(path), purpose="if it may be written over"),
        )
    return path, recipe_path


def _is_recipe(path: Path) -> bool:
    """Whether a file is a recipe of an earlier run, which may be replaced."""
    try:
        data = parse_json(read_text(path), str(path))
    except HwbenchError:
        return False
    return isinstance(data, dict) and {"quantizer", "onnx_sha256"} <= data.keys()


def _write_files(paths: tuple[Path, Path], chosen: Workload, recipe: QuantizationRecipe) -> None:
    texts = (chosen.onnx, json.dumps(to_plain(recipe), indent=1).encode() + b"\n")
    for path, data in zip(paths, texts, strict=True):
        try:
            with whole_file(path) as file:
                file.write(data)
        except OSError as error:
            raise UsageError(
                f"cannot write {path}: {error.strerror or error}; give another file"
            ) from error
