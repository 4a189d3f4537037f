"""Which arms of the running experiments a request belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass

from definitions.assignment import Split, place
from millrace.decisions.v1 import decisions_pb2 as pb


@dataclass(frozen=True, slots=True)
class Arms:
    """The experiments of one serving state, by layer. Made once a decision; `assign` is asked at each request."""

    layers: tuple[tuple[str, tuple[Split, ...]], ...]

    @classmethod
    def of(cls, state: pb.ServingState) -> "Arms":
        """Those of `state`; whoever publishes a state has checked that experiments of a layer share no place."""
        layers: dict[str, list[Split]] = {}
        for experiment in state.experiments:
            layers.setdefault(experiment.layer, []).append(Split.of(experiment))
        return cls(tuple((layer, tuple(splits)) for layer, splits in layers.items()))

    def assign(self, user_id: int, session_id: int) -> Sequence[tuple[str, str]]:
        """(experiment, arm) of each layer that has one for this user, or for the session where the user is absent (0).

        The same for ever while the experiments stay. Who has neither id is in no arm: nothing of theirs would stay.
        """
        if not self.layers or not (unit_id := user_id or session_id):
            return ()
        found = []
        for layer, splits in self.layers:
            at = place(layer, unit_id)
            for split in splits:
                if (arm := split.arm_at(at, unit_id)) is not None:
                    found.append((split.name, split.arms[arm]))
                    break
        return found
