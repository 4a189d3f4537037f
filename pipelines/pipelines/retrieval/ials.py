"""Implicit-feedback ALS (Hu, Koren, Volinsky, ICDM 2008), fitted by the library `implicit`."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from pipelines.retrieval.interactions import Csr

ITERATIONS = 15


@dataclass(frozen=True)
class Ials:
    """`items` float32 (items, factors); a user's factors are solved from its row, so unknown users are normal input."""

    items: npt.NDArray[np.float32]
    ridge: float
    confidence: float

    def users(self, rows: Csr) -> npt.NDArray[np.float32]:
        """float32 (users, factors) of csr (users, items): the exact half step (Y'Y + Y'(C - I)Y + ridge I)^-1 Y'C p."""
        items = self.items.astype(np.float64)
        gram = items.T @ items + self.ridge * np.eye(items.shape[1])
        rows = rows.tocsr()
        found = np.zeros((rows.shape[0], items.shape[1]), np.float32)
        for user in range(rows.shape[0]):
            seen = items[rows.indices[rows.indptr[user] : rows.indptr[user + 1]]]
            found[user] = np.linalg.solve(gram + (self.confidence - 1) * seen.T @ seen, self.confidence * seen.sum(0))
        return found

    def scores(self, rows: Csr) -> npt.NDArray[np.float32]:
        """float32 (users, items)."""
        return np.asarray(self.users(rows) @ self.items.T)


def fit_ials(
    interactions: Csr, *, factors: int = 32, ridge: float = 20.0, confidence: float = 3.0, seed: int = 0
) -> Ials:
    """Alternating least squares on confidence 1 where nothing was met and `confidence` where something was.

    Args:
        interactions: csr (users, items) of ones.
        factors: width.
        ridge: lambda, equal for all users and items.
        confidence: c of a met cell (implicit's alpha), more than 1 to matter.
        seed: of the initial factors; one thread, so the same seed gives the same bits.
    """
    with threadpool_limits(1, "blas"):  # implicit warns where BLAS brings threads of its own
        model = AlternatingLeastSquares(
            factors=factors,
            regularization=ridge,
            alpha=confidence,
            iterations=ITERATIONS,
            use_cg=False,
            num_threads=1,
            random_state=seed,
        )
        model.fit(csr_matrix(interactions), show_progress=False)
    return Ials(np.asarray(model.item_factors, np.float32), ridge, confidence)
