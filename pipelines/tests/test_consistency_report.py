"""Where the consistency job's result is found."""

from pathlib import Path

import pytest
from pipelines.consistency import latest
from pipelines.consistency.report import publish
from pipelines.errors import BadInputError

RESULT = {
    "usecase": "shop", "layout_hash": "0000abcd", "impressions": 3, "cells": 90, "logic": 2, "mismatch_rate": 0.5,
    "inside_rate": 0.25, "missing_rate": 0.0, "features": {},
}  # fmt: skip


def test_the_last_report_is_found(tmp_path: Path) -> None:
    """By its use case; before the first there is none."""
    assert latest(tmp_path, "shop") is None
    publish({**RESULT, "logic": 7}, tmp_path)
    path = publish(RESULT, tmp_path)

    found = latest(tmp_path, "shop")

    assert found is not None
    assert (path, "0000abcd", 2, 0.5) == (found.path, found.layout_hash, found.logic, found.mismatch_rate)
    assert latest(tmp_path, "films") is None


def test_prometheus_finds_it_too(tmp_path: Path) -> None:
    """As a textfile."""
    publish(RESULT, tmp_path)

    lines = (tmp_path / "metrics" / "consistency-shop.prom").read_text().splitlines()
    assert 'consistency_logic_values{usecase="shop"} 2.0' in lines
    assert 'consistency_mismatch_ratio{usecase="shop"} 0.5' in lines


def test_a_damaged_report_is_no_good_report(tmp_path: Path) -> None:
    """The gate must not take it for a pass."""
    path = publish(RESULT, tmp_path)
    path.write_text("{}")
    with pytest.raises(BadInputError, match="millrace consistency"):
        latest(tmp_path, "shop")
