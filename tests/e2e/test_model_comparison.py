"""`millrace train --all` as it is typed: every model, checks before, a broken run goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MODELS = {"popularity", "itemknn", "ease", "ials", "lr", "lightgbm", "xgboost", "best"}
NEEDS_TORCH = {"two_tower", "fm", "dcn_v2", "dlrm", "sequence"}


def compare(home: Path) -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("millrace")), "train", "--dataset", "synthetic", "--all", "--json"]
    done = subprocess.run(
        command, env={**os.environ, "MILLRACE_HOME": str(home)}, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_model_has_its_figures_and_a_second_run_trains_nothing(tmp_path: Path) -> None:
    """On the synthetic set; models of a library that is not installed are named with the remedy."""
    first = compare(tmp_path)
    second = compare(tmp_path)

    there = set(first) & (MODELS | NEEDS_TORCH)
    assert there >= MODELS
    assert NEEDS_TORCH - there == set(first["absent"])
    assert all("make deep" in why for why in first["absent"].values())
    for name in there - {"popularity", "itemknn", "ease", "ials", "two_tower"}:
        figures = first[name]
        for metric in ("auc", "gauc", "logloss", "ndcg_at_10", "recall_at_10"):
            assert figures[f"{metric}_lo"] <= figures[metric] <= figures[f"{metric}_hi"], (name, metric)
    assert first["ease"]["auc"] is None
    assert first["ease"]["ndcg_at_10"] > first["popularity"]["ndcg_at_10"]
    assert {"future", "history", "telling", "shuffled", "replay", "ceiling"} == set(first["leak_checks"])
    assert all(found["holds"] for found in first["leak_checks"].values())
    assert {name: first[name] for name in there} == {name: second[name] for name in there}
    assert second["seconds"] < first["seconds"]
    assert second["trained_cpu_s"] == first["trained_cpu_s"]
