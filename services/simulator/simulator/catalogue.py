"""What the world tells a real stack of its items and users: attributes that are noisy views, never the factors."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
from definitions.usecase import UseCase
from definitions.usecase_parts import AttributeSpec
from millrace.client import Entity
from millrace.ids import stable_id

from simulator.errors import BadWorld
from simulator.profile import AttributeRange
from simulator.randomness import Stream, generator
from simulator.world import Floats, World

Attribute = float | str | tuple[int, ...]


class Catalogue:
    """Wire ids and entities of one world under one use case. Ids of two seeds differ."""

    def __init__(self, world: World, usecase: UseCase) -> None:
        """Raises BadWorld if the use case lacks an action of the profile."""
        profile, seed = world.spec.profile, world.spec.seed
        missing = [each.action for each in profile.reactions if each.action not in usecase.action_names]
        if missing:
            known = ", ".join(usecase.action_names)
            raise BadWorld(f"profile: {usecase.name} has no action {', '.join(missing)}; use {known}")
        self._world, self._usecase = world, usecase
        self.action_codes = np.array([usecase.action_code(each.action) for each in profile.reactions])
        self.item_ids = _ids(f"{usecase.name}/simulated/{seed}/item", world.spec.items)
        self.user_ids = _ids(f"{usecase.name}/simulated/{seed}/user", world.spec.users)
        self._place = {int(known): place for place, known in enumerate(self.item_ids.tolist())}
        rng = generator(seed, Stream.SAMPLE)
        kinds = usecase.attributes
        self._items = _columns(kinds.item, profile.item_attributes, world.views.item, rng)
        self._users = _columns(kinds.user, profile.user_attributes, world.views.user, rng)

    def places(self, item_ids: Iterable[int]) -> list[int]:
        """Item indexes of wire ids; -1 for what is not of this world."""
        return [self._place.get(each, -1) for each in item_ids]

    def items(self, chosen: npt.NDArray[np.int64], *, deleted: bool = False) -> list[Entity]:
        """Catalogue entries of item indexes, or the notes that take them out."""
        if deleted:
            return [Entity(id=int(self.item_ids[each]), deleted=True) for each in chosen.tolist()]
        return list(self._entities("item", chosen.tolist(), self.item_ids, self._items))

    def users(self) -> list[Entity]:
        """All users with their attributes."""
        return list(self._entities("user", range(self._world.spec.users), self.user_ids, self._users))

    def _entities(
        self,
        kind: str,
        chosen: Iterable[int],
        ids: npt.NDArray[np.uint64],
        columns: Mapping[str, list[Attribute]],
    ) -> Iterator[Entity]:
        for each in chosen:
            attributes = {name: values[each] for name, values in columns.items()}
            yield Entity(id=int(ids[each]), external_id=f"simulated-{kind}-{each}", attributes=attributes)


def _ids(prefix: str, count: int) -> npt.NDArray[np.uint64]:
    return np.array([stable_id(f"{prefix}/{each}") for each in range(count)], np.uint64)


def _columns(
    kinds: Mapping[str, AttributeSpec],
    ranges: Mapping[str, AttributeRange],
    views: Floats,
    rng: np.random.Generator,
) -> dict[str, list[Attribute]]:
    """Each attribute of all entities. One direction in the space of the factors is a number, the nearest of several a
    category."""
    found: dict[str, list[Attribute]] = {}
    for name, kind in kinds.items():
        bounds = ranges.get(name, AttributeRange())
        directions = rng.normal(size=(bounds.codes, views.shape[1]))
        seen = views @ directions.T
        if kind.kind == "text":
            found[name] = [f"{name} {place}" for place in range(len(views))]
        elif kind.kind == "number":
            one = (seen[:, 0] - seen[:, 0].mean()) / seen[:, 0].std()
            numbers = np.clip(bounds.mean + bounds.deviation * one, bounds.low, bounds.high)
            found[name] = (np.rint(numbers) if bounds.whole else numbers).tolist()
        else:
            width = 1 if kind.kind == "category" else min(kind.width, 2)
            nearest = 1 + np.argsort(-seen, axis=1, kind="stable")[:, :width]
            found[name] = [tuple(codes) for codes in nearest.tolist()]
    return found
