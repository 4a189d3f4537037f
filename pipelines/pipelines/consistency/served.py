"""Which layout the impressions of now are logged under: that of the pinned bundle, whatever the file says by now."""

from pathlib import Path

from bundle import bundle_layout, load_bundle
from definitions.layout import Layout, layout_of
from definitions.usecase import UseCase
from millrace.decisions.v1 import decisions_pb2 as pb
from stores.offline import Lake

from pipelines.decisions import archived, serving_state


def served_layout(usecase: UseCase, bundles: Path, *, kafka: str | None, lake: Lake) -> Layout:
    """The pinned bundle's; before the first deploy the file's.

    Args:
        usecase: as the file has it now.
        bundles: folder of the bundles.
        kafka: where `decisions` is read; None where no stack is up: its archive in the lake says what was pinned last.
        lake: of the use case.

    Raises:
        UnavailableError: Kafka does not answer.
        bundle.BundleError: the pinned bundle is not there, or not the pinned one.
        StoreUnavailable: the lake cannot be read.
    """
    state = archived_state(lake, usecase.name) if kafka is None else serving_state(kafka, usecase.name)
    if not state.HasField("pin"):
        return layout_of(usecase)
    pin = state.pin
    return bundle_layout(load_bundle(bundles / pin.name / str(pin.version), digest=pin.digest or None), usecase)


def archived_state(lake: Lake, usecase: str) -> pb.ServingState:
    """The serving state after the last archived decision that held; empty before the first."""
    decisions = archived(lake, usecase)
    return decisions[-1].state if decisions else pb.ServingState()
