"""What is documented exists, and what exists is documented: settings, metrics, topics, RPCs, commands, links."""

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from definitions.layout import layout_of
from definitions.usecase import load_usecase
from millrace.collector.v1 import collector_pb2
from millrace.ranking.v1 import ranking_pb2
from millrace_cli import bench
from millrace_cli.main import COMMANDS, Commands
from servicekit.settings import ProcessSettings, declared_names, settings_table

ROOT = Path(__file__).parents[2]
SERVICES = ("collector", "features", "archiver", "gateway", "simulator")
SETTINGS = {
    **{f"services/{name}/README.md": f"{name}.settings" for name in SERVICES},
    "pipelines/README.md": "pipelines.settings",
    "cli/README.md": "millrace_cli.settings",
}
REFERENCE = ROOT / "docs" / "reference.md"

# What the services call to make a series -> whether it is a counter, whose name ends in `_total`.
MAKES_A_METRIC = {
    **dict.fromkeys(("Counter", "counter"), True),
    **dict.fromkeys(("Gauge", "gauge", "Histogram", "LoopHistogram", "histogram", "seconds", "watch", "_watch"), False),
}


def tracked() -> list[Path]:
    """Every file of the repository as it would be committed, symbolic links left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # noqa: S607
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    paths = [ROOT / name for name in listed if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


@cache
def pages() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in tracked() if path.suffix == ".md"}


def settings_of(module: str) -> type[ProcessSettings]:
    found: type[ProcessSettings] = importlib.import_module(module).Settings
    return found


def first_column(text: str, heading: str) -> set[str]:
    """First cells of the first table under `## heading`, without their backticks."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE))


def metrics_in_code() -> set[str]:
    """Names of all series that our processes make, by reading the calls that make them."""
    found = set()
    folders = {name: ROOT / "services" / name / name for name in SERVICES}
    for prefix, folder in {**folders, "<process>": ROOT / "libs" / "servicekit" / "servicekit"}.items():
        for path in folder.rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and (name := _made_by(call, prefix)):
                    found.add(name)
    return found


def _made_by(call: ast.Call, prefix: str) -> str | None:
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if function not in MAKES_A_METRIC or len(call.args) < 2:
        return None
    first = call.args[0]
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        name = first.value if first.value.startswith(f"{prefix}_") else f"{prefix}_{first.value}"
    elif isinstance(first, ast.JoinedStr) and prefix == "<process>" and isinstance(first.values[-1], ast.Constant):
        name = f"{prefix}{first.values[-1].value}"
    else:  # a helper that takes the name
        return None
    return f"{name}_total" if MAKES_A_METRIC[function] and not name.endswith("_total") else name


def code_of(text: str) -> Iterator[str]:
    """Lines of fenced blocks without a language, and spans in backticks, comments cut off."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        if language in ("", "bash", "sh"):
            yield from (line.split("  #")[0].strip() for line in block.splitlines())
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def typed(program: str) -> list[tuple[str, str]]:
    """(page, what follows the program) of every documented call."""
    return [
        (str(path.relative_to(ROOT)), match.group(1))
        for path, text in pages().items()
        for code in code_of(text)
        for part in code.split("&&")
        if (match := re.match(rf"(?:MILLRACE_\w+=\S+ )*{program} ([a-z].*)", part.strip()))
    ]


@pytest.mark.parametrize("page", SETTINGS)
def test_a_settings_table_is_what_the_process_reads(page: str) -> None:
    """Generated from the class, so that it is complete, in order, and has the defaults."""
    assert settings_table(settings_of(SETTINGS[page])) in (ROOT / page).read_text(encoding="utf-8")


def test_settings_that_docs_name_exist() -> None:
    """A variable that no process declares is refused at start."""
    known = {name for module in SETTINGS.values() for name in declared_names(settings_of(module))}
    named = {
        (str(path.relative_to(ROOT)), name)
        for path, text in pages().items()
        for name in re.findall(r"\bMILLRACE_[A-Z][A-Z_]*[A-Z]\b", text)
    }

    assert [] == sorted((page, name) for page, name in named if name not in known)


def test_every_metric_is_documented_and_every_documented_metric_exists() -> None:
    """An operator finds a series by its name, and an alert on one that is gone never fires."""
    assert metrics_in_code() == first_column(REFERENCE.read_text(encoding="utf-8"), "Metrics")


def test_the_metric_reader_sees_what_the_services_register() -> None:
    """Held to a real registry, so that a new way to make a series does not slip past it."""
    registry = importlib.import_module("prometheus_client").CollectorRegistry()
    importlib.import_module("gateway.metrics").Metrics(registry)
    found = {f"{each.name}_total" if each.type == "counter" else each.name for each in registry.collect()}

    assert found
    assert found <= metrics_in_code()


def test_every_topic_is_documented() -> None:
    """With the names of the declaration."""
    declared = yaml.safe_load((ROOT / "infra" / "kafka" / "topics.yaml").read_text(encoding="utf-8"))["topics"]

    assert set(declared) == first_column(REFERENCE.read_text(encoding="utf-8"), "Topics")


def test_every_rpc_is_documented() -> None:
    """As a caller writes it."""
    rpcs = {
        f"{service.full_name}/{method.name}"
        for module in (collector_pb2, ranking_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }

    assert rpcs == first_column(REFERENCE.read_text(encoding="utf-8"), "RPCs")


def test_documented_commands_and_their_options_exist() -> None:
    """Whoever copies a line from a page gets what it says."""
    calls = typed("millrace")
    wrong = []
    for page, call in calls:
        name, *words = call.split()
        command = Commands().get_command(None, name)
        while words and (parts := getattr(command, "commands", None)) is not None:  # a group: go on to its part
            command = parts.get(words.pop(0))
        if command is None:
            wrong.append((page, call))
            continue
        options = {option for parameter in command.params for option in parameter.opts}
        given = {word.split("=")[0] for word in words if word.startswith("--")}
        wrong += [(page, call, option) for option in given - options - {"--help"}]

    assert len(calls) > 20
    assert [] == wrong


def test_every_command_is_in_the_readme() -> None:
    """The front page shows all that there is to type."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [] == [name for name in COMMANDS if not re.search(rf"`(millrace )?{name}`", text)]


def test_every_bench_is_documented_and_has_a_module() -> None:
    """A figure that is promised can be measured, by the name that the table gives."""
    rows = first_column(REFERENCE.read_text(encoding="utf-8"), "Benches")
    commands = {
        f"millrace bench {command.name or command.callback.__name__}" for command in bench.app.registered_commands
    }
    modules = {f"millrace bench {path.stem}" for path in (ROOT / "pipelines/pipelines/bench").glob("[a-z]*.py")}

    assert rows == commands
    assert commands <= modules


def test_documented_make_targets_exist() -> None:
    """As the Makefile's menu shows them."""
    targets = set(
        re.findall(r"^([a-z][a-z0-9-]*):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    calls = typed("make")

    assert len(calls) > 3
    assert [] == [(page, call) for page, call in calls if call.split()[0] not in targets]


def test_links_between_pages_resolve() -> None:
    """Files and headings alike; only links to the outside are left alone."""
    wrong = []
    for path, text in pages().items():
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
            if target.startswith(("http://", "https://", "mailto:")):
                continue
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            if not there.exists():
                wrong.append((str(path.relative_to(ROOT)), target))
            elif anchor and there.suffix == ".md":
                headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
                if anchor not in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}:
                    wrong.append((str(path.relative_to(ROOT)), target))

    assert [] == wrong


def test_pages_that_code_names_exist() -> None:
    """A comment that sends its reader to a page that is not there explains nothing. Paths begin at the root."""
    made = {"model_card.md"}  # by a training, into its bundle
    wrong = []
    for path in tracked():
        if path.name == "uv.lock" or path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # images, bundles
            continue
        if path.suffix == ".md":  # their links are tested above; here the names in backticks
            text = "\n".join(re.findall(r"`[^`\n]+`", text))
        named = set(re.findall(r"[\w./-]+\.md\b", text)) - made
        absent = [page for page in named if not any((start / page).is_file() for start in (ROOT, path.parent))]
        wrong += [(str(path.relative_to(ROOT)), page) for page in absent]

    assert [] == wrong


def test_every_member_has_a_readme() -> None:
    """The first thing that is opened in a folder."""
    members = [path.parent for path in tracked() if path.name == "pyproject.toml" and path.parent != ROOT]

    assert [] == [str(m.relative_to(ROOT)) for m in members if m.name != "protos" and not (m / "README.md").exists()]


def test_decisions_are_short_and_complete() -> None:
    """Pages of at most 40 lines with the same four parts, numbered without a gap, each on the list."""
    folder = ROOT / "docs" / "adr"
    decisions = sorted(folder.glob("[0-9]*.md"))
    listed = (folder / "README.md").read_text(encoding="utf-8")

    assert list(range(1, len(decisions) + 1)) == [int(path.name[:4]) for path in decisions]
    for path in decisions:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 40, path.name
        assert ["Context", "Decision", "Rejected", "Consequence"] == re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert f"({path.name})" in listed


def test_the_example_use_case_is_one(tmp_path: Path) -> None:
    """The page on bringing your own data shows a file that loads, with features that have columns."""
    page = (ROOT / "docs" / "bring-your-own-data.md").read_text(encoding="utf-8")
    block = re.search(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    path = tmp_path / "shop.yaml"
    path.write_text(block.group(1))

    assert len(layout_of(load_usecase(path)).feature_names) > 5


def test_no_file_names_the_machine_it_was_written_on() -> None:
    """A path of somebody's own folder works for nobody else."""
    private = re.compile("|".join(re.escape(start) for start in ("/" + "work/", "/tmp/" + "plan", "/" + "root/")))  # noqa: S108

    named = []
    for path in tracked():
        if path.name == "uv.lock":
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # images, bundles
            continue
        named += [(str(path.relative_to(ROOT)), found) for found in set(private.findall(text))]

    assert [] == named
