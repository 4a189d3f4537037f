"""The policy file: which certificates and which roles may call which RPC, and how often a caller may."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from servicekit.security.errors import SecurityFilesError

Role = Literal["rank.read", "events.write", "batch.write", "model.publish", "erase"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
DEFAULT: Final = Path(__file__).with_name("policy.yaml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Strict):
    """Who may call one RPC; see the head of `policy.yaml`."""

    services: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    roles: frozenset[Role] = frozenset()
    open: bool = False

    @field_validator("services", "products")
    @classmethod
    def _narrow(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if any(sign in name for sign in "?[]") or "*" in name[1:-1] or not name.strip("*"):
                raise ValueError(f"{name!r} is no name: exact, or with one `*` at its beginning or end")
        return names

    @model_validator(mode="after")
    def _somebody(self) -> "Rule":
        if self.open == bool(self.services or self.products or self.roles):
            raise ValueError("a rule names services, products or roles, or is open")
        return self


class Quota(_Strict):
    """Calls a second, calls in one burst, streams open at a time."""

    rate: float
    burst: float
    streams: int

    @model_validator(mode="after")
    def _positive(self) -> "Quota":
        if self.rate <= 0 or self.burst < 1 or self.streams < 0:
            raise ValueError("rate must be above 0, burst at least 1, streams at least 0")
        return self


class Quotas(_Strict):
    """The default, and callers with one of their own."""

    default: Quota
    callers: Mapping[str, Quota] = {}

    def of(self, caller: str) -> Quota:
        """That caller's."""
        return self.callers.get(caller, self.default)


class Policy(_Strict):
    """One rule an RPC (full name), what certificates grant, and quotas."""

    rpcs: Mapping[str, Rule]
    grants: Mapping[str, frozenset[Role]] = {}
    quotas: Quotas

    @classmethod
    def read(cls, path: Path = DEFAULT) -> "Policy":
        """The policy of a YAML file. SecurityFilesError naming what is wrong with it, and where."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except OSError as exc:
            raise SecurityFilesError(f"{path}: {exc.strerror}; name a policy file that can be read") from exc
        except yaml.YAMLError as exc:
            raise SecurityFilesError(f"{path}: is no YAML: {str(exc).splitlines()[0]}") from exc
        except ValidationError as exc:
            lines = [
                f"{'.'.join(map(str, e['loc'])) or 'policy'}: {e['msg'].removeprefix('Value error, ')}"
                for e in exc.errors(include_url=False, include_context=False)
            ]
            raise SecurityFilesError(f"{path}: {'; '.join(lines)}") from exc

    def granted(self, names: Iterable[str]) -> frozenset[str]:
        """Roles that certificates with these names have by themselves."""
        found: set[str] = set()
        for name in names:
            found |= self.grants.get(name, frozenset())
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class Names:
    """Matches the names of certificates against one list of a rule."""

    patterns: tuple[str, ...]
    _exact: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_exact", frozenset(name for name in self.patterns if "*" not in name))

    def first(self, names: Iterable[str]) -> str | None:
        """The first of `names` that is on the list."""
        for name in names:
            if name in self._exact or any("*" in each and fnmatchcase(name, each) for each in self.patterns):
                return name
        return None


def unruled(policy: Policy, rpcs: Iterable[str]) -> list[str]:
    """Those of `rpcs` (full names) that have no rule."""
    return sorted(set(rpcs) - set(policy.rpcs))


def as_document(policy: Policy) -> dict[str, Any]:
    """The policy as plain data, for reports and tests."""
    return policy.model_dump(mode="json")
