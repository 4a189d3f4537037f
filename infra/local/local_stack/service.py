"""Our own services as parts of the stack: known by name only, so that this package imports none of them."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from local_stack.component import Component
from local_stack.probes import Probe

PREFIX = "MILLRACE_"


@dataclass(frozen=True)
class ServiceSpec:
    """A service as its caller describes it.

    `module` is run with `python -m`; `declared` are the `MILLRACE_*` names that its settings class accepts; `wave` 3 is
    the stream side, 4 what answers requests; `ports` hold its gRPC port, if any, and its metrics port, offset included;
    `nice` is its priority behind the others; `settings` are this instance's own, whatever the environment says.
    """

    name: str
    module: str
    declared: frozenset[str]
    wave: int
    ports: Mapping[str, int]
    nice: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)


def service(spec: ServiceSpec, values: Mapping[str, str]) -> Component:
    """The service with those of `values` that it declares; ready when its `/ready` says so."""
    environment = {name: value for name, value in values.items() if name in spec.declared} | dict(spec.settings)
    return Component(
        name=spec.name,
        wave=spec.wave,
        command=[sys.executable, "-m", spec.module],
        ports=spec.ports,
        probe=Probe("http", f"127.0.0.1:{spec.ports['metrics']}", "/ready"),
        start_s=120,
        stop_s=25,  # a drain takes at most 20 s
        environment=lambda: environment,
        nice=spec.nice,
    )


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """What every child inherits: all but the `MILLRACE_*` names, since processes refuse unknown ones."""
    return {name: value for name, value in environ.items() if not name.upper().startswith(PREFIX)}
