"""What every model must beat: a constant, and the item's mean so far."""

import numpy as np
import numpy.typing as npt

PRIOR_WEIGHT = 10.0  # events; an item with fewer leans on the base rate


def constant(labels: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.float64]:
    """The base rate of the fit `labels` for all n rows, float64 (n,)."""
    return np.full(n, float(labels.mean()))


def streaming_item_mean(
    item_id: npt.NDArray[np.uint64],
    time_us: npt.NDArray[np.int64],
    label: npt.NDArray[np.int64],
    base_rate: float,
) -> npt.NDArray[np.float64]:
    """Mean label of the item's rows strictly before each row's time, drawn to the base rate; float64 (n,).

    Args:
        item_id, time_us, label: all rows (n,), any order.
        base_rate: of the fit rows.
    """
    order = np.lexsort((time_us, item_id))
    item, time, value = item_id[order], time_us[order], label[order]
    total = np.r_[0, np.cumsum(value)]
    starts = np.flatnonzero(np.r_[True, item[1:] != item[:-1]])
    item_start = np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    ties = np.flatnonzero(np.r_[True, (item[1:] != item[:-1]) | (time[1:] != time[:-1])])
    before = np.repeat(ties, np.diff(np.r_[ties, len(order)]))  # first row of the same item and time
    positives = total[before] - total[item_start]
    events = before - item_start
    out = np.empty(len(order))
    out[order] = (positives + PRIOR_WEIGHT * base_rate) / (events + PRIOR_WEIGHT)
    return out
