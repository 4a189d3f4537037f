"""Apache Cassandra from Maven Central's jars: one node, loopback only, no JMX."""

from pathlib import Path

import yaml

from local_stack.component import Component
from local_stack.dist import fetch_jars, jars_folder
from local_stack.home import Home
from local_stack.java import Java
from local_stack.ports import Ports
from local_stack.probes import Probe

_LOGBACK = """\
<configuration>
  <appender name="console" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{ISO8601} %-5level %logger{20}: %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="console"/></root>
  <logger name="org.apache.cassandra.service" level="INFO"/>
</configuration>
"""

_EXPORTS = (
    "java.base/jdk.internal.misc",
    "java.base/java.lang.ref",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "jdk.unsupported/sun.misc",
    "jdk.compiler/com.sun.tools.javac.file",
    "jdk.attach/sun.tools.attach",
)
_OPENS = (
    *(f"java.base/java.{name}" for name in ("lang", "lang.module", "lang.reflect", "io", "nio", "util")),
    "java.base/sun.nio.ch",
    *(f"java.base/jdk.internal.{name}" for name in ("loader", "ref", "reflect", "math", "module", "util.jar")),
    "jdk.management/com.sun.management.internal",
    "jdk.compiler/com.sun.tools.javac",
)


def cassandra(home: Home, ports: Ports, java: Java) -> Component:
    """The node; its data lies in `data/cassandra`."""
    config = home.config / "cassandra"
    folder = jars_folder(home, "cassandra")

    def prepare() -> None:
        config.mkdir(parents=True, exist_ok=True)
        (home.data / "cassandra").mkdir(parents=True, exist_ok=True)
        (config / "logback.xml").write_text(_LOGBACK)
        (config / "cassandra.yaml").write_text(settings(home, ports))

    return Component(
        name="cassandra",
        wave=1,
        command=_command(home, config, folder, java),
        ports={"cassandra": ports.cassandra, "storage": ports.cassandra_storage},
        probe=Probe("cassandra", f"127.0.0.1:{ports.cassandra}"),
        start_s=120,
        stop_s=30,
        download=folder,
        fetch=lambda: fetch_jars(home, "cassandra"),
        prepare=prepare,
    )


def _command(home: Home, config: Path, folder: Path, java: Java) -> list[str]:
    own = {
        "config": f"file://{config}/cassandra.yaml",
        "storagedir": str(home.data / "cassandra"),
        "ring_delay_ms": "0",
        "skip_wait_for_gossip_to_settle": "0",
        "superuser_setup_delay_ms": "0",
    }
    other = {
        "cassandra-foreground": "yes",
        "logback.configurationFile": f"{config}/logback.xml",
        "java.net.preferIPv4Stack": "true",
        "jdk.attach.allowAttachSelf": "true",
        "io.netty.tryReflectionSetAccessible": "true",
    }
    return [
        java.path,
        f"-javaagent:{folder}/jamm-0.4.0.jar",
        *("-Xms512m", "-Xmx1g", "-Xss512k", "-XX:+ExitOnOutOfMemoryError"),
        # Its second compiler took a core for many seconds, and the gateway beside it lacked that. Without it, and with
        # serial collection, a start takes 5.3 s of processor, not 8.6, and lists are written and read no slower.
        *("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        f"-XX:ErrorFile={home.log}/cassandra-hs_err.log",
        *(f"-Dcassandra.{name}={value}" for name, value in own.items()),
        *(f"-D{name}={value}" for name, value in other.items()),
        *(part for name in _EXPORTS for part in ("--add-exports", f"{name}=ALL-UNNAMED")),
        *(part for name in _OPENS for part in ("--add-opens", f"{name}=ALL-UNNAMED")),
        *("-cp", f"{folder}/*", "org.apache.cassandra.service.CassandraDaemon"),
    ]


def settings(home: Home, ports: Ports) -> str:
    """`cassandra.yaml`: one token, so that a start has no ring to settle."""
    data = home.data / "cassandra"
    seeds = {"class_name": "org.apache.cassandra.locator.SimpleSeedProvider"}
    return yaml.safe_dump(
        {
            "cluster_name": "millrace",
            "num_tokens": 1,
            "initial_token": "0",
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "commitlog_sync": "periodic",
            "commitlog_sync_period": "1000ms",
            "commitlog_directory": str(data / "commitlog"),
            "data_file_directories": [str(data / "data")],
            "hints_directory": str(data / "hints"),
            "saved_caches_directory": str(data / "saved_caches"),
            "cdc_raw_directory": str(data / "cdc_raw"),
            "seed_provider": [seeds | {"parameters": [{"seeds": f"127.0.0.1:{ports.cassandra_storage}"}]}],
            "listen_address": "127.0.0.1",
            "rpc_address": "127.0.0.1",
            "storage_port": ports.cassandra_storage,
            "native_transport_port": ports.cassandra,
            "endpoint_snitch": "SimpleSnitch",
            "authenticator": "AllowAllAuthenticator",
        },
        sort_keys=False,
    )
