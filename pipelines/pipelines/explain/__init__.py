"""Why a model scores as it does: what each column adds to the raw score of each row, and what a model leans on."""

from bundle.contributions import Contributions, Reason

from pipelines.explain.graphs import GraphExplainer
from pipelines.explain.rankers import contributions

__all__ = ["Contributions", "GraphExplainer", "Reason", "contributions"]
