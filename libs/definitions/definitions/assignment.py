"""Who is in which arm of an experiment: a pure function of names and ids, for the gateway and for its audit alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash
from millrace.decisions.v1 import decisions_pb2 as pb

INTERLEAVED = "interleaved"
"""The one arm of an interleaved experiment."""
_TO_UNIT = 2.0**-53  # the 53 upper bits of the hash: what a double holds exactly, and never 1


def place(salt: str, unit_id: int) -> float:
    """Where `unit_id` (unsigned 64-bit) stands in [0, 1) under `salt`: xxh3_64 of the salt's UTF-8, a 0 and the id."""
    return (xxhash.xxh3_64_intdigest(salt.encode() + b"\0" + unit_id.to_bytes(8, "big")) >> 11) * _TO_UNIT


@dataclass(frozen=True, slots=True)
class Split:
    """One experiment: which places of its layer are in it, and how they divide into arms.

    Two hashes, of the layer and of the experiment: the first says whether a unit is in, so experiments of a layer never
    share one; the second says in which arm, so an arm's members stay while all arms grow alike, and the arms of the
    experiment that had these places before are spread evenly over those of this one (Kohavi, Tang and Xu, Trustworthy
    Online Controlled Experiments, 2020, chapters 4 and 16).

    `segments`: disjoint [begin, end) of the layer. `arms`: their names; `ends`: cumulative parts of all members, the
    last 1.
    """

    name: str
    layer: str
    segments: tuple[tuple[float, float], ...]
    arms: tuple[str, ...]
    ends: tuple[float, ...]

    @classmethod
    def of(cls, experiment: pb.Experiment) -> "Split":
        """The experiment as a decision states it; without segments it has the layer from 0 on."""
        shares = [max(arm.share, 0.0) for arm in experiment.arms]
        total = sum(shares)
        segments = tuple((each.begin, each.end) for each in experiment.segments) or ((0.0, total),)
        ends = np.cumsum(shares) / total if total > 0 else np.zeros(len(shares))
        if total > 0:
            ends[-1] = 1.0  # not what rounding makes of it: the last arm would lose a member
        names = tuple(arm.name for arm in experiment.arms)
        if experiment.interleaved:
            names, ends = (INTERLEAVED,), ends[-1:]
        return cls(experiment.name, experiment.layer, segments if total > 0 else (), names, tuple(ends.tolist()))

    def arm(self, unit_id: int) -> int | None:
        """Index of the unit's arm; None if the unit is not in the experiment, or is 0 (absent)."""
        return self.arm_at(place(self.layer, unit_id), unit_id) if unit_id else None

    def arm_at(self, layer_place: float, unit_id: int) -> int | None:
        """`arm` of a unit whose place in the layer is known."""
        for begin, end in self.segments:
            if begin <= layer_place < end:
                at = place(self.name, unit_id)
                return next(index for index, until in enumerate(self.ends) if at < until)
        return None


def assigned(split: Split, unit_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Index of each unit's arm, int64 (n,); -1 for those that are not in the experiment."""
    arms = (split.arm(unit) for unit in unit_ids.tolist())
    return np.fromiter((-1 if arm is None else arm for arm in arms), np.int64, len(unit_ids))


def free_segments(taken: Sequence[tuple[float, float]], wanted: float) -> tuple[tuple[float, float], ...]:
    """The lowest places of a layer that nobody has, `wanted` in all.

    Raises:
        ValueError: less than that is free.
    """
    found: list[tuple[float, float]] = []
    begin, left = 0.0, wanted
    for start, end in [*sorted(taken), (1.0, 1.0)]:
        if left > _LEAST and start - begin > _LEAST:
            upto = min(start, begin + left) if start - begin - left > _LEAST else start
            found.append((begin, upto))
            left -= upto - begin
        begin = max(begin, end)
    if left > _LEAST:
        raise ValueError(f"{wanted - left:.6g} of the layer is free, not {wanted:.6g}")
    return tuple(found)


_LEAST = 1e-9  # of a layer: less is rounding, and fewer than one user in any system
