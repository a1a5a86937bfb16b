"""LookupTable: latency of layers by key, and of whole networks with an interval.

What was never measured is an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hwbench.errors import (
    Argument,
    Call,
    LookupTableError,
    MissingEntryError,
    SchemaError,
    Value,
)
from hwbench.lookup_tables.families import Family, place_of
from hwbench.lookup_tables.limits import check_entry, check_read_table
from hwbench.lookup_tables.metadata import Calibration, Entry, Grade, Metadata, Provenance
from hwbench.lookup_tables.priors import priors
from hwbench.lookup_tables.surface import Floats, Points, Shape, Surface, find_step
from hwbench.records.layer_key import LayerKey
from hwbench.records.prediction import Prediction
from hwbench.stats import t_quantile

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


IMPORTED = "imported"
"""Detail of a device that says which tool's files a table was read from."""
MAX_HALF = 100.0
"""Largest half width of an interval, in logarithms: beyond it an end may overflow a float."""
COLUMNS = ("key", "latency_s", "sd", "samples")


@dataclass(frozen=True, slots=True)
class LayerPrediction:
    """Predicted latency of one layer.

    Attributes:
        key: The layer.
        latency_s: Seconds it adds to a network.
        sd: Relative deviation of that, beyond what all layers of a network share.
        measured: Whether the key itself has an entry; else the answer lies between entries of its
            family.
        extrapolated: Whether it lies outside the measured range.
    """

    key: LayerKey
    latency_s: float
    sd: float
    measured: bool
    extrapolated: bool

    @property
    def origin(self) -> str:
        """What the latency rests on: `measured`, `interpolated` or `extrapolated`."""
        if self.extrapolated:
            return "extrapolated"
        return "measured" if self.measured else "interpolated"


@dataclass(frozen=True)
class LookupTable:
    """Layer latencies on one device and runtime.

    Immutable. `StructureLatency` answers for the pruned versions of one network by their widths.

    Attributes:
        entries: What was measured.
        metadata: Provenance, calibration and grades.
        extrapolate: Whether keys outside the measured range are answered, with a wider interval,
            instead of refused.
    """

    entries: Mapping[LayerKey, Entry]
    metadata: Metadata
    extrapolate: bool = False

    def __post_init__(self) -> None:
        if not self.entries:
            raise SchemaError(
                "a lookup table needs at least one entry",
                Call("build_table", {"model": None}, purpose="measure something first"),
            )
        for key, entry in self.entries.items():
            check_entry(key, entry)
        object.__setattr__(self, "entries", MappingProxyType(dict(sorted(self.entries.items()))))

    def __repr__(self) -> str:
        """The table in short; all of it is in `to_dict`."""
        made = self.provenance
        entries, networks = len(self.entries), len(made.sources)
        return f"<LookupTable of {made.device.address}: {entries} entries of {networks} networks>"

    @property
    def provenance(self) -> Provenance:
        """Device, runtime, settings, models, versions."""
        return self.metadata.provenance

    @property
    def calibration(self) -> Calibration:
        """How layers add up to networks."""
        return self.metadata.calibration

    @property
    def grades(self) -> tuple[Grade, ...]:
        """Outcomes of validations, newest last."""
        return self.metadata.grades

    def graded(self, grade: Grade) -> LookupTable:
        """The same table with one more grade; it replaces an earlier one of the same model."""
        kept = tuple(other for other in self.grades if other.model != grade.model)
        return self._twin(metadata=replace(self.metadata, grades=(*kept, grade)))

    def extrapolating(self) -> LookupTable:
        """The same table, answering outside the measured range too."""
        return self._twin(extrapolate=True)

    def _twin(self, **changes: Any) -> LookupTable:
        """A changed copy of the same entries, which keeps what was worked out from them."""
        twin = replace(self, **changes)
        vars(twin).update(
            {
                name: value
                for name, value in vars(self).items()
                if name in {"families", "steps", "surfaces"}
            }
        )
        return twin

    @cached_property
    def families(self) -> Mapping[Family, Points]:
        """Measured points of every family."""
        gathered: dict[Family, list[tuple[float, float, float, float]]] = {}
        for key, entry in self.entries.items():
            place = place_of(key)
            gathered.setdefault(place.family, []).append(
                (place.cin, place.cout, entry.latency_s, entry.samples)
            )
        return {family: Points(*np.array(rows, np.float64).T) for family, rows in gathered.items()}

    @cached_property
    def steps(self) -> Mapping[str, int]:
        """Channel step of every kind of layer; 1 where latency has no steps."""
        kinds: dict[str, list[Points]] = {}
        for family, points in self.families.items():
            kinds.setdefault(family.kind, []).append(points)
        return {kind: find_step(points) for kind, points in kinds.items()}

    @cached_property
    def surfaces(self) -> Mapping[Family, Surface]:
        """Latency of every family over its channel counts.

        Raises:
            SchemaError: No curve goes through the entries, which none measured on a device have
                shown: they are damaged.
        """
        try:
            # A curve that leaves what a float can hold would be an answer like any other.
            with np.errstate(over="raise", invalid="raise"):
                known = priors(self.families, self.steps)
                return {
                    family: Surface(points, self.steps[family.kind], prior=known.get(family))
                    for family, points in self.families.items()
                }
        except (ArithmeticError, RuntimeError, ValueError, np.linalg.LinAlgError) as error:
            raise SchemaError(
                f"the lookup table of {self._where} cannot be used: its entries fit no curve"
                f" ({error})"
            ) from error

    def check_usable(self) -> None:
        """Make sure that the table answers for its own layers, before it is kept.

        Raises:
            SchemaError: It does not.
        """
        for family, points in self.families.items():
            channels = points.cin.astype(np.int64), points.cout.astype(np.int64)
            latency_s, sd = self.surfaces[family].at(*channels)
            if not (np.isfinite(latency_s).all() and np.isfinite(sd).all()):
                raise SchemaError(
                    f"the lookup table of {self._where} cannot be used: its curve through {family}"
                    " leaves what a number can hold"
                )

    @property
    def shapes(self) -> dict[Family, Shape]:
        """What was chosen for each surface, to be kept while parts of the data are left out."""
        return {family: surface.shape for family, surface in self.surfaces.items()}

    def knows(self, key: LayerKey) -> bool:
        """Whether any layer of a key's family was measured."""
        return place_of(key).family in self.families

    def layers(
        self, keys: Sequence[LayerKey], names: Sequence[str] | None = None, model: str = "MODEL"
    ) -> tuple[LayerPrediction, ...]:
        """Latency of single layers.

        Args:
            keys: The layers.
            names: What they are called in an error, beside their keys: module paths.
            model: What they are of, for the command in an error.

        Raises:
            MissingEntryError: A layer is of a family without entries, or outside the measured range
                of its family.
        """
        places = [place_of(key) for key in keys]
        members: dict[Family, list[int]] = {}
        for index, place in enumerate(places):
            members.setdefault(place.family, []).append(index)
        found: list[LayerPrediction | None] = [None] * len(keys)
        for family, indices in members.items():
            cin = np.array([places[index].cin for index in indices])
            cout = np.array([places[index].cout for index in indices])
            called = [str(keys[i]) if names is None else f"{names[i]} ({keys[i]})" for i in indices]
            latency_s, sd, inside = self.lookup(family, cin, cout, called, model)
            for order, index in enumerate(indices):
                measured = keys[index] in self.entries
                found[index] = LayerPrediction(
                    keys[index],
                    float(latency_s[order]),
                    float(sd[order]),
                    measured,
                    extrapolated=not inside[order],
                )
        return tuple(one for one in found if one is not None)

    def lookup(
        self,
        family: Family,
        cin: NDArray[np.integer],
        cout: NDArray[np.integer],
        called: str | Sequence[str],
        model: str = "MODEL",
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Latencies of many layers of one family.

        Args:
            family: The family.
            cin: Channels read, shape (n,).
            cout: Channels written, shape (n,).
            called: What to call them in an error: each by itself, or all the same.
            model: What they are of, for the command in an error.

        Returns:
            Seconds, relative deviations, and whether each lies in the measured range; shape (n,)
            each.

        Raises:
            MissingEntryError: The family has no entries, or a layer lies outside the measured
                range.
        """
        surface = self.surfaces.get(family)
        if surface is None:
            layer = called if isinstance(called, str) else called[0]
            raise MissingEntryError(
                f"no entry for layer {layer} in the table of {self._where}",
                self._remedy(model),
            )
        inside = surface.inside(cin, cout)
        if not self.extrapolate and not inside.all():
            first = int(np.argmin(inside))
            layer = called if isinstance(called, str) else called[first]
            low_in, high_in, low_out, high_out = surface.box
            raise MissingEntryError(
                f"layer {layer} with {cin[first]} channels in and {cout[first]} out is outside what"
                f" was measured on {self._where}, {low_in} to {high_in} in and {low_out} to"
                f" {high_out} out",
                self._remedy(model, further=True),
                Argument("extrapolate", value=True, purpose="allow it"),
            )
        return *surface.at(cin, cout), inside

    def predict(self, keys: Sequence[LayerKey]) -> Prediction:
        """Latency of the network made of `keys`, in order, with its 95 % interval.

        Raises:
            MissingEntryError: As `layers`.
        """
        return self.total(self.layers(keys))

    def total(self, parts: Sequence[LayerPrediction]) -> Prediction:
        """Latency of the network made of `parts`, which `layers` gave, with its 95 % interval.

        Raises:
            MissingEntryError: None of them has a latency of its own.
            LookupTableError: The table is too uncertain about them to give an interval.
        """
        sum_s = sum(part.latency_s for part in parts)
        if not sum_s > 0:
            raise MissingEntryError(
                f"the {len(parts)} layers given have no latency of their own; expected a whole"
                " network"
            )
        total_s = float(self.calibration.whole_s(np.array(sum_s), len(parts)))
        half = t_quantile(self.calibration.degrees_of_freedom) * self.deviation(parts, total_s)
        if half > MAX_HALF:
            raise LookupTableError(
                f"the table of {self._where} is too uncertain about these layers to predict"
                f" anything: its interval spans a factor of e**{2 * half:.0f}",
                self._remedy("MODEL"),
            )
        return Prediction(
            latency_s=total_s,
            ci_s=(total_s * math.exp(-half), total_s * math.exp(half)),
            measured=tuple(part.key for part in parts if part.measured),
            interpolated=tuple(
                part.key for part in parts if not part.measured and not part.extrapolated
            ),
            extrapolated=tuple(part.key for part in parts if part.extrapolated),
        )

    def deviation(self, parts: Iterable[LayerPrediction], total_s: float) -> float:
        """Relative deviation of a network's latency.

        It consists of what all its layers share, and of each family's own error.

        Layers of one family are answered by one surface, so their errors add up; those of different
        families do not.
        """
        own: dict[Family, float] = {}
        for part in parts:
            family = place_of(part.key).family
            own[family] = own.get(family, 0.0) + part.latency_s * part.sd
        return math.hypot(self.calibration.shared_sd, *(value / total_s for value in own.values()))

    def to_frame(self) -> pd.DataFrame:
        """Entries as columns `key`, `latency_s`, `sd`, `samples`.

        Everything else in `frame.attrs["hwbench"]`.
        """
        import pandas as pd

        rows = [
            (str(key), entry.latency_s, entry.sd, entry.samples)
            for key, entry in self.entries.items()
        ]
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        frame.attrs["hwbench"] = self.metadata.to_dict()
        return frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Self:
        """Rebuild a table from `to_frame`'s form, validating it.

        Raises:
            SchemaError: Columns or metadata are missing or damaged, a key occurs twice, or a
                latency is impossible.
        """
        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing or "hwbench" not in frame.attrs:
            raise SchemaError(
                f"not a lookup table: {', '.join(missing) or 'metadata'} missing; export it with"
                " to_frame()"
            )
        columns = [frame[name].tolist() for name in COLUMNS]
        return cls._from_rows(list(zip(*columns, strict=True)), frame.attrs["hwbench"])

    def to_dict(self) -> dict[str, Any]:
        """The whole table as plain JSON types."""
        rows = [
            [str(key), entry.latency_s, entry.sd, entry.samples]
            for key, entry in self.entries.items()
        ]
        return {"metadata": self.metadata.to_dict(), "entries": rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a table from `to_dict`'s form, validating it.

        Raises:
            SchemaError: As `from_frame`.
        """
        try:
            rows, metadata = list(data["entries"]), data["metadata"]
        except (KeyError, TypeError) as error:
            raise SchemaError(f"damaged lookup table: {error!r}") from error
        return cls._from_rows(rows, metadata)

    @classmethod
    def _from_rows(cls, rows: Sequence[Sequence[Any]], metadata: Mapping[str, Any]) -> Self:
        """A table of rows in the order of `COLUMNS`, validated."""
        try:
            entries = {LayerKey.parse(key): Entry(*numbers) for key, *numbers in rows}
        except (TypeError, ValueError) as error:
            raise SchemaError(f"damaged lookup table: {error}") from error
        if len(entries) != len(rows):
            raise SchemaError(
                f"damaged lookup table: {len(rows)} rows hold {len(entries)} different keys"
            )
        read_metadata = Metadata.from_dict(metadata)
        try:
            check_read_table(entries, read_metadata)
        except SchemaError as error:
            raise SchemaError(f"damaged lookup table: {error}") from error
        return cls(entries, read_metadata)

    @property
    def _where(self) -> str:
        device = self.provenance.device
        return f"{device.address} ({device.runtime})"

    def _remedy(self, model: str, *, further: bool = False) -> Call:
        """What would measure a layer that is missing, or further than the table reaches."""
        device = self.provenance.device
        tool = dict(device.details).get(IMPORTED)
        if tool is not None:
            return Call(
                "import_table",
                {"format": tool, "files": "FILE", "model": model, "name": device.address},
                purpose="measure the model there and add it",
            )
        arguments: dict[str, Value] = {"model": model, "device": device.address}
        if not further:
            return Call("build_table", arguments, purpose="measure it")
        return Call("build_table", arguments | {"lower": None}, purpose="measure further")
