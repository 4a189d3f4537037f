"""How one answer is made, as data: candidate sources, filters, head weights, diversity, exploration, business rules.

A use case's YAML says them (`UseCase.rules`); a decision may replace them, for all or one arm, without a deployment.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from definitions.errors import UseCaseError
from definitions.features import Spec
from definitions.learning import Name

SourceName = Literal["two_tower", "neighbours", "popular", "fresh"]
MAX_CANDIDATES = 2_000  # of one ranking
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Source(Spec):
    """One source of candidates, and the share of them that it may bring; None: an equal part of what is left.

    `two_tower`: nearest to the user's vector. `neighbours`: nearest to the user's last items. `popular`: by what users
    did, `by` surface and country where the bundle has such lists. `fresh`: the largest first of the item's number `by`.
    """

    name: SourceName
    quota: float | None = Field(default=None, gt=0, le=1)
    by: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _by_fits(self) -> Self:
        if self.name == "popular":
            if strange := set(self.by) - {"surface", "country"}:
                raise ValueError(f"by: popular items are counted by surface and country, not by {strange.pop()!r}")
        elif self.name == "fresh":
            if len(self.by) != 1:
                raise ValueError("by: name the item's number that tells how new it is, such as `by: uploaded_day`")
        elif self.by:
            raise ValueError(f"by: is an option of popular and fresh, not of {self.name}; remove it")
        return self


def source_of(value: object) -> object:
    """`popular`, `{popular: 0.4}` and `{fresh: {by: year, quota: 0.1}}`."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1 and "name" not in value:
        ((name, options),) = value.items()
        if isinstance(options, int | float):
            return {"name": name, "quota": options}
        if isinstance(options, dict):
            by = options.get("by")
            return {"name": name, **options, **({"by": [by]} if isinstance(by, str) else {})}
    return value


class Candidates(Spec):
    """Retrieval: sources in order, and how many candidates are ranked. What they cannot bring, `popular` fills."""

    sources: tuple[Annotated[Source, BeforeValidator(source_of)], ...] = (Source(name="popular"),)
    limit: int = Field(default=500, ge=1, le=MAX_CANDIDATES)
    history: Name | None = Field(
        default=None, description="The `last_k` feature that tells two_tower and neighbours what a user did; the first."
    )

    @model_validator(mode="after")
    def _quotas_fit(self) -> Self:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"sources: {name!r} is there twice; remove one")
        if (total := sum(source.quota or 0 for source in self.sources)) > 1 + 1e-9:
            raise ValueError(f"sources: the quotas add up to {total:g}; at most 1")
        return self

    def quotas(self, limit: int) -> tuple[int, ...]:
        """Candidates of `limit` that each source may bring; they add up to it or less."""
        unsaid = [source for source in self.sources if source.quota is None]
        left = max(0.0, 1 - sum(source.quota or 0 for source in self.sources))
        shares = (left / len(unsaid) if source.quota is None else source.quota for source in self.sources)
        return tuple(int(share * limit + 1e-9) for share in shares)


class Filter(Spec):
    """What an item must be like to be recommended; an item that lacks the attribute passes.

    Of a number: `at_least`, `at_most`, or `now` for the request's time in `unit` since the epoch. Of a category:
    `none_of` (texts or codes), or the request's own code (`same_as: country`).
    """

    by: Name
    at_least: Finite | Literal["now"] | None = None
    at_most: Finite | Literal["now"] | None = None
    unit: Literal["s", "days"] = "s"
    none_of: tuple[str | int, ...] = ()
    same_as: Literal["device", "surface", "country"] | None = None

    @property
    def of_number(self) -> bool:
        """Whether it is about a number."""
        return self.at_least is not None or self.at_most is not None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        of_category = bool(self.none_of) or self.same_as is not None
        if self.of_number == of_category:
            raise ValueError("give `at_least` or `at_most` (of a number), or `none_of` or `same_as` (of a category)")
        return self


class MaxShare(Spec):
    """At most `share` of a list has the same value of the item attribute `by`."""

    by: Name
    share: float = Field(gt=0, le=1)


class Pin(Spec):
    """An item that stands at a 1-based position wherever it is among the candidates."""

    item_id: int = Field(ge=1, lt=2**64)
    position: int = Field(ge=1, le=MAX_CANDIDATES)


class Rerank(Spec):
    """One business rule: `max_share` or `pin`."""

    max_share: MaxShare | None = None
    pin: Pin | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.max_share is None) == (self.pin is None):
            raise ValueError("give one rule: `max_share` or `pin`")
        return self


class Diversity(Spec):
    """Greedy maximal marginal relevance (Carbonell, Goldstein, SIGIR 1998): each place takes the item with the largest
    `weight` x score - (1 - `weight`) x similarity to the nearest item above it.

    Scores are brought to 0 to 1 over the candidates, so that a weight means the same on each rung. Similarity is the
    cosine of the items' codes of attribute `by`, or of the bundle's item vectors where it is not given.
    """

    weight: float = Field(gt=0, le=1, alias="lambda")
    by: Name | None = None
    depth: int = Field(default=50, ge=1, le=200, description="Places that are diversified; below, by score.")


class Exploration(Spec):
    """At each of the 1-based positions `slots`, with probability `epsilon`, one of the next `among` items is drawn."""

    epsilon: float = Field(gt=0, le=1)
    slots: tuple[Annotated[int, Field(ge=1, le=200)], ...] = Field(min_length=1)
    among: int = Field(default=20, ge=2, le=200)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.slots) != sorted(set(self.slots)):
            raise ValueError("slots: must ascend, each once")
        return self


class Rules(Spec):
    """All of it. `heads`: weight of each head of a multi-head model in the served score; a head that is not named
    counts as the model was trained with.
    """

    candidates: Candidates = Candidates()
    filters: tuple[Filter, ...] = ()
    heads: Mapping[Name, Finite] = {}
    rerank: tuple[Rerank, ...] = ()
    diversity: Diversity | None = None
    exploration: Exploration | None = None

    @model_validator(mode="after")
    def _pins_differ(self) -> Self:
        check_pins(self.rerank)
        return self

    @classmethod
    def parse(cls, text: str | bytes, over: "Rules | None" = None) -> Self:
        """Of JSON, as `to_json` writes it or as a YAML file would say it; what it does not name is as in `over`.

        Raises:
            UseCaseError: every problem with its field.
        """
        try:
            said = json.loads(text)
            if over is not None and isinstance(said, dict):
                said = over.model_dump(mode="json", by_alias=True) | said
            return cls.model_validate(said)
        except ValidationError as exc:
            raise UseCaseError(f"rules:\n{problems(exc)}") from exc
        except ValueError as exc:
            raise UseCaseError(f"rules: no JSON: {exc}") from exc

    def to_json(self) -> str:
        """One canonical line: equal rules give equal text."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))


def check_pins(rerank: tuple[Rerank, ...]) -> None:
    """Two pins of one position or of one item: ValueError."""
    pins = [rule.pin for rule in rerank if rule.pin is not None]
    for what in ("position", "item_id"):
        values = [getattr(pin, what) for pin in pins]
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"rerank: two pins have the {what} {value}; remove one")


def problems(exc: ValidationError) -> str:
    """A line for each: place and remedy."""
    return "\n".join(_problem(tuple(error["loc"]), error["msg"]) for error in exc.errors())


def _problem(place: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part) for part in place) or "all of it"
    if message == "Extra inputs are not permitted":
        message = "there is no such key; remove it or correct its spelling"
    return f"  {where}: {message.removeprefix('Value error, ')}"
