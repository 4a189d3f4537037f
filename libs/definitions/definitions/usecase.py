"""One use case as data: what people do, what we know of users and items, which features and models follow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field, ValidationError, model_validator

from definitions.errors import UseCaseError
from definitions.events import COLUMN_TYPES, micros
from definitions.features import (
    ITEM_ID,
    Affinity,
    AffinityRate,
    AffinityShare,
    Attribute,
    CandidateSeen,
    Condition,
    ContextCode,
    Feature,
    HistoryScore,
    LastK,
    Mean,
    RecentResidual,
    Spec,
    action_sets,
)
from definitions.learning import (
    HeadField,
    Models,
    ModelsField,
    Name,
    Negatives,
    Objective,
    ObjectiveField,
    Target,
    Task,
    check_objective,
)
from definitions.rules import (
    Candidates,
    Diversity,
    Exploration,
    Filter,
    Rerank,
    Rules,
    check_pins,
    problems,
)
from definitions.usecase_parts import CATEGORIES, Action, Attributes, Columns, Encoding, Impressions, Seen


class UseCase(Spec):
    """One file of `usecases/`: everything else is derived from it."""

    name: Name = Field(alias="usecase")
    columns: Columns = Field(default={}, description="Field of an event -> where it comes from.")
    item_columns: Columns = Field(
        default={}, description="`item_id` and attributes; absent: columns of the same names."
    )
    user_columns: Columns = Field(
        default={}, description="`user_id` and attributes; absent: columns of the same names."
    )
    actions: tuple[Action, ...] = Field(min_length=1)
    attributes: Attributes = Attributes()
    category: str | None = Field(default=None, pattern=r"^item\.[a-z][a-z0-9_-]*$", description="Stamped on events.")
    seen: Seen = Seen()
    dedupe_offsets: int = Field(default=2**20, ge=1, description="How far back a repeated event_id is recognised.")
    impressions: Impressions = Impressions()
    features: tuple[Feature, ...] = ()
    candidates: Candidates = Candidates()
    filters: tuple[Filter, ...] = Field(default=(), description="What Recommend never shows.")
    task: Task = Task()
    label: Target = Target()
    objective: ObjectiveField = Objective()
    heads: Mapping[Name, HeadField] = {}
    negatives: Negatives = Negatives()
    models: ModelsField = Models()
    rerank: tuple[Rerank, ...] = ()
    diversity: Diversity | None = None
    exploration: Exploration | None = None
    slo: Mapping[Name, float] = {}

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names by code."""
        return tuple(action.name for action in self.actions)

    @property
    def category_attribute(self) -> str | None:
        """The item attribute whose (first) code is an item's main category."""
        return None if self.category is None else self.category.removeprefix("item.")

    def action_code(self, name: str) -> int:
        """Code of an action; ValueError if the use case has no such action."""
        if name not in self.action_names:
            raise ValueError(f"action {name!r} is unknown; use one of {', '.join(self.action_names)}")
        return self.action_names.index(name)

    def label_weights(self, action: npt.NDArray[np.uint32], value: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Label weight of each event, (n,): the action's weight where its condition on the value holds, else 0."""
        weights = np.zeros(len(action))
        for code, spec in enumerate(self.actions):
            condition = Condition(if_value_at_least=spec.label.if_value_at_least)
            weights[(action == code) & _reaches(value, condition)] = spec.label.weight
        return weights

    def is_example(self, action: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Which events are examples, (n,) bool: actions of `label.examples`, or those with a positive label."""
        names = self.label.examples or tuple(self.positive_actions())
        return np.isin(action, [self.action_code(name) for name in names])

    def is_positive(self, action: npt.NDArray[np.uint32], value: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which events are positive, (n,) bool."""
        return self.matches(self.positive_actions(), action, value)

    def matches(
        self, actions: Mapping[str, Condition], action: npt.NDArray[np.uint32], value: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """Which events are of one of `actions` with its condition on the value, (n,) bool."""
        found = np.zeros(len(action), bool)
        for name, condition in actions.items():
            found |= (action == self.action_code(name)) & _reaches(value, condition)
        return found

    def head_actions(self, name: str) -> Mapping[str, Condition]:
        """Which events a head is about: its `positive`, all of its `value`'s action, or the action of its name."""
        head = self.heads[name]
        return head.positive or {head.value or name: Condition()}

    @property
    def rules(self) -> Rules:
        """How an answer is made, where no decision says otherwise."""
        return Rules(
            candidates=self.candidates,
            filters=self.filters,
            heads={name: head.weight for name, head in self.heads.items()},
            rerank=self.rerank,
            diversity=self.diversity,
            exploration=self.exploration,
        )

    def rules_of(self, text: str | bytes) -> Rules:
        """Rules of a decision: JSON that fits this use case; what it does not name stays as the use case says it.

        Raises:
            UseCaseError: no rules, or they name what this use case does not have.
        """
        if not text:
            return self.rules
        rules = Rules.parse(text, self.rules)
        try:
            self._check_rules(rules)
        except ValueError as exc:
            raise UseCaseError(f"rules of {self.name}: {exc}") from exc
        return rules

    def _check_rules(self, rules: Rules) -> None:
        """What rules point at must be there, and be of the right kind."""
        for source in rules.candidates.sources:
            if source.name == "fresh" and self._kind("item", source.by[0]) != "number":
                raise ValueError(f"candidates.sources: fresh.by {source.by[0]!r} is no number attribute of items")
        for source in rules.candidates.sources:
            if source.name in ("two_tower", "neighbours") and not any(isinstance(f, LastK) for f in self.features):
                raise ValueError(
                    f"candidates.sources: {source.name} searches by what a user did; declare a feature of kind last_k"
                )
        history = rules.candidates.history
        if history is not None and not any(f.name == history and isinstance(f, LastK) for f in self.features):
            raise ValueError(f"candidates.history: there is no last_k feature named {history!r}")
        for each in rules.filters:
            if self._kind("item", each.by) not in (("number",) if each.of_number else CATEGORIES):
                wanted = "number" if each.of_number else "category"
                raise ValueError(f"filters: by {each.by!r} is no {wanted} attribute of items")
        for rule in rules.rerank:
            if rule.max_share is not None and self._kind("item", rule.max_share.by) not in CATEGORIES:
                raise ValueError(f"rerank: max_share.by {rule.max_share.by!r} is no category attribute of items")
        by = None if rules.diversity is None else rules.diversity.by
        if by is not None and self._kind("item", by) not in CATEGORIES:
            raise ValueError(f"diversity: by {by!r} is no category attribute of items")
        for head in rules.heads:
            if head not in self.heads:
                raise ValueError(f"heads: {head!r} is unknown; use one of {', '.join(self.heads) or 'none'}")

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        """How models read each attribute and context column, by feature name."""
        found = {}
        for feature in self.features:
            if isinstance(feature, Attribute | ContextCode):
                number = isinstance(feature, Attribute) and self._kind(feature.of, feature.source) == "number"
                found[feature.name] = Encoding("number" if number else "category", feature.encode, feature.missing)
        return found

    @property
    def attribution_us(self) -> int:
        """How long after an example its label may still come: `label.window`; 0 where each example says all itself."""
        examples = set(self.label.examples or self.positive_actions())
        told: list[set[str]] = [set(self.positive_actions()), *(set(self.head_actions(name)) for name in self.heads)]
        if self.label.value is not None:
            told.append({self.label.value})
        from_events = self.negatives.source in ("events", "in_batch")
        return 0 if from_events and all(examples <= actions for actions in told) else self.label.window_us

    def positive_actions(self) -> Mapping[str, Condition]:
        """`label.positive`, or what the actions' labels say where that is empty."""
        return self.label.positive or {
            action.name: Condition(if_value_at_least=action.label.if_value_at_least)
            for action in self.actions
            if action.label.weight > 0
        }

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        _unique("actions", self.action_names)
        _unique("features", (*(feature.name for feature in self.features), ITEM_ID))
        for where, name in [("seen.actions", name) for name in self.seen.actions] + [
            ("label.examples", name) for name in self.label.examples
        ]:
            self._known_action(where, name)
        for where, named in [("label.positive", self.label.positive)] + [
            (f"heads.{head}", self.head_actions(head)) for head in self.heads
        ]:
            for name in named:
                self._known_action(where, name)
        if self.label.value is not None:
            self._known_action("label.value", self.label.value)
        check_objective(self.task, self.objective, self.label)
        for feature in self.features:
            for field, names in action_sets(feature):
                for name in names:
                    self._known_action(f"feature {feature.name}: {field}", name)
            self._check_reference(feature)
        self._check_columns()
        attribute = self.category_attribute
        if attribute is not None and self._kind("item", attribute) not in CATEGORIES:
            raise ValueError(f"category: item.{attribute} is no category attribute; declare it under attributes.item")
        check_pins(self.rerank)
        self._check_rules(self.rules)
        return self

    def _known_action(self, where: str, name: str) -> None:
        if name not in self.action_names:
            raise ValueError(f"{where}: action {name!r} is unknown; use one of {', '.join(self.action_names)}")

    def _kind(self, owner: str, attribute: str) -> str | None:
        specs = self.attributes.user if owner == "user" else self.attributes.item
        return specs[attribute].kind if attribute in specs else None

    def _check_reference(self, feature: Feature) -> None:
        """What a feature points at must be there, and be of the right kind."""
        if isinstance(feature, Attribute):
            kind = self._kind(feature.of, feature.source)
            if kind is None or kind == "text":
                raise ValueError(
                    f"feature {feature.name}: `from: {feature.source}` is no number or category attribute of "
                    f"{feature.of}s; declare it under attributes.{feature.of}"
                )
        if isinstance(feature, Attribute | ContextCode):
            _check_encoding(feature.name, self.encodings[feature.name])
        wanted: dict[str, type[LastK | Affinity | Mean]] = {}
        if isinstance(feature, AffinityShare | AffinityRate):
            wanted = {feature.table: Affinity}
            if self.category is None:
                raise ValueError(f"feature {feature.name} compares categories; declare `category: item.<attribute>`")
        elif isinstance(feature, CandidateSeen | HistoryScore):
            wanted = {feature.history: LastK}
        elif isinstance(feature, RecentResidual):
            wanted = {feature.history: LastK, feature.item_mean: Mean}
        for name, kind_wanted in wanted.items():
            found = next((other for other in self.features if other.name == name), None)
            if not isinstance(found, kind_wanted):
                raise ValueError(f"feature {feature.name}: there is no {kind_wanted.__name__} feature named {name!r}")
            if isinstance(found, Mean) and found.of != "item":
                raise ValueError(f"feature {feature.name}: {name!r} is a mean of users; name a mean `of: item`")
            if isinstance(feature, RecentResidual) and isinstance(found, LastK) and feature.last[-1] > found.k:
                raise ValueError(
                    f"feature {feature.name}: last {feature.last[-1]} is more than {name} keeps; at most {found.k}"
                )

    def _check_columns(self) -> None:
        fields = COLUMN_TYPES.keys() - {"partition", "offset", "timestamp_us"}
        for owner, columns, allowed in (
            ("columns", self.columns, fields),
            ("item_columns", self.item_columns, {"item_id", *self.attributes.item}),
            ("user_columns", self.user_columns, {"user_id", *self.attributes.user}),
        ):
            for field in columns:
                if field not in allowed:
                    raise ValueError(f"{owner}: {field!r} is no field; use one of {', '.join(sorted(allowed))}")
        action = self.columns.get("action")
        if action is not None and action.const is not None:
            self._known_action("columns.action.const", str(action.const))


def _check_encoding(name: str, encoding: Encoding) -> None:
    number = encoding.kind == "number"
    if number and encoding.encode is not None:
        raise ValueError(f"feature {name}: encode: a number is not encoded; remove it")
    if encoding.missing is not None and (encoding.missing == "own_code") == number:
        use = "indicator, native_nan or train_median" if number else "own_code"
        raise ValueError(f"feature {name}: missing: {encoding.missing} is not for a {encoding.kind}; use {use}")


def _reaches(value: npt.NDArray[np.float32], condition: Condition) -> npt.NDArray[np.bool_]:
    bound = condition.bound_micros
    return np.ones(len(value), bool) if bound is None else micros(value) >= bound


def _unique(where: str, names: tuple[str, ...]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where}: {name!r} is there twice; rename one")


def load_usecase(path: Path) -> UseCase:
    """Read one file.

    Raises:
        UseCaseError: the file is missing, no YAML, or wrong; every problem with its field and remedy.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise UseCaseError(f"{path}: cannot be read: {exc}; give the path of a use-case YAML file") from exc
    except yaml.YAMLError as exc:
        raise UseCaseError(f"{path}: no valid YAML: {exc}") from exc
    if not isinstance(content, dict):
        raise UseCaseError(f"{path}: must be a mapping that begins with `usecase: <name>`")
    try:
        return UseCase.model_validate(content)
    except ValidationError as exc:
        raise UseCaseError(f"{path}: {exc.error_count()} problem(s):\n{problems(exc)}") from exc


def find_usecase(name_or_path: str, folder: Path) -> UseCase:
    """A use case by its name (`<folder>/<name>.yaml`) or by the path of its file.

    Raises:
        UseCaseError: neither is there, or the file is wrong.
    """
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return load_usecase(Path(name_or_path))
    path = folder / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise UseCaseError(f"use case {name_or_path!r} is unknown: {path} is missing; known: {known}")
    usecase = load_usecase(path)
    if usecase.name != name_or_path:
        raise UseCaseError(f"{path}: usecase: is {usecase.name!r}; it must be the file's name, {name_or_path!r}")
    return usecase
