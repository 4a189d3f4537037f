"""The parts of a use case that stand for themselves: columns of files, labels, actions, attributes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from definitions.features import Encode, Missing, Spec
from definitions.learning import Name


class Column(Spec):
    """Where a field comes from: a file column or a constant."""

    source: str | None = Field(default=None, alias="from")
    const: str | int | float | None = None
    unit: Literal["s", "ms", "us", "ns", "iso"] | None = Field(
        default=None, description="Of a time; iso: text, UTC if unsaid."
    )
    split: str | None = Field(default=None, description="Separates several categories in one cell.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.source is None) == (self.const is None):
            raise ValueError("give either `from` (a file column) or `const`")
        return self


def _column(value: object) -> object:
    return {"from": value} if isinstance(value, str) else value


Columns = Mapping[str, Annotated[Column, BeforeValidator(_column)]]


class Label(Spec):
    """Worth of an action: `weight` where the value reaches the bound, else 0."""

    if_value_at_least: float | None = None
    weight: float = 1.0


def _label(value: object) -> object:
    return {"weight": value} if isinstance(value, int | float) else value


class Action(Spec):
    """One thing that users do; its place in the list is `Interaction.action`."""

    name: Name
    label: Annotated[Label, BeforeValidator(_label)] = Label(weight=0)


class AttributeSpec(Spec):
    """Type of an attribute. `width`: how many codes of a `categories` attribute are kept."""

    kind: Literal["number", "category", "categories", "text"]
    width: int = Field(default=8, ge=1, le=64)


def _attribute(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


class Attributes(Spec):
    """What the catalogue says of users and of items."""

    user: Mapping[Name, Annotated[AttributeSpec, BeforeValidator(_attribute)]] = {}
    item: Mapping[Name, Annotated[AttributeSpec, BeforeValidator(_attribute)]] = {}


class Seen(Spec):
    """Consumed items that the user row remembers, for the seen-item filter."""

    actions: tuple[Name, ...] = ()
    last: int = Field(default=512, ge=1, le=8192)


class Impressions(Spec):
    """What is logged of each request."""

    full_features: float = Field(
        default=1.0, ge=0, le=1, description="Share of requests that log all candidates' features."
    )


CATEGORIES: Final = ("category", "categories")


@dataclass(frozen=True)
class Encoding:
    """How models read one attribute or context column; None: each model in its own way."""

    kind: Literal["category", "number"]
    encode: Encode | None
    missing: Missing | None
