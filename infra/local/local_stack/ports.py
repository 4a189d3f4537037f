"""Port maths: the ports of `docs/operations.md` plus an offset, free ports for tests, and who holds a busy one."""

import itertools
import random
import socket
from dataclasses import dataclass, fields

import psutil

STEP = 100
OFFSETS = range(0, 1_000, STEP)
# Of stacks that tests and benches start: none of their ports is among those that Linux gives to outgoing connections
# (32768 to 60999), as gRPC's are at the others. There a server that was killed may find its port taken.
SPARE_OFFSETS = range(11_000, 12_000, STEP)
FREE = range(22_000, 32_000)  # none of the above, and below those that the system gives to outgoing connections


@dataclass(frozen=True)
class Ports:
    """Every port of one stack, on the loopback interface."""

    kafka: int = 9092
    kafka_controller: int = 9093
    cassandra: int = 9042
    cassandra_storage: int = 7000
    valkey: int = 6379
    triton_http: int = 8000
    triton_grpc: int = 8001
    triton_metrics: int = 8002
    gateway: int = 50051
    collector: int = 50052
    gateway_metrics: int = 9101
    collector_metrics: int = 9102
    features_metrics: int = 9103
    archiver_metrics: int = 9104

    @classmethod
    def at(cls, offset: int) -> "Ports":
        """The ports at `offset`; ValueError unless it is a multiple of 100 from 0 to 900, or a spare stack's."""
        if offset not in OFFSETS and offset not in SPARE_OFFSETS:
            raise ValueError(f"MILLRACE_PORT_OFFSET is {offset}: take a multiple of {STEP} from 0 to {OFFSETS[-1]}")
        return cls(**{field.name: getattr(cls, field.name) + offset for field in fields(cls)})

    @classmethod
    def free(cls) -> "Ports":
        """Ports that nobody listens on at this moment: for servers that tests start alone.

        No outgoing connection takes one of them, so that a server which was killed can come back to its own.
        """
        names = [field.name for field in fields(cls)]
        found = filter(is_free, random.sample(FREE, len(FREE)))
        return cls(**dict(zip(names, itertools.islice(found, len(names)), strict=True)))

    def all(self) -> dict[str, int]:
        """Name to port."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback interface now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no holder
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on `port`, in words: "redis-server (pid 77)"; "an unknown process" where the system does not say."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return "an unknown process (not ours to see)"
    for connection in connections:
        address = tuple(connection.laddr)  # (ip, port)
        if connection.status == psutil.CONN_LISTEN and address[1:] == (port,) and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                break
    return "an unknown process"
