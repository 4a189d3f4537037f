"""A test that may be looked at as often as one likes: the mixture sequential probability ratio test.

A fixed test is right for one look; who looks daily and stops at p < .05 errs several times as often. Here the
likelihood ratio of "some effect", normally distributed around 0, against "none" is a martingale if there is none, so by
Ville's inequality it ever exceeds 1/alpha with probability alpha at most, whenever and why ever one looks (Johari,
Koomen, Pekelis, Walsh, Peeking at A/B Tests, KDD 2017; for means with estimated variance: Waudby-Smith, Arbour, Sinha,
Kennedy, Ramdas, Time-uniform central limit theory and asymptotic confidence sequences, Annals of Statistics 2024).
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MIN_USERS: Final = 100
"""Users an arm before a look counts: the interval rests on the central limit theorem."""


def mixture(planned: int, alpha: float) -> float:
    """The variance of the mixture for which intervals are about narrowest after `planned` users.

    In units of the variance of one user's contribution: the equation after (2.8) of Waudby-Smith et al. (2024),
    rho^2 = (-2 ln alpha + ln(-2 ln alpha + 1)) / t.
    """
    log = -2.0 * math.log(alpha)
    return (log + math.log(log + 1.0)) / max(planned, 1)


def p_values(effect: Floats, error: Floats, users: Floats, variance: float) -> Floats:
    """Always-valid p of each look: 1 / likelihood ratio, at most 1. The smallest so far is valid, too.

    Of arrays of one shape: `effect` and its standard `error` after `users` in both arms together; `variance` of
    `mixture`. 1 where the error is not positive, or something is not finite.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        information = users * variance
        log_ratio = 0.5 * ((effect / error) ** 2 * information / (1.0 + information) - np.log1p(information))
    known = np.isfinite(log_ratio) & (error > 0)
    found: Floats = np.exp(-np.maximum(np.where(known, log_ratio, 0.0), 0.0))
    return found


def multiplier(users: float, variance: float, alpha: float) -> float:
    """How many standard errors the interval reaches to each side: the effects whose `p_values` would be >= alpha."""
    information = users * variance
    if information <= 0:
        return math.inf
    return math.sqrt((1.0 + information) / information * (math.log1p(information) - 2.0 * math.log(alpha)))
