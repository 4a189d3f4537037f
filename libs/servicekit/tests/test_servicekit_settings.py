"""Settings: all problems at once, by the variable's name, and never a value."""

import os
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, SecretStr
from servicekit.settings import (
    PREFIX,
    FolderOrUri,
    ProcessSettings,
    checkout_root,
    declared_names,
    load_settings,
    local_port,
    problems,
    refused_in_production,
    settings_table,
    under_home,
)

SECRET = "hunter2-canary"  # noqa: S105  a planted canary


class Example(ProcessSettings):
    """A process of these tests."""

    password: SecretStr = Field(description="A secret.")
    workers: int = Field(default=1, gt=0, description="How many.")
    lake: Path = Field(default_factory=under_home("lake"), description="Where tables are.")
    grpc_port: int = Field(default_factory=local_port(50052), description="Port of its own.")
    shortcut: Annotated[bool, refused_in_production("it skips checks")] = Field(default=False, description="Unsafe.")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing but a good minimum is set."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MILLRACE_PASSWORD", SECRET)
    return monkeypatch


def test_every_problem_is_told_at_once_by_the_name_of_its_variable(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One start tells all that is wrong, exits with 2, and shows no value."""
    environment.delenv("MILLRACE_PASSWORD")
    environment.setenv("MILLRACE_WORKERS", f"many-{SECRET}")
    environment.setenv("MILLRACE_PORT_OFFSET", "150")
    environment.setenv("MILLRACE_KAFKA", f"{SECRET}")
    environment.setenv("MILLRACE_KAFAK", f"{SECRET}:9092")

    with pytest.raises(SystemExit) as exit_:
        load_settings(Example)

    told = capsys.readouterr().err
    assert 2 == exit_.value.code
    assert [
        "MILLRACE_KAFAK",
        "MILLRACE_KAFKA",
        "MILLRACE_PASSWORD",
        "MILLRACE_PORT_OFFSET",
        "MILLRACE_WORKERS",
    ] == sorted(line.split(":")[0].strip() for line in told.splitlines()[1:])
    assert "is MILLRACE_KAFKA meant?" in told
    assert SECRET not in told


def test_another_processs_variable_is_refused(environment: pytest.MonkeyPatch) -> None:
    """A process reads what it declares: a neighbour's setting here is a mistake in the deployment."""
    environment.setenv("MILLRACE_TRITON", "127.0.0.1:8001")

    (problem,) = problems(Example)

    assert problem.startswith("MILLRACE_TRITON: ")


def test_a_name_in_small_letters_is_refused_too_if_unknown(environment: pytest.MonkeyPatch) -> None:
    """Environment names are read without case, so they are checked without it."""
    environment.setenv("millrace_trition", "x")

    assert 1 == len(problems(Example))


def test_a_secret_is_never_shown() -> None:
    """Neither printing nor the representation of good settings shows a secret."""
    settings = load_settings(Example)

    assert SECRET == settings.password.get_secret_value()
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()}"


def test_defaults_follow_home_and_offset(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A second stack needs only MILLRACE_HOME and MILLRACE_PORT_OFFSET."""
    environment.setenv("MILLRACE_HOME", str(tmp_path))
    environment.setenv("MILLRACE_PORT_OFFSET", "200")
    environment.setenv("MILLRACE_USECASES", "movies, usecases/shop.yaml")

    settings = load_settings(Example)

    assert (tmp_path / "lake", 50252, "127.0.0.1:9292") == (settings.lake, settings.grpc_port, settings.kafka)
    assert ("movies", "usecases/shop.yaml") == settings.usecases


@pytest.mark.parametrize(
    ("given", "expected"),
    [("s3://bucket/lake", "s3://bucket/lake"), ("/data/lake", "/data/lake"), ("lake", str(Path.cwd() / "lake"))],
)
def test_tables_may_lie_in_an_object_store(environment: pytest.MonkeyPatch, given: str, expected: str) -> None:
    """A URI stays as it is; a folder becomes absolute, since processes have other working directories."""

    class Tables(Example):
        tables: FolderOrUri = Field(default_factory=under_home("tables"), description="Where tables are.")

    assert str(checkout_root() / ".millrace" / "tables") == load_settings(Tables).tables
    environment.setenv("MILLRACE_TABLES", given)

    assert expected == load_settings(Tables).tables


def test_an_empty_variable_is_as_an_unset_one(environment: pytest.MonkeyPatch) -> None:
    """An overlay takes a setting back by leaving it empty."""
    environment.setenv("MILLRACE_WORKERS", "")

    assert 1 == load_settings(Example).workers


def test_home_is_in_the_checkout_by_default() -> None:
    """The default home does not depend on the working directory."""
    assert checkout_root() / ".millrace" == load_settings(Example).home
    assert (checkout_root() / "protos").is_dir()


def test_a_broken_home_is_one_problem_not_many(environment: pytest.MonkeyPatch) -> None:
    """Defaults derived from a bad setting are not reported beside it."""
    environment.setenv("MILLRACE_PORT_OFFSET", "-100")

    (problem,) = problems(Example)

    assert problem.startswith("MILLRACE_PORT_OFFSET: ")


@pytest.mark.parametrize("offset", ["1000", "10900", "12000"])
def test_an_offset_at_which_stacks_would_meet_is_refused(environment: pytest.MonkeyPatch, offset: str) -> None:
    environment.setenv("MILLRACE_PORT_OFFSET", offset)

    (problem,) = problems(Example)

    assert problem.startswith("MILLRACE_PORT_OFFSET: ")


@pytest.mark.parametrize(("env", "expected"), [("development", 0), ("production", 1)])
def test_production_refuses_a_development_convenience(environment: pytest.MonkeyPatch, env: str, expected: int) -> None:
    """What is handy on a laptop does not start in production, and the refusal says why."""
    environment.setenv("MILLRACE_ENV", env)
    environment.setenv("MILLRACE_SHORTCUT", "true")

    found = problems(Example)

    assert expected == len(found)
    assert all(line.startswith("MILLRACE_SHORTCUT: refused in production: it skips checks") for line in found)


def test_settings_do_not_change_after_the_start() -> None:
    """One reading of the environment, one truth."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings(Example).workers = 2


def test_declared_names_are_what_the_process_accepts() -> None:
    """The supervisor passes these and nothing else."""
    names = declared_names(Example)

    assert {"MILLRACE_HOME", "MILLRACE_ENV", "MILLRACE_PORT_OFFSET", "MILLRACE_USECASES", "MILLRACE_LAKE"} < names
    assert "MILLRACE_TRITON" not in names


def test_the_table_has_a_row_for_each_setting() -> None:
    """The README's table is the class, so a new field without its row is seen."""
    rows = settings_table(Example).splitlines()[2:]

    assert declared_names(Example) == {row.split("`")[1] for row in rows}
    assert "| `MILLRACE_PASSWORD` | required | A secret. |" in rows
    assert "| `MILLRACE_LAKE` | `MILLRACE_HOME/lake` | Where tables are. |" in rows
    assert "| `MILLRACE_SHORTCUT` | `false` | Unsafe. |" in rows


def test_the_readme_has_the_common_settings() -> None:
    """The README is what the class says."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()

    assert settings_table(ProcessSettings) in readme
