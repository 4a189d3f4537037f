"""The feature kinds of a use case, as they are written in its file."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    model_validator,
)

from definitions.durations import check_window, duration_text, duration_us
from definitions.events import UNITS_PER_VALUE

ITEM_ID = "item_id"  # the int64 column of a candidate's id, where a graph scores it against a history
FeatureName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
AS_WRITTEN = "as_written"  # in the context of a dump: as a file says it, not as it is hashed


def _duration(us: int, info: SerializationInfo) -> int | str:
    return duration_text(us) if info.context and AS_WRITTEN in info.context else us


DurationUs = Annotated[int, BeforeValidator(duration_us), PlainSerializer(_duration)]
Window = Annotated[str, BeforeValidator(check_window)]


class Spec(BaseModel):
    """A part of a use-case file: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Condition(Spec):
    """Which events of an action count: all, or those whose value reaches a bound."""

    if_value_at_least: float | None = None

    @property
    def bound_micros(self) -> int | None:
        """The bound in units of 1e-6, as values are compared."""
        return None if self.if_value_at_least is None else round(self.if_value_at_least * UNITS_PER_VALUE)


def _action_set(value: object) -> object:
    """`rate`, `[click, like]` and `{rate: {if_value_at_least: 4}}` mean the same kind of thing."""
    if isinstance(value, str):
        return {value: Condition()}
    if isinstance(value, list):
        return {name: Condition() for name in value}
    if isinstance(value, dict):
        return {name: Condition() if condition is None else condition for name, condition in value.items()}
    return value


ActionSet = Annotated[Mapping[str, Condition], BeforeValidator(_action_set)]


class Prior(Spec):
    """(num + weight * mean) / (den + weight); weight 0 and no events give 0."""

    mean: float = 0.0
    weight: float = Field(default=0.0, ge=0)


class _Feature(Spec):
    name: FeatureName
    group: Literal["base", "relative", "history"] = "base"


class _Aggregate(_Feature):
    of: Literal["user", "item"]
    ttl_us: DurationUs | None = Field(
        None, alias="ttl", description="Empty once the key's newest event before t is older than this."
    )


class _Windowed(_Aggregate):
    windows: tuple[Window, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _windows_differ(self) -> Self:
        if len(set(self.windows)) != len(self.windows):
            raise ValueError("a window is there twice; remove one")
        return self


class Count(_Windowed):
    """Events in each window; no `action`: of every action."""

    kind: Literal["count"]
    action: ActionSet = {}


class Sum(_Windowed):
    """Sum of values in each window."""

    kind: Literal["sum"]
    action: ActionSet = {}


class Mean(_Windowed):
    """Mean value in each window, drawn to its prior."""

    kind: Literal["mean"]
    action: ActionSet = {}
    prior: Prior = Prior()


class Rate(_Windowed):
    """Events of `num` per event of `den` in each window, drawn to its prior."""

    kind: Literal["rate"]
    num: ActionSet
    den: ActionSet
    prior: Prior = Prior()


class DecayedCount(_Aggregate):
    """Events, each weighing 2^(-age / half_life)."""

    kind: Literal["decayed_count"]
    action: ActionSet = {}
    half_life_us: DurationUs = Field(alias="half_life")


class DecayedMean(_Aggregate):
    """Mean value, each event weighing 2^(-age / half_life)."""

    kind: Literal["decayed_mean"]
    action: ActionSet = {}
    half_life_us: DurationUs = Field(alias="half_life")
    prior: Prior = Prior()


class DecayedRate(_Aggregate):
    """Decayed events of `num` per decayed event of `den`."""

    kind: Literal["decayed_rate"]
    num: ActionSet
    den: ActionSet
    half_life_us: DurationUs = Field(alias="half_life")
    prior: Prior = Prior()


class Recency(_Aggregate):
    """Seconds since the newest event before t, at most `cap`; no such event gives `cap`."""

    kind: Literal["recency"]
    action: ActionSet = {}
    cap_us: DurationUs = Field(alias="cap")


class LastK(_Feature):
    """The newest k events before t: ids and values (1e-6 units) as int64 columns, newest first, 0-padded."""

    of: Literal["user"]
    kind: Literal["last_k"]
    group: Literal["base", "relative", "history"] = "history"
    action: ActionSet = {}
    k: int = Field(ge=1, le=512)


class Affinity(_Feature):
    """Decayed weights of the k strongest categories; a table for cross features, no column of its own."""

    of: Literal["user"]
    kind: Literal["affinity"]
    action: ActionSet = {}
    positive: ActionSet
    k: int = Field(ge=1, le=256)
    half_life_us: DurationUs = Field(alias="half_life")
    ttl_us: DurationUs | None = Field(default=None, alias="ttl")


class AffinityShare(_Feature):
    """Share of the candidate's category in the user's decayed events."""

    of: Literal["cross"]
    kind: Literal["affinity_share"]
    table: FeatureName


class AffinityRate(_Feature):
    """Positive part of the user's decayed events in the candidate's category."""

    of: Literal["cross"]
    kind: Literal["affinity_rate"]
    table: FeatureName
    prior: Prior = Prior()


class CandidateSeen(_Feature):
    """1 if the candidate is among the user's last-k items, else 0."""

    of: Literal["cross"]
    kind: Literal["candidate_seen"]
    history: FeatureName


class RecentResidual(_Feature):
    """Mean of value - item mean at t over the newest n of a history, for each n of `last`; and over those of the
    candidate's category, with their count. No event gives 0.
    """

    of: Literal["cross"]
    kind: Literal["recent_residual"]
    group: Literal["base", "relative", "history"] = "relative"
    history: FeatureName
    last: tuple[Annotated[int, Field(ge=1, le=512)], ...] = (1, 5, 20, 64)
    item_mean: FeatureName = Field(description="A `mean` of items; its longest window is read.")

    @model_validator(mode="after")
    def _last_ascends(self) -> Self:
        if not self.last or list(self.last) != sorted(set(self.last)):
            raise ValueError("`last` must ascend without repeats, such as [1, 5, 20, 64]")
        return self


class HistoryScore(_Feature):
    """The candidate against a history by item-item matrices, computed in the ONNX graph: no column of its own. The
    graph takes the history's ids and values and the candidate's id, all int64.
    """

    of: Literal["cross"]
    kind: Literal["history_score"]
    group: Literal["base", "relative", "history"] = "history"
    history: FeatureName
    scores: tuple[Literal["residual_knn", "ridge", "ease", "ease_residual"], ...] = ("residual_knn",)


Encode = Literal["one_hot", "hashing", "embedding", "native"]
Missing = Literal["own_code", "indicator", "native_nan", "train_median"]
READ_BY_MODELS = frozenset({"encode", "missing"})  # fields of a feature that change no byte of a row: not hashed


class Attribute(_Feature):
    """An attribute: a number as a float column, categories as int64 columns.

    `encode` (of categories) and `missing` say how models read the column, None: each in its own way. They change no
    byte of it (READ_BY_MODELS). A cell is missing where it is `default`, or code 0.
    """

    of: Literal["user", "item"]
    kind: Literal["attribute"]
    source: str = Field(alias="from")
    default: float = 0.0
    encode: Encode | None = None
    missing: Missing | None = None


class ContextCode(_Feature):
    """A code of the request as an int64 column. `encode`, `missing`: as of an attribute."""

    of: Literal["request"]
    kind: Literal["context"]
    source: Literal["device", "surface", "country"] = Field(alias="from")
    encode: Encode | None = None
    missing: Missing | None = None


Feature = Annotated[
    Count
    | Sum
    | Mean
    | Rate
    | DecayedCount
    | DecayedMean
    | DecayedRate
    | Recency
    | LastK
    | Affinity
    | AffinityShare
    | AffinityRate
    | CandidateSeen
    | RecentResidual
    | HistoryScore
    | Attribute
    | ContextCode,
    Field(discriminator="kind"),
]


def action_sets(feature: Feature) -> Iterator[tuple[str, Mapping[str, Condition]]]:
    """Each field of a feature that names actions, with its actions."""
    for field in ("action", "num", "den", "positive"):
        if (actions := getattr(feature, field, None)) is not None:
            yield field, actions
