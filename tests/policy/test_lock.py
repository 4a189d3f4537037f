"""The lock: floors on all that we name, and closures that hold only what belongs there."""

import re
import tomllib
from typing import Any

import pytest
from local_stack.home import checkout_root

LOCK: dict[str, Any] = tomllib.loads((checkout_root() / "uv.lock").read_text())
PACKAGES: dict[str, dict[str, Any]] = {package["name"]: package for package in LOCK["package"]}
FEAST: dict[str, Any] = tomllib.loads((checkout_root() / "infra" / "feast" / "uv.lock").read_text())
MEMBERS = sorted(name for name, package in PACKAGES.items() if {"editable", "virtual"} & set(package["source"]))

# What must stay out of the process that answers requests: training, feature stores, data frames.
NOT_IN_GATEWAY = {
    "lightgbm",
    "scikit-learn",
    "torch",
    "mlflow",
    "mlflow-skinny",
    "feast",
    "pandas",
    "polars",
    "deltalake",
}
MIN_FLOOR = re.compile(r"(>=|==|~=)")


def named_by(member: str) -> list[dict[str, Any]]:
    """Every requirement that a member writes down: its own, its extras', its groups'."""
    metadata = PACKAGES[member].get("metadata", {})
    groups = metadata.get("requires-dev", {}).values()
    return [*metadata.get("requires-dist", []), *(requirement for group in groups for requirement in group)]


def closure(member: str) -> set[str]:
    """Names of all that an installation of `member` without its groups brings."""
    found: set[str] = set()
    waiting = [(member, ())]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        package = PACKAGES[name]
        wanted = list(package.get("dependencies", []))
        for extra in extras:
            wanted += package.get("optional-dependencies", {}).get(extra, [])
        waiting += [(each["name"], tuple(each.get("extra", []))) for each in wanted]
    return found - {member}


def test_the_lock_has_every_member() -> None:
    """Members are listed one by one, so a forgotten one would not be checked below."""
    listed = tomllib.loads((checkout_root() / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]

    assert len(MEMBERS) == len(listed) + 1  # and the workspace itself


@pytest.mark.parametrize("member", MEMBERS)
def test_every_named_package_has_a_floor(member: str) -> None:
    """Without a floor the lock once took tritonclient 2.41 and feast 0.63."""
    bare = [each["name"] for each in named_by(member) if each["name"] not in MEMBERS]
    without = [
        each["name"]
        for each in named_by(member)
        if each["name"] in bare and not MIN_FLOOR.search(each.get("specifier", ""))
    ]

    assert without == []


def test_the_gateway_carries_nothing_that_trains() -> None:
    """Its image is what answers requests: small, and quick to start."""
    assert closure("millrace-gateway") & NOT_IN_GATEWAY == set()


def test_the_demo_needs_no_torch() -> None:
    """PyTorch with its CUDA libraries is 4.8 GB: deep training is a group of its own."""
    assert "torch" not in closure("millrace-cli")


def test_feasts_lock_knows_what_the_members_need() -> None:
    """It is used as it is, so one that lags behind would lack a package: `.tools/bin/uv lock --project infra/feast`."""

    def needs(package: dict[str, Any]) -> list[tuple[str, ...]]:
        keys = ("name", "specifier", "marker")
        return sorted(
            (*(str(each.get(key, "")) for key in keys), *each.get("extras", []))
            for each in package.get("metadata", {}).get("requires-dist", [])
        )

    ours = [package for package in FEAST["package"] if "editable" in package["source"]]

    assert "millrace-pipelines" in [package["name"] for package in ours]
    for package in ours:
        assert needs(PACKAGES[package["name"]]) == needs(package), package["name"]
