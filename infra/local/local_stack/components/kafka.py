"""Apache Kafka from Maven Central's jars: one broker that is its own controller."""

import base64
import subprocess
import uuid
from pathlib import Path
from typing import Final

from local_stack.component import Component
from local_stack.dist import fetch_jars, jars_folder
from local_stack.errors import StartFailed
from local_stack.home import Home
from local_stack.java import Java
from local_stack.ports import Ports
from local_stack.probes import Probe

_LOG4J = """\
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %c{1}: %m%n
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
logger.server.name=org.apache.kafka.server
logger.server.level=INFO
"""

# Of 22 KB impressions, 300 a second in and out on 2 cores, G1 paused 61 times in 50 s, 880 ms together, and marked
# nearly all the time: batches and buffers are humongous to it. SerialGC paused 9 times, 147 ms; it takes 100 MB less.
_HEAP: Final = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:MetaspaceSize=96m")


def kafka(home: Home, ports: Ports, java: Java, log_id: str) -> Component:
    """The broker; its log lies in `data/kafka`, which a first start formats with the cluster id `log_id`."""
    config = home.config / "kafka"
    jars = f"{jars_folder(home, 'kafka')}/*"  # java reads the star itself

    def prepare() -> None:
        config.mkdir(parents=True, exist_ok=True)
        (config / "log4j2.properties").write_text(_LOG4J)
        (config / "server.properties").write_text(properties(home, ports))
        if cluster_id(home) is None:
            _format(java, jars, log_id, config / "server.properties", log=home.log / "kafka-format.log")

    command = [
        java.path,
        *_HEAP,
        "-Djava.awt.headless=true",
        f"-Dkafka.logs.dir={home.log}",
        f"-XX:ErrorFile={home.log}/kafka-hs_err.log",
        f"-Dlog4j2.configurationFile=file:{config}/log4j2.properties",
        *("-cp", jars, "kafka.Kafka", str(config / "server.properties")),
    ]
    return Component(
        name="kafka",
        wave=1,
        command=command,
        ports={"kafka": ports.kafka, "controller": ports.kafka_controller},
        probe=Probe("kafka", f"127.0.0.1:{ports.kafka}"),
        start_s=120,
        stop_s=30,
        download=jars_folder(home, "kafka"),
        fetch=lambda: fetch_jars(home, "kafka"),
        prepare=prepare,
    )


def cluster_id(home: Home) -> str | None:
    """Identity of the log in `data/kafka`; None before it is formatted."""
    meta = home.data / "kafka" / "meta.properties"
    if not meta.exists():
        return None
    lines = dict(line.split("=", 1) for line in meta.read_text().splitlines() if "=" in line and line[0] != "#")
    return lines.get("cluster.id")


def properties(home: Home, ports: Ports) -> str:
    """`server.properties`: loopback only, every internal topic with one replica and four partitions."""
    one = ["offsets.topic.replication.factor"]
    one += [f"transaction.state.log.{name}" for name in ("replication.factor", "min.isr")]
    one += [f"share.coordinator.state.topic.{name}" for name in ("replication.factor", "min.isr")]
    four = ["num.partitions", "offsets.topic.num.partitions", "transaction.state.log.num.partitions"]
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{ports.kafka_controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{ports.kafka},CONTROLLER://127.0.0.1:{ports.kafka_controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{ports.kafka}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(home.data / "kafka"),
        "group.initial.rebalance.delay.ms": "0",
        # Of what compaction holds per thread: 128 MB by itself, half of the heap. 16 MB take 600,000 keys a pass.
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
        "auto.create.topics.enable": "false",  # topics.yaml is the only declaration
        **dict.fromkeys(one, "1"),
        **dict.fromkeys(four, "4"),
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def new_cluster_id() -> str:
    """22 characters of URL-safe base64 of a UUID4; not with a leading `-`, which the tool would take for an option."""
    while True:
        drawn = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not drawn.startswith("-"):
            return drawn


def _format(java: Java, jars: str, log_id: str, server: Path, *, log: Path) -> None:
    tool = [java.path, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", jars, "kafka.tools.StorageTool", "format"]
    with log.open("w") as output:
        done = subprocess.run(
            [*tool, "--standalone", "-t", log_id, "-c", str(server)], stdout=output, stderr=subprocess.STDOUT
        )
    if done.returncode:
        raise StartFailed(f"Kafka's storage could not be formatted:\n{log.read_text()[-2000:]}")
