"""Finds Java 17: the one version that both Kafka 4 (17 and up) and Cassandra 5.0 (11, 17) name."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WANTED = 17


@dataclass(frozen=True)
class Java:
    """A Java runtime: the path of its `java`, and its major version."""

    path: str
    version: int


def find_java(environ: Mapping[str, str]) -> Java | None:
    """Java 17 at JAVA_HOME or on PATH; else another version found there, or None. Callers check `version`."""
    homes = [str(Path(environ["JAVA_HOME"]) / "bin" / "java")] if environ.get("JAVA_HOME") else []
    found = [shutil.which(path, path=environ.get("PATH")) for path in [*homes, "java"]]
    runtimes = [Java(path, version) for path in found if path and (version := _major(path))]
    wanted = [runtime for runtime in runtimes if runtime.version == WANTED]
    return next(iter(wanted + runtimes), None)


def lacking(java: Java | None, environ: Mapping[str, str]) -> str | None:
    """What the real profile lacks, with its remedy; None when Java 17 and Maven are here."""
    return java_lacking(java) or maven_lacking(environ)


def java_lacking(java: Java | None) -> str | None:
    """Why this is not the Java that the real profile needs, with the remedy; None if it is."""
    if java is None:
        return "Java 17 is not installed (Debian: apt install openjdk-17-jre-headless)"
    if java.version != WANTED:
        return f"Java is {java.version}, but Kafka 4 and Cassandra 5.0 share only 17 (set JAVA_HOME to a Java 17)"
    return None


def maven_lacking(environ: Mapping[str, str]) -> str | None:
    """That Maven is missing, with the remedy; None if it is here."""
    found = shutil.which("mvn", path=environ.get("PATH"))
    return None if found else "Maven is not installed (Debian: apt install maven)"


def _major(path: str) -> int:
    """Major version that `path -version` prints on stderr; 0 if it does not run."""
    try:
        said = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=20).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(match.group(1)) if match else 0
