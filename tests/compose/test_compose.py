"""The stack is what it promises: one way in, on loopback; engines on their own; pinned, healthy, without privileges."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from compose.passwords import KEYS, NAMES, make
from jobserver.access import GIVEN, PREFIX
from jobserver.cli.options import SECTIONS
from tests.cli.process import jobserver
from tests.conftest import Pair
from tests.engines import free_port
from tests.prometheus import promtool
from tests.servers import running

COMPOSE: Final = Path(__file__).parents[2] / "compose"
DOCKERFILE: Final = (COMPOSE / "Dockerfile").read_text(encoding="utf-8")
PUBLISHED: Final = {"proxy", "jaeger", "grafana"}
OURS: Final = {"POSTGRES_PASSWORD": "pg-secret", "REDIS_PASSWORD": "redis-secret", "GRAFANA_PASSWORD": "grafana-secret"}
OUR_KEYS: Final = {"JOBSERVER_API_KEY": "jsk_" + "a" * 64, "METRICS_API_KEY": "jsk_" + "b" * 64}


def tool(name: str) -> str:
    """A program of the dev extra, which has no wheel for every platform."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here: its wheel is for Linux on x86_64")
    return found


def compose(
    folder: Path, *files: str, format_: tuple[str, ...] = ("--format", "json")
) -> subprocess.CompletedProcess[str]:
    """What docker-compose makes of our files; no engine is asked."""
    passwords = folder / "passwords"
    passwords.write_text("".join(f"{name}={value}\n" for name, value in (OURS | OUR_KEYS).items()), encoding="ascii")
    arguments = [argument for name in files for argument in ("-f", str(COMPOSE / name))]
    return subprocess.run(
        [tool("docker-compose"), "--env-file", str(passwords), *arguments, "config", *format_],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def stack(tmp_path: Path) -> dict[str, Any]:
    """compose.yml with everything filled in."""
    done = compose(tmp_path, "compose.yml")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("files", [("compose.yml",), ("compose.yml", "compose.override.yml")], ids=len)
def test_docker_compose_reads_the_files(tmp_path: Path, files: tuple[str, ...]) -> None:
    done = compose(tmp_path, *files, format_=("-q",))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_passwords_nothing_starts(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("", encoding="ascii")
    done = subprocess.run(
        [tool("docker-compose"), "--env-file", str(empty), "-f", str(COMPOSE / "compose.yml"), "config", "-q"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "run just up" in done.stderr


def test_only_the_proxy_jaeger_and_grafana_are_published_and_on_loopback_alone(stack: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in stack["services"].items() if service.get("ports")}
    assert set(published) == PUBLISHED
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}


def test_the_engines_are_on_a_network_without_a_way_out_and_have_passwords(stack: dict[str, Any]) -> None:
    services = stack["services"]
    assert stack["networks"]["inside"]["internal"] is True
    for name in ("postgres", "redis", "prometheus"):
        assert set(services[name]["networks"]) == {"inside"}, name
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == OURS["POSTGRES_PASSWORD"]
    assert OURS["REDIS_PASSWORD"] in services["redis"]["command"]
    text = (COMPOSE / "compose.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+PASSWORD):\?run just up\}", text)) == set(NAMES) == set(OURS)


def test_every_image_is_pinned_and_every_service_is_asked_for_its_health(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+", tag) or name in {"server", "keys"}, name
        if name == "keys":
            # It ends: there is nothing to ask, and nothing to start again.
            assert service["restart"] == "no"
            continue
        assert "healthcheck" in service or name == "server", name
        assert service["restart"] == "unless-stopped", name
    assert "HEALTHCHECK" in DOCKERFILE
    assert all(re.search(r":\d+\.\d+\.\d+", line) for line in re.findall(r"^FROM (.+)$", DOCKERFILE, re.MULTILINE))


def test_the_server_has_no_privileges_and_writes_nowhere(stack: dict[str, Any]) -> None:
    server = stack["services"]["server"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in server["security_opt"]
    assert "container_name" not in server, "it is scaled"
    assert re.findall(r"^USER (\d+):", DOCKERFILE, re.MULTILINE) == ["10001"]
    # Longer than a drain, last writes and the export of traces.
    assert server["stop_grace_period"] == "1m0s"


def test_the_server_is_told_by_variables_that_it_knows(stack: dict[str, Any]) -> None:
    known = {option.variable for options in SECTIONS.values() for option in options}
    # That key is for the handlers, which may be clients.
    known |= {"JOBSERVER_HANDLERS", "JOBSERVER_API_KEY"}
    told = {name for name in stack["services"]["server"]["environment"] if name.startswith("JOBSERVER_")}
    assert told <= known


def test_a_server_starts_with_keys_and_not_open(stack: dict[str, Any], tmp_path: Path) -> None:
    """The commands of the service `keys`, run twice as a second `just up` does: two keys, and no third."""
    services = stack["services"]
    assert "JOBSERVER_ALLOW_ANONYMOUS" not in services["server"]["environment"]
    assert services["server"]["depends_on"]["keys"]["condition"] == "service_completed_successfully"
    assert set(services["keys"]["networks"]) == {"inside"}
    [script] = services["keys"]["command"]
    given = {name: value for name, value in services["keys"]["environment"].items() if name.endswith("API_KEY")}
    assert set(given.values()) == set(OUR_KEYS.values())
    for _ in range(2):
        for line in script.strip().splitlines():
            name, *arguments = line.split()
            assert name == "jobserver"
            done = jobserver(*arguments, cwd=tmp_path, **given)
            assert (done.code, done.out) == (0, ""), done.err
    listed = json.loads(jobserver("keys", "list", "--json", cwd=tmp_path).out)["items"]
    assert [(each["name"], each["scope"]) for each in listed] == [("people", "admin"), ("prometheus", "read")]
    # Neither is to be seen in what is published or asked for its health.
    assert not any(key in json.dumps(services["prometheus"]["command"]) for key in OUR_KEYS.values())


def test_signals_reach_the_server_without_a_shell_in_between() -> None:
    for instruction in re.findall(r"^(?:ENTRYPOINT|CMD|    CMD) (.+)$", DOCKERFILE, re.MULTILINE):
        assert isinstance(json.loads(instruction), list)
    assert len(re.findall(r"^ENTRYPOINT ", DOCKERFILE, re.MULTILINE)) == 1


async def test_the_health_check_of_the_image_tells_a_live_server_from_none(
    sqlite_url: str, redis_url: str, redis_prefix: str
) -> None:
    [found] = re.findall(r"^    CMD (.+)$", DOCKERFILE, re.MULTILINE)
    [name, *arguments] = json.loads(found)
    assert name == "python"
    async with running(Pair("sqlite", sqlite_url, redis_url, redis_prefix), host="127.0.0.1") as server:
        for url, healthy in ((server.url, True), (f"http://127.0.0.1:{free_port()}", False)):
            asked = [each.replace("http://127.0.0.1:8000", url) for each in arguments]
            process = await _run(sys.executable, *asked)
            assert (process == 0) is healthy


async def _run(*command: str) -> int:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    return await asyncio.wait_for(process.wait(), 30)


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    done = subprocess.run([tool("hadolint"), str(COMPOSE / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_made_of_what_the_builder_gets() -> None:
    ignored = (COMPOSE / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()}
    assert copied == set(re.findall(r"^!(\S+)$", ignored, re.MULTILINE))
    assert all((COMPOSE.parent / name).exists() for name in copied)


def test_every_file_that_is_mounted_is_there(stack: dict[str, Any]) -> None:
    sources = [
        Path(volume["source"])
        for service in stack["services"].values()
        for volume in service.get("volumes", ())
        if volume["type"] == "bind"
    ]
    assert len(sources) == 6
    assert [source for source in sources if not source.exists()] == []


def test_passwords_are_made_once_and_for_their_owner(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert make(path) is True
    first = path.read_text(encoding="ascii")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values = dict(line.split("=") for line in first.splitlines())
    assert tuple(values) == NAMES + KEYS
    assert len(set(values.values())) == len(values)
    assert all(re.fullmatch(r"[0-9a-f]{48}", values[name]) for name in NAMES)
    assert all(GIVEN.fullmatch(values[name]) and values[name].startswith(PREFIX) for name in KEYS)
    assert make(path) is False
    assert path.read_text(encoding="ascii") == first


def test_prometheus_reads_its_configuration() -> None:
    promtool("check", "config", "--syntax-only", str(COMPOSE / "prometheus.yml"))
    config = yaml.safe_load((COMPOSE / "prometheus.yml").read_text(encoding="utf-8"))
    # By address, one for each server: behind the proxy a scrape would reach any of them.
    [scrape] = config["scrape_configs"]
    assert scrape["authorization"] == {"credentials_file": "/tmp/key"}
    assert scrape["dns_sd_configs"][0]["names"] == ["server"]
