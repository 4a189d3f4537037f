"""A bundle's candidate sources as the core takes them: plain ids, and our own error."""

from bundle import BundleError, NeighbourRetrieval, Retrieval, TowerRetrieval

from gateway.errors import Unavailable
from gateway.query import Floats, Ids
from gateway.retrieval import BundleSources, Eligible


def sources_of(retrieval: Retrieval) -> BundleSources:
    """Of a verified bundle."""
    return BundleSources(
        towers=None if retrieval.towers is None else BundleTowers(retrieval.towers),
        neighbours=None if retrieval.neighbours is None else BundleNeighbours(retrieval.neighbours),
        popular=retrieval.popular,
    )


class BundleTowers:
    """The user tower, and the index that it was trained with."""

    def __init__(self, towers: TowerRetrieval) -> None:
        self._towers = towers

    def retrieve(self, history: Ids, limit: int, eligible: Eligible) -> Ids:
        """Nearest eligible items, best first. Raises Unavailable."""
        try:
            return self._towers.retrieve(history, limit, eligible).item_ids
        except BundleError as exc:
            raise Unavailable("error", str(exc)) from exc

    def directions(self, item_ids: Ids) -> Floats:
        """Vectors of length 1, float32 (n, width); zeros where unknown."""
        return self._towers.directions(item_ids)


class BundleNeighbours:
    """Item-item neighbours."""

    def __init__(self, neighbours: NeighbourRetrieval) -> None:
        self._neighbours = neighbours

    def retrieve(self, history: Ids, limit: int, eligible: Eligible) -> Ids:
        """Nearest eligible items to all of the history, best first."""
        return self._neighbours.retrieve(history, limit, eligible).item_ids
