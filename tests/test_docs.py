"""The documents are true: every option, route, metric, event, module and state of the README is that of the code."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import click
import httpx
import msgspec
import pytest

from jobserver.builtin import handlers as builtin
from jobserver.cli import COMMANDS, group
from jobserver.cli.options import SECTIONS, ServerOption
from jobserver.cli.parameters import DURATION_TYPE, shown_duration
from jobserver.client import Client, SyncClient
from jobserver.http.app import OPERATIONS
from jobserver.http.openapi import document
from jobserver.job.lifecycle import TRANSITIONS
from jobserver.job.model import Priority, Status
from jobserver.job.reasons import Code
from jobserver.settings import Settings
from tests.conftest import Pair
from tests.grafana.files import rules
from tests.job.test_reasons import all_reasons
from tests.servers import running

PROJECT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = PROJECT / "jobserver"
README: Final = PROJECT / "README.md"
TEXT: Final = README.read_text(encoding="utf-8")

GLOSSARY: Final = {
    *("job", "type", "handler", "queue", "priority", "attempt", "lease", "fence", "outcome", "transition"),
    *("delivery", "message", "consumer", "worker", "snooze", "hand back", "reclaim", "reconcile", "replay"),
    *("dead letter", "claim", "API key", "audit", "scope", "callback"),
}

# Reading the page.


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """What stands below a heading, up to the next of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n", TEXT, re.MULTILINE)
    assert found is not None, title
    rest = TEXT[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def table(title: str, *header: str) -> list[list[str]]:
    """The cells of the table with this header in a section."""
    lines = iter(section(title).splitlines())
    for line in lines:
        if line.startswith("|") and cells(line) == list(header):
            next(lines)
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(cells(row))
            assert all(len(row) == len(header) for row in rows), title
            return rows
    raise AssertionError(f"no table {header} in {title!r}")


def cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def code(cell: str) -> str:
    """The name in a cell that is one name."""
    found = re.fullmatch(r"`([^`]+)`", cell)
    assert found is not None, cell
    return found[1]


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


# The states.


def test_the_drawn_states_are_the_table_of_the_lifecycle() -> None:
    [diagram] = blocks("mermaid")
    drawn: dict[tuple[str, str], str] = {}
    starts = set()
    for line in diagram.splitlines()[1:]:
        arrow = re.fullmatch(r"    (\S+) --> (\S+): (.+)", line)
        assert arrow is not None, line
        if arrow[1] == "[*]":
            starts.add(arrow[2])
        else:
            assert (arrow[1], arrow[2]) not in drawn, line
            drawn[arrow[1], arrow[2]] = arrow[3]
    assert drawn == {(old.value, new.value): ", ".join(sorted(why)) for (old, new), why in TRANSITIONS.items()}
    assert starts == {Status.QUEUED.value, Status.SCHEDULED.value}


def test_every_cause_of_a_transition_is_explained() -> None:
    explained = [row[0] for row in table("How a job lives", "cause", "means")]
    assert sorted(explained) == sorted(set().union(*TRANSITIONS.values()))


# Options and commands.


def server_options() -> list[ServerOption]:
    return [option for options in SECTIONS.values() for option in options]


def default_of(option: ServerOption) -> str:
    """A default as the page shows it."""
    field = next(field for field in msgspec.structs.fields(Settings) if field.name == option.field)
    if option.field == "log_format":
        return "console on a terminal, else json"
    if option.kind is click.BOOL:
        assert field.default is option.negated
        return "off"
    if field.default is None:
        return "every queue" if option.field == "queues" else "none"
    return f"`{shown_duration(field.default) if option.kind is DURATION_TYPE else field.default}`"


def test_every_option_of_serve_is_documented_with_its_default() -> None:
    documented = {row[0]: row for row in table("Configuration", "flag", "variable", "default", "meaning")}
    expected = {"`MODULE:HANDLERS`": ("`JOBSERVER_HANDLERS`", "none")} | {
        f"`--{option.name.replace('_', '-')}`": (f"`{option.variable}`", default_of(option))
        for option in server_options()
    }
    assert {name: (row[1], row[2]) for name, row in documented.items()} == expected
    assert all(row[3] for row in documented.values())


def test_every_setting_is_an_option_and_serve_has_no_other() -> None:
    fields = {field.name for field in msgspec.structs.fields(Settings)}
    assert {option.field for option in server_options()} | {"handlers"} == fields
    flags = {flag for parameter in command("serve").params for flag in parameter.opts}
    assert flags == {f"--{option.name.replace('_', '-')}" for option in server_options()} | {"handlers"}


def command(name: str) -> click.Command:
    found = group.get_command(click.Context(group), name)
    assert found is not None
    return found


def parameters(name: str) -> list[click.Parameter]:
    """Those of a command, and of the commands below it."""
    found = command(name)
    below = found.commands.values() if isinstance(found, click.Group) else ()
    return [*found.params, *(parameter for each in below for parameter in each.params)]


def test_every_command_is_documented_with_its_options() -> None:
    documented: dict[str, list[str]] = {}
    for name, does in table("Command line", "command", "does"):
        documented.setdefault(code(name).split()[1], []).append(f"{name} {does}")
    assert set(documented) == set(COMMANDS)
    for name, rows in documented.items():
        if name in {"serve", "recover", "migrate"}:
            continue  # theirs are those of the configuration
        # Of these the row may say what they are for.
        where = {"--database-url", "--data-dir"}
        shown = set(re.findall(r"--[a-z-]+", " ".join(rows))) - where
        options = {option for parameter in parameters(name) for option in parameter.opts if option[:2] == "--"}
        assert shown == options - {"--url", "--json", "--api-key", *where}, name


def test_recover_and_migrate_take_options_of_serve_alone() -> None:
    serve = {flag for parameter in command("serve").params for flag in parameter.opts}
    for name in ("recover", "migrate"):
        assert {flag for parameter in command(name).params for flag in parameter.opts} <= serve


def test_every_variable_of_the_environment_is_known_to_the_code() -> None:
    mentioned = set(re.findall(r"JOBSERVER_[A-Z_]*[A-Z]", TEXT))
    text = "".join(path.read_text(encoding="utf-8") for path in PROJECT.glob("tests/**/*.py") if path != Path(__file__))
    own = {"JOBSERVER_API_KEY", "JOBSERVER_URL", "JOBSERVER_HANDLERS", "JOBSERVER_VALKEY_SERVER"}
    tests = set(re.findall(r"JOBSERVER_TEST_[A-Z_]+", text))
    assert mentioned == {option.variable for option in server_options()} | own | tests


def test_every_flag_on_the_page_exists() -> None:
    # Those in the commands of other programs are theirs.
    others = {"--json", "--help", "--url"}
    known = {flag for name in COMMANDS for parameter in parameters(name) for flag in parameter.opts}
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(--[a-z-]+)", prose)) <= known | others


# HTTP.


def test_every_route_is_documented() -> None:
    paths: dict[str, dict[str, Any]] = document(OPERATIONS)["paths"]
    routes = sorted((method.upper(), path) for path, methods in paths.items() for method in methods)
    documented = sorted((code(row[0]), code(row[1])) for row in table("HTTP API", "method", "path", "does"))
    assert documented == routes


def test_every_status_of_an_error_is_documented() -> None:
    paths: dict[str, dict[str, Any]] = document(OPERATIONS)["paths"]
    answered = {
        int(status)
        for methods in paths.values()
        for operation in methods.values()
        for status in operation["responses"]
        if status.isdigit() and int(status) >= 400
    }
    # A router's own, the protocol's, and the fault that nobody expected: no operation declares them.
    assert {int(row[0]) for row in table("Errors and bounds", "status", "when")} == answered | {405, 431, 500}


def test_the_filters_of_the_list_are_documented() -> None:
    parameters = document(OPERATIONS)["paths"]["/jobs"]["get"]["parameters"]
    [row] = [row for row in table("HTTP API", "method", "path", "does") if row[:2] == ["`GET`", "`/jobs`"]]
    assert set(re.findall(r"`(\w+)`", row[2])) == {each["name"] for each in parameters if each["in"] == "query"}


def test_every_reason_is_documented_with_its_figures() -> None:
    rows = table("Why is it not running?", "code", "figures", "says")
    documented = {code(row[0]): {figure for figure in row[1].split(", ") if figure} for row in rows}
    assert sorted(documented) == sorted(get_args(Code))
    given: dict[str, set[str]] = {name: set() for name in documented}
    for reason in all_reasons():
        given[reason.code] |= set(reason.figures)
    # Where that many jobs wait that it was looked at.
    assert given == documented | {"jobs_ahead": documented["jobs_ahead"] - {"queued"}}


def test_every_builtin_type_is_documented() -> None:
    documented = {code(row[0]) for row in table("Built-in types", "type", "payload", "does")}
    assert documented == {handler.type for handler in builtin}


def test_the_examples_of_builtin_payloads_are_accepted() -> None:
    by_type = {handler.type: handler for handler in builtin}
    for name, payload, _ in table("Built-in types", "type", "payload", "does"):
        for example in re.findall(r"`(\{.*?\})`", payload):
            by_type[code(name)].decode(example.encode())


# Telemetry.


async def test_every_metric_is_documented_with_its_labels(sqlite_url: str, redis_url: str, redis_prefix: str) -> None:
    rows = table("Metrics", "metric", "labels", "meaning")
    documented = {code(row[0]): {label for label in row[1].split(", ") if label} for row in rows}
    assert len(documented) == len(rows)
    pair = Pair("sqlite", sqlite_url, redis_url, redis_prefix)
    async with running(pair) as server, httpx.AsyncClient(base_url=server.url) as client:
        async with Client(server.url) as jobs:
            await jobs.result((await jobs.submit("echo")).id)
        await server.sample.step()
        page = (await client.get("/metrics", headers={"accept": "application/openmetrics-text"})).text
    suffixes = {"counter": "_total", "info": "_info"}
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    assert set(documented) == {name + suffixes.get(kind, "") for name, kind in kinds.items()}
    for name, labels in re.findall(r"^(jobserver_\w+)\{(.*?)\} ", page, re.MULTILINE):
        found = set(re.findall(r'(\w+)="', labels)) - {"le"}
        metric = re.sub(r"_(bucket|count|sum)$", "", name)
        metric = re.sub(r"_created$", "_total", name) if metric not in documented else metric
        metric = metric if metric in documented else metric.removesuffix("_total")
        assert found == documented[metric], name


def test_every_alert_is_documented() -> None:
    documented = [(code(row[0]), row[2]) for row in table("Alerts", "alert", "fires when", "for", "what to do")]
    assert documented == [
        (rule["alert"], rule["for"].replace("m", " min") if "for" in rule else "–") for rule in rules()
    ]


_LEVELS: Final = {
    **{name: name for name in ("debug", "info", "warning", "error")},
    "exception": "error",
    "note": "info",
    "warn": "warning",
}
_LOGS: Final = {"logger", "log", "_log", "telemetry", "_telemetry"}
_EVENT: Final = re.compile(r"[a-z]+(_[a-z]+)+")


def logged_events() -> dict[str, set[str]]:
    """Every event that the code logs by name, with its levels."""
    events: dict[str, set[str]] = {}
    for path, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            event = node.args[0]
            if node.func.attr not in _LEVELS or ast.unparse(node.func.value).rpartition(".")[2] not in _LOGS:
                continue
            if isinstance(event, ast.Constant) and isinstance(event.value, str):
                # What is no name is a sentence, of the engines that are not ours.
                assert _EVENT.fullmatch(event.value) or path.parent.name == "embedded", (path, event.value)
                if _EVENT.fullmatch(event.value):
                    events.setdefault(event.value, set()).add(_LEVELS[node.func.attr])
    return events


def events_of_ends() -> set[str]:
    """The events of the ends of attempts, which telemetry looks up by how the attempt ended."""
    tree = ast.parse((PACKAGE / "telemetry" / "telemetry.py").read_text(encoding="utf-8"))
    [declared] = [
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "_EVENTS"
    ]
    assert isinstance(declared, ast.Dict)
    return {ast.literal_eval(value) for value in declared.values}


def test_every_log_event_is_documented_with_its_level() -> None:
    documented = {code(row[0]): set(row[1].split(", ")) for row in table("Logs", "event", "level", "when")}
    logged = logged_events()
    assert set(documented) == set(logged) | events_of_ends()
    assert {event: documented[event] for event in logged} == logged


# The page itself.


def test_every_json_block_is_json() -> None:
    found = blocks("json")
    assert found
    for block in found:
        json.loads(block)


def test_every_python_block_is_python() -> None:
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_the_submitted_job_of_the_page_has_fields_of_the_api() -> None:
    body = json.loads(next(block for block in blocks("json") if '"expires_at": "2099' in block))
    properties = document(OPERATIONS)["components"]["schemas"]["SubmitBody"]["properties"]
    assert set(body) | {"run_at"} == set(properties)


def test_the_glossary_has_one_entry_a_word_in_order() -> None:
    words = [row[0] for row in table("Glossary", "word", "means")]
    assert words == sorted(words, key=str.lower)
    assert set(words) == GLOSSARY


@pytest.mark.parametrize("word", sorted(GLOSSARY))
def test_a_word_of_the_glossary_is_used_on_the_page(word: str) -> None:
    rest = TEXT.replace(section("Glossary"), "").lower()
    stems = {"hand back": "hand(ed|s) back", "snooze": "snoozed?", "reclaim": "reclaim(ed)?"}
    assert re.search(rf"\b{stems.get(word, word.lower() + 's?')}\b", rest)


def test_every_module_of_the_package_is_on_the_map() -> None:
    mapped = [code(row[0]) for row in table("How it is built", "module", "owns")]
    parts = {
        f"jobserver/{path.name}" + ("/" if path.is_dir() else "")
        for path in PACKAGE.iterdir()
        if path.name[0] not in "_." and (path.suffix == ".py" or (path / "__init__.py").is_file())
    }
    assert sorted(mapped) == sorted(parts)


def test_every_public_module_says_what_it_owns() -> None:
    silent = [
        str(path.relative_to(PROJECT))
        for path, tree in sources()
        # An empty file makes a package and owns nothing.
        if tree.body and not ast.get_docstring(tree)
    ]
    assert silent == []


def test_every_recipe_is_documented_and_exists() -> None:
    justfile = (PROJECT / "Justfile").read_text(encoding="utf-8")
    recipes = set(re.findall(r"^([a-z]\w*)(?: [^:=\n]*)?:(?!=)", justfile, re.MULTILINE)) - {"default"}
    documented = {code(row[0]).removeprefix("just ") for row in table("Develop", "recipe", "does")}
    assert documented == recipes
    assert set(re.findall(r"`just (\w+)", TEXT)) == recipes


def test_links_lead_somewhere_within_the_repository() -> None:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        else:
            assert (PROJECT / link).is_file(), link


def test_files_that_the_page_names_exist() -> None:
    named = re.findall(r"`((?:\.ci|\.docs|tests|jobserver|grafana|compose(?!/\.env))/[\w./]*)`", TEXT)
    assert named
    for name in named:
        assert (PROJECT / name).exists(), name


def test_the_verbs_of_the_clients_are_documented() -> None:
    named = set(re.findall(r"`(\w+)`", section("Python").split("```")[-1]))
    for kind in (Client, SyncClient):
        verbs = {name for name in vars(kind) if not name.startswith("_")} - {"close", "run"}
        assert verbs <= named, kind


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "LICENSE", "Justfile"),
        *(".docs/first-run.svg", ".docs/capture.py", ".docs/dashboard.svg", ".docs/dashboard.py"),
        *(".docs/trace.svg", ".docs/trace.py", ".docs/overview.py"),
    ],
)
def test_a_document_names_no_machine_and_nothing_outside(name: str) -> None:
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|var|opt|mnt)/[\w.]*", text) == []
    hosts = {host.rpartition("@")[2] for host in re.findall(r"\w+://([\w.@:-]*[\w.-])", text)}
    ours = re.compile(r"(localhost|127\.0\.0\.1)(:\d+)?|([\w-]+\.)?example\.com(:\d+)?|www\.w3\.org")
    assert [host for host in hosts if not ours.fullmatch(host)] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("first-run.svg", ("serve", "curl", "show", "list", "completed")),
        ("dashboard.svg", ("Rates", "completed", "Jobs that wait", "From created to terminal", "busy", "dead letters")),
        ("trace.svg", ("POST /jobs", "create mail", "process mail", "retrying", "lease_lost", "completed", "link")),
    ],
)
def test_a_picture_loads_nothing(name: str, words: tuple[str, ...]) -> None:
    picture = (PROJECT / ".docs" / name).read_text(encoding="utf-8")
    assert not re.search(r"@font-face|@import|url\((?!#)|<script|<image|href=", picture)
    for said in words:
        assert said in picture


def test_priorities_are_named_in_their_order() -> None:
    text = " ".join(section("Priorities, queues, pause").split())
    assert " before ".join(f"`{priority.label}`" for priority in Priority) in text
