"""The embedded Valkey keeps its data over restarts, crashes and predecessors that were left behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest
import redis.asyncio
import redis.exceptions

from jobserver.embedded import DataFolder, EmbeddedEngines, EmbeddedValkey, find_server
from jobserver.embedded import valkey as valkey_module
from jobserver.errors import ConfigurationError
from tests.embedded.test_folder import ODD
from tests.engines import eventually

# A server process that is killed leaves its Valkey behind.
LEAVE = """
import asyncio, sys
from jobserver.embedded import EmbeddedEngines
async def main():
    async with EmbeddedEngines(sys.argv[1]) as engines:
        print(engines.valkey_pid, engines.redis_url, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def leave_valkey_behind() -> Iterator[Callable[[Path], tuple[str, psutil.Process]]]:
    """Start a server on a folder, kill it, and return the URL and the process of the Valkey that stays."""
    orphans: list[psutil.Process] = []

    def leave(folder: Path) -> tuple[str, psutil.Process]:
        command = [sys.executable, "-c", LEAVE, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
            assert starter.stdout is not None
            pid, url = starter.stdout.readline().split()
            starter.kill()
        orphans.append(psutil.Process(int(pid)))
        assert orphans[-1].is_running()
        return url, orphans[-1]

    yield leave
    for orphan in orphans:
        # psutil knows it by its start too: an id used again is not touched.
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any server."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


async def test_engines_start_and_stop_and_leave_no_process(data_dir: Path) -> None:
    async with EmbeddedEngines(data_dir) as engines:
        async with _client(engines.redis_url) as client:
            info = await client.info()
            config = await client.config_get("*")
        assert engines.valkey_version == info.get("valkey_version", info["redis_version"])
        assert engines.valkey_pid == info["process_id"]
        assert (info["tcp_port"], info["aof_enabled"]) == (0, 1)
        assert (config["appendfsync"], config["save"]) == ("everysec", "")
        assert config["maxmemory-policy"] == "noeviction"
        assert (data_dir / "valkey.sock").stat().st_mode & 0o777 == 0o700
        pid = info["process_id"]
        assert os.getsid(pid) == pid
    assert not psutil.pid_exists(pid)
    assert not (data_dir / "valkey.sock").exists()


async def test_data_survives_a_restart(data_dir: Path) -> None:
    async with EmbeddedEngines(data_dir) as engines, _client(engines.redis_url) as client:
        await client.set("note", "here")
    async with EmbeddedEngines(data_dir) as engines, _client(engines.redis_url) as client:
        assert await client.get("note") == b"here"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_killed_valkey_comes_back_with_its_data(data_dir: Path, loop: str) -> None:
    async def life() -> None:
        back = asyncio.Event()
        async with EmbeddedEngines(data_dir, on_restart=back.set) as engines:
            url, pid = engines.redis_url, engines.valkey_pid
            assert pid is not None
            async with _client(url) as client:
                await client.set("note", "here")
            os.kill(pid, signal.SIGKILL)
            await asyncio.wait_for(back.wait(), 10)
            assert engines.redis_url == url
            assert engines.valkey_pid not in (None, pid)
            async with _client(url) as client:
                assert await client.get("note") == b"here"

    factory = None if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(life())


async def test_a_valkey_that_cannot_come_back_is_tried_again(
    data_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = asyncio.Event()
    async with EmbeddedEngines(data_dir, on_restart=back.set) as engines:
        broken = data_dir / "valkey" / "appendonlydir" / "appendonly.aof.manifest"
        whole = broken.read_bytes()
        broken.write_bytes(b"not a manifest\n")
        assert engines.valkey_pid is not None
        os.kill(engines.valkey_pid, signal.SIGKILL)
        await eventually(lambda: "could not be started again" in caplog.text)
        assert not back.is_set()
        broken.write_bytes(whole)
        await asyncio.wait_for(back.wait(), 20)
        async with _client(engines.redis_url) as client:
            assert await client.ping()


@pytest.mark.parametrize("paused", [False, True], ids=["answering", "hanging"])
async def test_the_valkey_of_a_killed_predecessor_is_shut_down_and_its_data_kept(
    data_dir: Path, paused: bool, leave_valkey_behind: Callable[[Path], tuple[str, psutil.Process]]
) -> None:
    if paused and sys.platform != "linux":
        pytest.skip("a server that does not answer is found through /proc only")
    url, orphan = await asyncio.to_thread(leave_valkey_behind, data_dir)
    async with _client(url) as client:
        await client.set("note", "here")
    if paused:
        orphan.suspend()
        # SIGTERM waits for the continuation that comes only later.
        resumed = asyncio.get_running_loop().call_later(2, orphan.resume)
    async with EmbeddedEngines(data_dir) as engines:
        assert engines.valkey_pid != orphan.pid
        assert _ended(orphan)
        async with _client(engines.redis_url) as client:
            assert await client.get("note") == b"here"
    if paused:
        resumed.cancel()


async def test_a_stale_pid_file_harms_nobody(data_dir: Path, bystander: subprocess.Popen[bytes]) -> None:
    async with EmbeddedEngines(data_dir):
        pass
    (data_dir / "valkey" / "pid").write_text(f"{bystander.pid}\n")
    # Held by somebody whom the pid file does not name: found out, and given up, without ending anybody.
    with (
        _flocked(data_dir / "valkey" / "lock"),
        mock.patch.multiple(valkey_module, _TERM_SECONDS=0.1, _KILL_SECONDS=0.1),
        pytest.raises(ConfigurationError, match="end it first"),
    ):
        async with EmbeddedEngines(data_dir):
            raise AssertionError("two servers on one folder")
    async with EmbeddedEngines(data_dir):
        assert bystander.poll() is None


async def test_a_running_folder_is_refused_and_keeps_running(data_dir: Path) -> None:
    async with EmbeddedEngines(data_dir) as engines:
        with pytest.raises(ConfigurationError, match="is running on the data folder"):
            async with EmbeddedEngines(data_dir):
                raise AssertionError("two servers on one folder")
        async with _client(engines.redis_url) as client:
            assert await client.ping()


async def test_a_path_too_long_for_a_socket_falls_back_and_leaves_nothing(
    tmp_path: Path, leave_valkey_behind: Callable[[Path], tuple[str, psutil.Process]]
) -> None:
    long = tmp_path / ("long" * 30)
    async with EmbeddedEngines(long) as engines:
        async with _client(engines.redis_url) as client:
            await client.set("note", "here")
            socket = Path(client.connection_pool.connection_kwargs["path"])
        assert not socket.is_relative_to(long)
        assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert not socket.parent.exists()
    _, orphan = await asyncio.to_thread(leave_valkey_behind, long)
    left = Path((long / "valkey" / "socket").read_text()).parent
    assert left.exists()
    async with EmbeddedEngines(long) as engines, _client(engines.redis_url) as client:
        assert await client.get("note") == b"here"
        assert not left.exists()
    assert _ended(orphan)


async def test_a_copy_of_a_running_folder_does_not_touch_the_original(tmp_path: Path) -> None:
    original, copy = tmp_path / ("long" * 30), tmp_path / "copy"
    async with EmbeddedEngines(original) as first:
        shutil.copytree(original, copy, ignore=shutil.ignore_patterns("*.sock"))
        async with EmbeddedEngines(copy) as second:
            assert first.valkey_pid != second.valkey_pid
            async with _client(first.redis_url) as client:
                assert (await client.info("server"))["process_id"] == first.valkey_pid


async def test_any_name_of_a_folder_works(tmp_path: Path) -> None:
    async with EmbeddedEngines(tmp_path / ODD) as engines, _client(engines.redis_url) as client:
        await client.set("note", "here")
    assert (tmp_path / ODD / "valkey" / "appendonlydir").is_dir()


async def test_a_server_that_does_not_start_is_one_sentence_and_frees_the_folder(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = data_dir.parent / "server"
    cases = {
        "#!/bin/sh\necho 'out of luck'; exit 3\n": "exit code 3.*out of luck",
        "not a program": "cannot be run",
    }
    for script, message in cases.items():
        binary.write_text(script)
        binary.chmod(0o755)
        monkeypatch.setenv("JOBSERVER_VALKEY_SERVER", str(binary))
        with pytest.raises(ConfigurationError, match=message):
            async with EmbeddedEngines(data_dir):
                raise AssertionError("started without a server")
        with DataFolder(data_dir):
            pass


async def test_stopping_what_was_not_started_does_nothing(data_dir: Path) -> None:
    with DataFolder(data_dir) as folder:
        await EmbeddedValkey(folder).stop()


def test_the_binary_comes_from_the_variable_then_the_wheel_then_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "redis-server"
    named.write_text("#!/bin/sh\n")
    named.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JOBSERVER_VALKEY_SERVER", raising=False)
    assert find_server() != named
    monkeypatch.setenv("JOBSERVER_VALKEY_SERVER", str(named))
    assert find_server() == named
    monkeypatch.setenv("JOBSERVER_VALKEY_SERVER", str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="JOBSERVER_VALKEY_SERVER names"):
        find_server()
    monkeypatch.delenv("JOBSERVER_VALKEY_SERVER")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_server() == named
    named.unlink()
    with pytest.raises(ConfigurationError, match="set JOBSERVER_VALKEY_SERVER"):
        find_server()


def _client(url: str) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(url, socket_timeout=5)


def _ended(process: psutil.Process) -> bool:
    # Nobody may be there to reap an orphan.
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@contextlib.contextmanager
def _flocked(file: Path) -> Iterator[None]:
    with open(file, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
