"""Decides what `up` starts: the profile, what was given by address, and what this machine lacks."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from local_stack.component import Component, nothing
from local_stack.components.cassandra import cassandra
from local_stack.components.kafka import cluster_id, kafka, new_cluster_id
from local_stack.components.tansu import tansu
from local_stack.components.triton import lacking as triton_lacking
from local_stack.components.triton import shared_memory_prefix, triton
from local_stack.components.valkey import REMEDY, find_valkey, valkey
from local_stack.cql import CassandraError, apply_schema
from local_stack.errors import MissingProgram, StackError
from local_stack.home import Home, checkout_root
from local_stack.java import find_java, lacking
from local_stack.ports import Ports
from local_stack.probes import Probe, must_answer, split
from local_stack.service import PREFIX, ServiceSpec, service
from local_stack.state import StackState
from local_stack.topics import alike, create_topics, declared_topics, log_id_of

Profile = Literal["embedded", "real"]
SERVERS = ("kafka", "valkey", "cassandra", "triton")


@dataclass(frozen=True)
class Options:
    """What the caller wants.

    `environ` is the caller's whole environment: children inherit all of it but `MILLRACE_*`, and of those each service
    gets what it declares. `topic_usecases` are the names of the use cases, for their topics; `more_topics` are further
    ones, each with the declared one that it is like. `defaults` are further settings for services (`MILLRACE_…`), which
    the environment overrides.
    """

    home: Home
    offset: int
    environ: Mapping[str, str]
    services: Sequence[ServiceSpec]
    topic_usecases: Sequence[str]
    models: Path
    more_topics: Mapping[str, str] = field(default_factory=dict)
    profile: Profile | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)

    def given(self, server: str) -> str | None:
        """The address of a server that somebody else runs, if the environment names one."""
        return self.environ.get(f"{PREFIX}{server.upper()}") or None


@dataclass(frozen=True)
class Plan:
    """What will run: `components` are ours to start, `given` are used as they are; `notes` are for the reader."""

    profile: Profile
    why: str
    log_id: str
    components: tuple[Component, ...]
    given: Mapping[str, Probe]
    notes: tuple[str, ...]


def choose_profile(wanted: Profile | None, environ: Mapping[str, str]) -> tuple[Profile, str]:
    """The profile and why. MissingProgram if the real one is asked for and Java 17 or Maven is not here."""
    missing = lacking(find_java(environ), environ)
    if wanted == "real" and missing:
        raise MissingProgram(f"the real profile cannot start: {missing}; or take --profile embedded")
    if wanted:
        return wanted, "as asked for"
    return ("embedded", missing) if missing else ("real", "Java 17 and Maven are here")


def make_plan(options: Options, state: StackState | None) -> Plan:
    """Decide; `state` is of the stack that is up already, whose profile and embedded log stay.

    Raises:
        MissingProgram: what the profile cannot do without is not here.
        Unreachable: a server that was given by its address does not answer.
        StackError: a stack of the other profile is up.
    """
    if state and options.profile not in (None, state.profile):
        raise StackError(f"a stack of profile {state.profile} is up: run `millrace down` first")
    wanted = options.profile or (state.profile if state else None)
    profile, why = choose_profile(wanted, options.environ)
    if state and options.profile is None:
        why = "it is up already"
    given = {name: _given_probe(name, address) for name in SERVERS if (address := options.given(name))}
    for name, probe in given.items():
        must_answer(name, probe)
    log_id = _log_id(options, profile, state)
    servers, notes = _servers(options, profile, log_id)
    addresses = _addresses(servers)
    services = [service(spec, _values(options, profile, addresses, log_id)) for spec in options.services]
    return Plan(profile, why, log_id, (*servers, *services), given, tuple(notes))


def after_kafka(options: Options, address: str) -> None:
    """Create the topics that `infra/kafka/topics.yaml` declares for the use cases, and those like them."""
    declared = declared_topics(checkout_root() / "infra" / "kafka" / "topics.yaml", options.topic_usecases)
    create_topics(address, [*declared, *alike(declared, options.more_topics)])


def after_cassandra(address: str) -> None:
    """Apply `infra/cassandra/schema.cql`."""
    try:
        apply_schema(*split(address), checkout_root() / "infra" / "cassandra" / "schema.cql")
    except CassandraError as exc:
        raise StackError(f"the schema was not applied at {address}: {exc}") from exc


def _given_probe(name: str, address: str) -> Probe:
    """How to ask a given server: Triton's address is its gRPC port, the others' kinds bear their names."""
    return Probe("grpc", address) if name == "triton" else Probe(name, address)  # type: ignore[arg-type]


def _log_id(options: Options, profile: Profile, state: StackState | None) -> str:
    """Identity of the log that will run: Kafka's cluster id, or a UUID per start of the embedded broker."""
    if address := options.given("kafka"):
        return log_id_of(address)
    if profile == "real":
        return cluster_id(options.home) or new_cluster_id()
    return state.log_id if state and state.alive("kafka") else str(uuid.uuid4())


def _servers(options: Options, profile: Profile, log_id: str) -> tuple[list[Component], list[str]]:
    home, ports = options.home, Ports.at(options.offset)
    notes: list[str] = []
    wanted: list[Component] = []
    if profile == "embedded":
        wanted = [tansu(ports)]
        notes.append("the embedded log is in memory: it is new at each start, Delta is kept")
    else:
        java = find_java(options.environ)
        if java is None:
            raise MissingProgram(str(lacking(None, options.environ)))
        wanted = [kafka(home, ports, java, log_id), cassandra(home, ports, java)]
        program = find_valkey(options.environ)
        if program:
            wanted.append(valkey(home, ports, program))
        elif not options.given("valkey"):
            notes.append(f"online rows are in LMDB: {REMEDY}")
        if reason := triton_lacking():
            notes.append(f"models are scored in the gateway: {reason}")
        else:
            prefix = shared_memory_prefix(ports.triton_grpc)
            wanted.append(triton(home, ports, options.models, prefix=prefix))
    hooks = {
        "kafka": lambda: after_kafka(options, f"127.0.0.1:{ports.kafka}"),
        "cassandra": lambda: after_cassandra(f"127.0.0.1:{ports.cassandra}"),
    }
    servers = [replace(each, after=hooks.get(each.name, nothing)) for each in wanted if not options.given(each.name)]
    return servers, notes


def _addresses(servers: Sequence[Component]) -> dict[str, str]:
    """`MILLRACE_<SERVER>` of each server that we run."""
    main_port = {"kafka": "kafka", "valkey": "valkey", "cassandra": "cassandra", "triton": "grpc"}
    return {f"{PREFIX}{server.name.upper()}": f"127.0.0.1:{server.ports[main_port[server.name]]}" for server in servers}


def _values(options: Options, profile: Profile, addresses: Mapping[str, str], log_id: str) -> dict[str, str]:
    """Every setting that a service may get. What the caller's environment says wins."""
    # The embedded broker answers a waiting fetch late: a row is visible after 27 ms with 100, after 4 with 20 (median).
    of_profile = {f"{PREFIX}FETCH_WAIT_MS": "20"} if profile == "embedded" else {}
    own = {name: value for name, value in options.environ.items() if name.upper().startswith(PREFIX)}
    return {
        f"{PREFIX}LOG_ID": log_id,
        f"{PREFIX}MODELS": str(options.models),
        **addresses,
        **of_profile,
        **options.defaults,
        **own,
        f"{PREFIX}HOME": str(options.home.root),
        f"{PREFIX}PORT_OFFSET": str(options.offset),
    }
