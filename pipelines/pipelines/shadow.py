"""A shadow's scores beside those that were served: the same candidates of the same requests, from the lake."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import polars as pl
from definitions.stability import psi
from millrace.events.v1 import events_pb2 as pb
from stores.offline import Lake

from pipelines.errors import BadInputError

_SHADOW: Final = "shadow:"
_TOP: Final = 10


@dataclass(frozen=True)
class Comparison:
    """`requests` with `candidates` in all that both versions scored.

    `rank_correlation`: Spearman's, mean over requests. `top_overlap`: share of the served version's first ten of a
    request that are among the shadow's first ten. `first_changed`: share of requests with another first item.
    `score_psi`: stability index of the shadow's scores. `max_abs`, `mean_abs`: difference of the scores. Times are of
    the model alone, in milliseconds.
    """

    served_version: int
    shadow_version: int
    requests: int
    candidates: int
    rank_correlation: float
    top_overlap: float
    first_changed: float
    mean_served: float
    mean_shadow: float
    mean_abs: float
    max_abs: float
    score_psi: float
    served_p50_ms: float
    served_p99_ms: float
    shadow_p50_ms: float
    shadow_p99_ms: float

    def as_dict(self) -> dict[str, Any]:
        """As data."""
        return asdict(self)


def compare(lake: Lake, version: int | None = None) -> Comparison:
    """The newest shadow's scores, or those of `version`, against the version that served most of its requests.

    Raises:
        BadInputError: no request has scores of both.
        StoreUnavailable: the lake cannot be read.
    """
    columns = ("request_id", "item_ids", "scores", "model_version", "arm", "stages", "stage_micros", "timestamp_us")
    frame = lake.scan("impressions").filter(pl.col("rung") == pb.RUNG_MODEL).select(*columns)
    shadows = frame.filter(pl.col("arm").str.starts_with(_SHADOW)).collect()
    if version is not None:
        shadows = shadows.filter(pl.col("model_version") == version)
    if shadows.is_empty():
        raise BadInputError(
            f"no request in the lake was scored by a shadow{f' of version {version}' if version else ''}; begin one "
            "(millrace shadow start), send requests, then look again"
        )
    version = version or int(shadows.sort("timestamp_us")["model_version"][-1])
    shadows = shadows.filter(pl.col("model_version") == version).unique("request_id", keep="first")
    asked = shadows["request_id"].implode()
    served = frame.filter(~pl.col("arm").str.starts_with(_SHADOW) & pl.col("request_id").is_in(asked)).collect()
    if served.is_empty():
        raise BadInputError("the lake lacks the answers to what the shadow scored; look again later")
    against = int(served["model_version"].mode().sort()[-1])
    served = served.filter(pl.col("model_version") == against).unique("request_id", keep="first")
    pairs = _exploded(served, "served").join(_exploded(shadows, "shadow"), on=["request_id", "item"])
    if pairs.is_empty():
        raise BadInputError("no candidate has scores of both versions")
    return _compared(pairs, served, shadows.filter(pl.col("request_id").is_in(served["request_id"].implode())), against)


def _exploded(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    rows = frame.select("request_id", pl.col("item_ids").alias("item"), pl.col("scores").alias(name))
    return rows.explode("item", name).with_columns(pl.col(name).cast(pl.Float64))


def _compared(pairs: pl.DataFrame, served: pl.DataFrame, shadows: pl.DataFrame, against: int) -> Comparison:
    difference = (pairs["served"] - pairs["shadow"]).abs()
    ranked = pairs.with_columns(
        pl.struct(-pl.col(name), "item").rank("ordinal").over("request_id").alias(f"{name}_rank")
        for name in ("served", "shadow")
    )
    first = (pl.col("served_rank") == 1) & (pl.col("shadow_rank") == 1)
    of_request = ranked.group_by("request_id").agg(
        pl.corr("served", "shadow", method="spearman").alias("correlation"),
        first.any().alias("same_first"),
        ((pl.col("served_rank") <= _TOP) & (pl.col("shadow_rank") <= _TOP)).sum().alias("both"),
        pl.len().clip(upper_bound=_TOP).alias("top"),
    )
    return Comparison(
        served_version=against,
        shadow_version=int(shadows["model_version"][0]),
        requests=of_request.height,
        candidates=pairs.height,
        rank_correlation=_mean(of_request["correlation"].fill_nan(None).drop_nulls()),
        top_overlap=int(of_request["both"].sum()) / int(of_request["top"].sum()),
        first_changed=1.0 - _mean(of_request["same_first"]),
        mean_served=_mean(pairs["served"]),
        mean_shadow=_mean(pairs["shadow"]),
        mean_abs=_mean(difference),
        max_abs=float(difference.max()),  # type: ignore[arg-type]
        score_psi=psi(pairs["served"].to_numpy(), pairs["shadow"].to_numpy()),
        **{f"{name}_{key}": value for name, frame in (("served", served), ("shadow", shadows))
           for key, value in _times(frame).items()},
    )  # fmt: skip


def _mean(values: pl.Series) -> float:
    return float(values.mean()) if len(values) else float("nan")  # type: ignore[arg-type]


def _times(frame: pl.DataFrame) -> dict[str, float]:
    stages = frame.select("stages", "stage_micros").explode("stages", "stage_micros")
    micros = stages.filter(pl.col("stages") == "model")["stage_micros"]
    if micros.is_empty():
        return {"p50_ms": float("nan"), "p99_ms": float("nan")}
    return {f"p{q}_ms": float(micros.quantile(q / 100) or 0) / 1e3 for q in (50, 99)}
