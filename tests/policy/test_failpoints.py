"""Each failpoint is declared once and placed once, so that a suite that kills at all of them leaves none out."""

import ast
from collections import Counter
from pathlib import Path

from servicekit.failpoints import POINTS

ROOT = Path(__file__).parents[2]


def test_every_failpoint_is_placed_once() -> None:
    """By its name as it is declared: a kill at a place that is gone would never come."""
    placed = Counter(
        argument.value
        for path in [*ROOT.glob("services/*/*/*.py"), *ROOT.glob("pipelines/pipelines/**/*.py")]
        if path.parent.name != "tests"
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "fp"
        for argument in call.args
        if isinstance(argument, ast.Constant)
    )

    assert dict.fromkeys(POINTS, 1) == placed
