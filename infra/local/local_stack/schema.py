"""`python -m local_stack.schema`: topics and tables on servers that somebody else runs; the Kubernetes Job.

Every step may be repeated. Exit codes: 0 done, 2 a declaration is wrong, 3 a server does not answer.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from local_stack.cql import CassandraError, apply_schema
from local_stack.errors import DeclarationError, StackError
from local_stack.topics import create_topics, declared_topics


def main(arguments: Sequence[str] | None = None) -> int:
    """Create what is missing and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local_stack.schema", description=__doc__.splitlines()[0])
    parser.add_argument("--kafka", required=True, help="host:port of a broker")
    parser.add_argument("--topics", required=True, type=Path, help="topics.yaml")
    parser.add_argument("--usecases", required=True, help="names, comma-separated")
    parser.add_argument("--replication", type=int, default=1, help="copies of each topic")
    parser.add_argument("--cassandra", help="host:port; without it no tables")
    parser.add_argument("--cql", type=Path, help="schema.cql")
    options = parser.parse_args(arguments)
    if options.cassandra and options.cql is None:
        parser.error("--cassandra needs --cql")
    usecases = [name.strip() for name in options.usecases.split(",") if name.strip()]
    try:
        topics = declared_topics(options.topics, usecases)
        made = create_topics(options.kafka, topics, replication=options.replication)
        sys.stdout.write(f"topics: {len(topics)} declared, {len(made)} created\n")
        if options.cassandra:
            host, _, port = options.cassandra.rpartition(":")
            apply_schema(host, int(port), options.cql)
            sys.stdout.write("tables: applied\n")
    except DeclarationError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    except (StackError, CassandraError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
