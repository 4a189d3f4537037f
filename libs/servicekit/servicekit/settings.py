"""The base of every process's settings: environment variables `MILLRACE_<NAME>`, read once, all problems at once.

pydantic-settings alone has three traps, closed here: errors that print other variables' values (secrets in clear),
unknown `MILLRACE_*` names that pass unseen, and errors that name the field instead of the variable.
"""

import difflib
import os
import sys
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, SettingsConfigDict

from servicekit import ports
from servicekit.failpoints import Failpoint

PREFIX: Final = "MILLRACE_"
EXIT_BAD_INPUT: Final = 2

S = TypeVar("S", bound="ProcessSettings")


def checkout_root() -> Path:
    """The checkout that this code runs from; the working directory where it is installed as a wheel (an image)."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "protos").is_dir() and (root / "libs").is_dir() else Path.cwd()


class Derived:
    """A default computed from settings that were read before it, with the text that documentation shows for it."""

    def __init__(self, text: str, compute: Callable[[Mapping[str, Any]], Any]) -> None:
        self._compute = compute
        self.text = text

    def __call__(self, read: dict[str, Any]) -> Any:
        """The default, from what was read before it."""
        return self._compute(read)


def under_home(path: str) -> Derived:
    """Default of a folder or file below `MILLRACE_HOME`: `Field(default_factory=under_home("data/online"))`."""
    return Derived(f"{PREFIX}HOME/{path}", lambda read: read["home"] / path)


def in_checkout(path: str) -> Derived:
    """Default of a path in the checkout: `Field(default_factory=in_checkout("usecases"))`."""
    return Derived(f"{path}/ in the checkout", lambda _: checkout_root() / path)


def local_port(base: int) -> Derived:
    """Default of a port of ours: `base` plus `MILLRACE_PORT_OFFSET`."""
    return Derived(f"{base} + {PREFIX}PORT_OFFSET", lambda read: base + int(read["port_offset"]))


def local_endpoint(base: int) -> Derived:
    """Default `host:port` of a neighbour on this machine: `base` plus `MILLRACE_PORT_OFFSET`."""
    return Derived(
        f"127.0.0.1:{base} + {PREFIX}PORT_OFFSET", lambda read: f"127.0.0.1:{base + int(read['port_offset'])}"
    )


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _folder_or_uri(value: object) -> object:
    return value if isinstance(value, str) and "://" in value else str(_absolute(Path(str(value))))


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _is_endpoint(value: str) -> str:
    for part in value.split(","):
        host, _, port = part.strip().rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("must be host:port, with a port from 1 to 65535")
    return value


def _failpoint(value: object) -> object:
    return Failpoint.parse(value) if isinstance(value, str) else value


def refused_in_production(why: str, when: Callable[[Any], bool] = bool) -> AfterValidator:
    """Marks a development convenience: `MILLRACE_ENV=production` refuses a value for which `when` is true.

    `allow_request_time: Annotated[bool, refused_in_production("a caller must not choose the time")] = False`
    """

    def check(value: Any, info: ValidationInfo) -> Any:
        if info.data.get("env") == "production" and when(value):
            raise ValueError(f"refused in production: {why}; unset it, or set {PREFIX}ENV=development")
        return value

    return AfterValidator(check)


def _is_offset(value: int) -> int:
    if 900 < value < 11_000:  # there stacks would meet each other's ports; the spare stacks of tests lie beyond
        raise ValueError("take a multiple of 100 from 0 to 900")
    return value


Folder = Annotated[Path, AfterValidator(_absolute)]
FolderOrUri = Annotated[str, BeforeValidator(_folder_or_uri)]  # a Path would take one slash out of `s3://`
Endpoint = Annotated[str, AfterValidator(_is_endpoint)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
TestOnly = Annotated[
    Failpoint | None, BeforeValidator(_failpoint), refused_in_production("it ends the process on purpose")
]


class ProcessSettings(BaseSettings):
    """What every process reads. A subclass adds its own fields; each field's description is a row of its README."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # else one missing variable prints the others, secrets in clear
        enable_decoding=False,  # else JSON errors of one field hide all others
        env_ignore_empty=True,  # an overlay unsets a variable by leaving it empty
        validate_default=True,
    )

    # `env`, `home` and `port_offset` come first: derived defaults and production checks read them.
    env: Literal["development", "production"] = Field(
        default="development", description="`production` refuses development conveniences."
    )
    home: Folder = Field(default_factory=in_checkout(".millrace"), description="Folder of all local state.")
    port_offset: Annotated[int, AfterValidator(_is_offset)] = Field(
        default=0,
        ge=0,
        le=11_900,  # what the spare stacks of tests have
        multiple_of=100,
        description="Added to every port, so that a second stack fits beside the first.",
    )
    usecases: Names = Field(
        default=("movies",),
        min_length=1,
        description="Use cases that the process serves: names or YAML paths, comma-separated.",
    )
    usecase_dir: Folder = Field(
        default_factory=in_checkout("usecases"), description="Folder of the use cases' YAML files."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe log line written."
    )
    log_id: str | None = Field(default=None, description="Identity of the log; unset = Kafka's cluster id.")
    kafka: Endpoint = Field(
        default_factory=local_endpoint(ports.KAFKA), description="host:port of a Kafka broker; several comma-separated."
    )
    bind: str = Field(default="127.0.0.1", description="Address that the process listens on.")
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of /live, /ready and /metrics; unset = the process's own + offset; 0 = any.",
    )
    failpoint: TestOnly = Field(
        default=None, description="For tests: `name:N:kill`, `pause` or `raise` the Nth time at a named place."
    )

    def unusable(self) -> list[str]:
        """What is wrong with files that the settings name, one line each; read when the process starts, not before."""
        return []

    def port(self, base: int) -> int:
        """A port of `servicekit.ports`, moved by the offset."""
        return base + self.port_offset


def declared_names(cls: type[ProcessSettings]) -> set[str]:
    """The `MILLRACE_*` names that a process with these settings accepts; a supervisor passes only those."""
    return {PREFIX + name.upper() for name in cls.model_fields}


def problems(cls: type[S], *, also: Set[str] = frozenset()) -> list[str]:
    """Everything that is wrong with the environment for this class, one line each, naming the variable; [] if nothing.

    `also` are further names that may be set: those that a command passes on. Never shows a value: it may be a secret.
    """
    unknown = [name for name in unknown_names(cls, os.environ) if name.upper() not in also]
    found = [f"{name}: {_unknown(declared_names(cls) | also, name)}" for name in unknown]
    try:
        cls()
    except ValidationError as exc:
        found.extend(_explain(exc))
    return found


def unknown_names(cls: type[ProcessSettings], environ: Mapping[str, str]) -> list[str]:
    """Names in the environment that begin with `MILLRACE_` and are not this class's, sorted."""
    declared = declared_names(cls)
    return sorted(name for name in environ if name.upper().startswith(PREFIX) and name.upper() not in declared)


def _unknown(known: Set[str], name: str) -> str:
    near = difflib.get_close_matches(name.upper(), known, n=1)
    return f"this process reads no such variable; {f'is {near[0]} meant?' if near else 'unset it'}"


def _explain(exc: ValidationError) -> list[str]:
    lines = []
    for error in exc.errors(include_url=False, include_input=False, include_context=False):
        if error["type"] == "default_factory_not_called":  # follows from another line
            continue
        name = PREFIX + str(error["loc"][0]).upper() if error["loc"] else "settings"
        lines.append(f"{name}: {error['msg'].removeprefix('Value error, ')}")
    return lines


def load_settings(cls: type[S]) -> S:
    """Read the environment once. Every problem goes to stderr, one line each, and the process exits with 2."""
    found = problems(cls) or cls().unusable()
    if found:
        sys.stderr.write(f"{len(found)} problem{'s' if len(found) > 1 else ''} with the environment:\n")
        sys.stderr.writelines(f"  {line}\n" for line in found)
        raise SystemExit(EXIT_BAD_INPUT)
    return cls()


def settings_table(cls: type[ProcessSettings]) -> str:
    """The README's table: one Markdown row a setting. A test compares it with the README."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    rows += [
        f"| `{PREFIX}{name.upper()}` | {_default_text(field)} | {field.description or ''} |"
        for name, field in cls.model_fields.items()
    ]
    return "\n".join(rows) + "\n"


def _default_text(field: FieldInfo) -> str:
    if isinstance(field.default_factory, Derived):
        return f"`{field.default_factory.text}`"
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "unset"
    if isinstance(field.default, tuple):
        return f"`{','.join(map(str, field.default))}`"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
