"""What kind of world it is, as data: one YAML a use case in `profiles/`, or a file of your own."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from definitions.durations import duration_us
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from simulator.errors import BadWorld

DurationUs = Annotated[int, BeforeValidator(duration_us)]
DAY_US = 86_400_000_000


class Spec(BaseModel):
    """A part of the file: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Surface(Spec):
    """A place where lists are shown; its code is its place in the list, from 1.

    `examination`: a person looks at position p with probability p ** -examination (the position-based model of
    Richardson et al., "Predicting clicks", WWW 2007, with the power law of Joachims et al., WSDM 2017).
    """

    name: str
    share: float = Field(gt=0, description="Of the requests, relative to the other surfaces.")
    examination: float = Field(ge=0, le=5)


class Value(Spec):
    """What a reaction carries: mean + taste * affinity + noise * N(0, 1), cut to [low, high]."""

    mean: float
    taste: float = 0.0
    noise: float = Field(default=0.0, ge=0)
    low: float
    high: float
    whole: bool = Field(default=False, description="Rounded, as stars are.")


class Reaction(Spec):
    """One thing that people may do with an item; `action` is one of the use case's.

    P(reaction | what came before) = sigmoid(bias + taste * affinity + quality * quality of the item + context), where
    context (season, trend, novelty, fatigue, device, drift) counts for the first only.
    """

    action: str
    after: str | None = Field(default=None, description="The reaction that must come before; None: of who looked.")
    bias: float
    taste: float = 0.0
    quality: float = 0.0
    delay_us: DurationUs = Field(default=0, alias="delay", description="Mean of an exponential delay.")
    value: Value | None = None
    worth: float = Field(default=0.0, description="What one is worth: the utility that policies are judged by.")


class Activity(Spec):
    """How often people come: log-normal over users."""

    requests_per_day: float = Field(default=4.0, gt=0)
    spread: float = Field(default=0.6, ge=0)


class Dynamics(Spec):
    """What changes by itself and by consumption."""

    plasticity: float = Field(default=0.03, ge=0, le=0.5, description="How far one consumed item moves an interest.")
    fatigue: float = Field(default=0.35, ge=0, description="Per log(1 + recent items of the category).")
    fatigue_half_life_us: DurationUs = Field(default=21_600_000_000, alias="fatigue_half_life")
    novelty: float = Field(default=0.4, description="Bonus of a new item.")
    novelty_half_life_us: DurationUs = Field(default=3 * DAY_US, alias="novelty_half_life")
    season: float = Field(default=0.3, ge=0, description="Amplitude over the day; each category has its hour.")
    trend: float = Field(default=0.3, ge=0, description="Spread of the categories' slopes over the horizon.")
    coming: float = Field(default=0.3, ge=0, le=0.9, description="Share of items that come after the start.")
    going: float = Field(default=0.2, ge=0, le=0.9, description="Share of items that go before the end.")
    view_noise: float = Field(default=0.5, ge=0, description="Deviation of attributes from the factors.")


class Drift(Spec):
    """A planned change of the world, from `at` after the start, over `ramp`.

    `clicks`: the first reaction's log-odds move by `size`. `taste`: every user's interests turn to other factors by
    the share `size`. `examination`: the exponent of every surface grows by `size`. `traffic`: the share `size` of
    requests moves to the last surface.
    """

    kind: Literal["clicks", "taste", "examination", "traffic"]
    at_us: DurationUs = Field(alias="at")
    ramp_us: DurationUs = Field(default=0, alias="ramp")
    size: float


class AttributeRange(Spec):
    """A number attribute is mean + deviation * (noisy factor), cut to [low, high]; a category has so many codes."""

    mean: float = 0.0
    deviation: float = 1.0
    low: float = -1e9
    high: float = 1e9
    whole: bool = False
    codes: int = Field(default=8, ge=2, le=10_000)


class Profile(Spec):
    """One simulated product. Without attributes' ranges a number is standard normal and a category has 8 codes."""

    surfaces: tuple[Surface, ...] = Field(min_length=1)
    devices: tuple[float, ...] = Field(default=(0.6, 0.4), min_length=1, description="Shares of users by device.")
    reactions: tuple[Reaction, ...] = Field(min_length=1)
    activity: Activity = Activity()
    dynamics: Dynamics = Dynamics()
    drift: tuple[Drift, ...] = ()
    item_attributes: Mapping[str, AttributeRange] = {}
    user_attributes: Mapping[str, AttributeRange] = {}

    @model_validator(mode="after")
    def _reactions_follow(self) -> Self:
        known: list[str] = []
        for place, reaction in enumerate(self.reactions):
            if (reaction.after is None) != (place == 0):
                raise ValueError("reactions: the first has no `after`, and every other one has")
            if reaction.after is not None and reaction.after not in known:
                raise ValueError(f"reactions: {reaction.action} is after {reaction.after!r}, which is not before it")
            if reaction.action in known:
                raise ValueError(f"reactions: {reaction.action} is there twice")
            known.append(reaction.action)
        return self

    def parent(self, place: int) -> int:
        """Place of the reaction that reaction `place` follows; -1 for the first."""
        after = self.reactions[place].after
        return -1 if after is None else [each.action for each in self.reactions].index(after)


def profiles() -> tuple[str, ...]:
    """Names of the use cases that have a profile here."""
    folder = resources.files("simulator") / "profiles"
    return tuple(sorted(each.name.removesuffix(".yaml") for each in folder.iterdir() if each.name.endswith(".yaml")))


def profile_of(usecase: str) -> Profile:
    """The profile of a use case by its name.

    Raises:
        BadWorld: there is none.
    """
    if usecase not in profiles():
        raise BadWorld(f"{usecase}: has no profile; write one like that of {profiles()[0]} and give it as --profile")
    return _parse(usecase, (resources.files("simulator") / "profiles" / f"{usecase}.yaml").read_text(encoding="utf-8"))


def load_profile(path: Path) -> Profile:
    """A profile of your own.

    Raises:
        BadWorld: the file is missing or wrong; every problem is named.
    """
    try:
        return _parse(str(path), path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadWorld(f"{path}: {exc.strerror}; give the path of a profile's YAML file") from exc


def _parse(name: str, text: str) -> Profile:
    try:
        return Profile.model_validate(yaml.safe_load(text))
    except ValidationError as exc:
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in exc.errors(include_url=False)]
        raise BadWorld(f"profile {name}: {'; '.join(found)}") from exc
    except yaml.YAMLError as exc:
        raise BadWorld(f"profile {name}: is no YAML ({exc})") from exc
