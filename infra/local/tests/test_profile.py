"""Which profile a machine can run, and what `doctor` says of it."""

from pathlib import Path

import pytest
from local_stack.doctor import examine
from local_stack.errors import MissingProgram
from local_stack.home import Home
from local_stack.plan import choose_profile


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder that is the PATH of a machine; `install` puts programs there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def install(machine: Path, name: str, said: str = "") -> None:
    """A program that says something on stderr."""
    program = machine / name
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    program.chmod(0o755)


def test_java_17_and_maven_make_the_real_profile(machine: Path) -> None:
    """The default is the real thing wherever it can run."""
    install(machine, "java", 'openjdk version "17.0.15" 2025-04-15')
    install(machine, "mvn")

    assert choose_profile(None, {"PATH": str(machine)}) == ("real", "Java 17 and Maven are here")


def test_without_java_the_embedded_profile_says_why(machine: Path) -> None:
    """And with what it would be the real one."""
    profile, why = choose_profile(None, {"PATH": str(machine)})

    assert profile == "embedded"
    assert why == "Java 17 is not installed (Debian: apt install openjdk-17-jre-headless)"


@pytest.mark.parametrize(("said", "version"), [('openjdk version "21.0.2"', 21), ('java version "1.8.0_292"', 8)])
def test_another_java_is_named(machine: Path, said: str, version: int) -> None:
    """Kafka 4 and Cassandra 5.0 share only one version."""
    install(machine, "java", said)
    install(machine, "mvn")

    assert f"Java is {version}" in choose_profile(None, {"PATH": str(machine)})[1]


def test_java_home_wins_over_path(machine: Path, tmp_path: Path) -> None:
    """A second Java beside the system's is enough."""
    install(machine, "java", 'openjdk version "21.0.2"')
    install(machine, "mvn")
    (tmp_path / "jdk" / "bin").mkdir(parents=True)
    install(tmp_path / "jdk" / "bin", "java", 'openjdk version "17.0.1"')

    assert choose_profile(None, {"PATH": str(machine), "JAVA_HOME": str(tmp_path / "jdk")})[0] == "real"


def test_the_real_profile_is_refused_with_the_remedy(machine: Path) -> None:
    """Asked for by name, it is never silently another one."""
    install(machine, "java", 'openjdk version "17.0.15"')

    with pytest.raises(MissingProgram, match=r"Maven is not installed .*apt install maven.*--profile embedded"):
        choose_profile("real", {"PATH": str(machine)})


def test_doctor_names_what_is_missing_and_who_needs_it(machine: Path, home: Home) -> None:
    """Each missing thing with its remedy; nothing of it stops the embedded profile."""
    checks = {check.name: check for check in examine(home, 0, {"PATH": str(machine)})}

    assert {name for name in ("Java 17", "Maven", "Valkey or Redis") if not checks[name].ok} == {
        "Java 17",
        "Maven",
        "Valkey or Redis",
    }
    assert "apt install maven" in checks["Maven"].remedy
    assert "Kafka and Cassandra" in checks["Maven"].needed_by
    assert not any(checks[name].fatal for name in ("Java 17", "Maven", "Valkey or Redis"))
    assert checks["Python"].ok
