"""Feast's objects of a use case, derived from its layout: entities, feature views, push sources, a feature service."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from definitions.layout import Layout, layout_of
from definitions.usecase import load_usecase
from definitions.usecase_parts import AttributeSpec
from feast import Entity, FeatureService, FeatureView, Field, PushSource, ValueType
from feast.types import Array, Float32, Float64, Int64, String

from pipelines.feast.source import LakeSource
from pipelines.feast.views import ITEM, USER, Column, View, project_of, views_of

ATTRIBUTES: Final = "attributes"
_NO_TTL: Final = timedelta(0)  # ours is part of a value, see `definitions`; Feast's would differ online and offline
_TYPES: Final = {"number": Float64, "category": Int64, "categories": Array(Int64), "text": String}


def objects_of(usecase: Path, revision: int) -> dict[str, Any]:
    """All objects of the use case in a file, by a name each: what a repository's `feature_repo.py` puts in its globals.

    Raises:
        UseCaseError: the file cannot be used.
    """
    layout = layout_of(load_usecase(usecase), revision)
    project = project_of(layout.usecase.name)
    entities = {
        USER: Entity(name="user", join_keys=[USER], value_type=ValueType.INT64, description=_ID.format("user")),
        ITEM: Entity(name="item", join_keys=[ITEM], value_type=ValueType.INT64, description=_ID.format("item")),
    }
    lake = LakeSource(
        name=f"{project}_lake",
        timestamp_field="event_timestamp",
        description="The log in Delta tables; values are computed point in time, never stored.",
    )
    views = [_view(view, layout, entities, lake) for view in views_of(layout)]
    attributes = [
        _attributes(project, key, specs, entities[key], lake)
        for key, specs in ((USER, layout.usecase.attributes.user), (ITEM, layout.usecase.attributes.item))
        if specs
    ]
    service = FeatureService(
        name=project,
        features=list(views),
        description=f"Every stored feature of the models of {layout.usecase.name}.",
        tags={
            **_tags(layout),
            "columns": ",".join(column.name for view in views_of(layout) for column in view.columns),
        },
    )
    return {each.name: each for each in (*entities.values(), lake, *views, *attributes, service)}


_ID: Final = "A {}. Ids are unsigned 64-bit; int64 here has the same bits (`pipelines.feast.ids`)."


def _tags(layout: Layout) -> dict[str, str]:
    return {"layout_hash": f"{layout.layout_hash:08x}", "revision": str(layout.revision)}


def _view(view: View, layout: Layout, entities: dict[str, Entity], lake: LakeSource) -> FeatureView:
    """Its push source is there to refuse with a reason: aggregates come from events alone."""
    return FeatureView(
        name=view.name,
        entities=[entities[key] for key in view.keys],
        schema=[Field(name=column.name, dtype=_type(column)) for column in view.columns],
        source=PushSource(
            name=view.name,
            batch_source=lake,
            description="Refused: aggregates follow from events, which the collector's Publish takes.",
        ),
        ttl=_NO_TTL,
        description="Values at the time of reading, from the very rows that the gateway reads.",
        tags=_tags(layout),
    )


def _type(column: Column) -> Any:
    if column.source == "feature":
        return Float32
    return Array(Int64) if column.listed else Int64


def _attributes(
    project: str, key: str, specs: Mapping[str, AttributeSpec], entity: Entity, lake: LakeSource
) -> FeatureView:
    name = f"{project}_{entity.name}_{ATTRIBUTES}"
    return FeatureView(
        name=name,
        entities=[entity],
        schema=[Field(name=attribute, dtype=_TYPES[spec.kind]) for attribute, spec in specs.items()],
        source=PushSource(
            name=name,
            batch_source=lake,
            description=f"To the collector: a push replaces all attributes of the {key}. Categories are codes.",
        ),
        ttl=_NO_TTL,
        description=f"Push only; read what follows from it in {project}_{entity.name}.",
        tags={ATTRIBUTES: entity.name},
    )
