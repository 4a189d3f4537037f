"""A bundle's candidate sources as the core takes them: with our own error."""

from bundle import BundleError, Found, Retrieval, TowerRetrieval
from definitions.candidates import BundleSources, Eligible

from gateway.errors import Unavailable
from gateway.query import Floats, Ids


def sources_of(retrieval: Retrieval) -> BundleSources:
    """Of a verified bundle."""
    return BundleSources(
        towers=None if retrieval.towers is None else BundleTowers(retrieval.towers),
        neighbours=retrieval.neighbours,
        popular=retrieval.popular,
    )


class BundleTowers:
    """The user tower, and the index that it was trained with."""

    def __init__(self, towers: TowerRetrieval) -> None:
        self._towers = towers

    def retrieve(self, history: Ids, limit: int, eligible: Eligible) -> Found:
        """Nearest eligible items, best first. Raises Unavailable."""
        try:
            return self._towers.retrieve(history, limit, eligible)
        except BundleError as exc:
            raise Unavailable("error", str(exc)) from exc

    def directions(self, item_ids: Ids) -> Floats:
        """Vectors of length 1, float32 (n, width); zeros where unknown."""
        return self._towers.directions(item_ids)
