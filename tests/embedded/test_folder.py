"""A data folder belongs to one process, stays out of git, and survives any name."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from jobserver.embedded.folder import DataFolder, database_url, is_running, prepare
from jobserver.errors import ConfigurationError

# Holds the folder until its standard input is closed.
HOLD = (
    "import os, sys; from jobserver.embedded.folder import DataFolder\n"
    "folder = DataFolder(sys.argv[1]); print(os.getpid(), flush=True); sys.stdin.read()"
)
ODD = "odd ?#%20&=;:@+é 'name'"


def test_a_new_folder_is_private_and_hidden_from_git(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with DataFolder(path) as folder:
        assert folder.path == path
        assert path.stat().st_mode & 0o777 == 0o700
        assert (path / ".gitignore").read_text() == "*\n"


def test_a_working_tree_and_a_gitignore_of_the_users_stay_as_they_are(tmp_path: Path) -> None:
    tree, mine = tmp_path / "tree", tmp_path / "mine"
    (tree / ".git").mkdir(parents=True)
    mine.mkdir()
    (mine / ".gitignore").write_text("!keep\n")
    prepare(tree)
    prepare(mine)
    assert not (tree / ".gitignore").exists()
    assert (mine / ".gitignore").read_text() == "!keep\n"


def test_a_second_process_is_refused_by_a_sentence_with_folder_and_pid(tmp_path: Path) -> None:
    with _holder(tmp_path) as holder:
        pid = _said(holder)
        with pytest.raises(ConfigurationError) as refused:
            DataFolder(tmp_path)
        assert str(tmp_path) in str(refused.value)
        assert f"process {pid}" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert is_running(tmp_path)
        holder.kill()
        holder.wait(10)
        assert not is_running(tmp_path)
        with DataFolder(tmp_path):
            assert is_running(tmp_path)


def test_a_closed_folder_is_free_and_asking_keeps_no_lock(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.close()
    folder.close()
    assert not is_running(tmp_path)
    with DataFolder(tmp_path):
        pass


def test_asking_for_a_server_creates_nothing(tmp_path: Path) -> None:
    assert not is_running(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_folder_is_refused_by_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below", "/proc/jobserver", tmp_path / "nul\0", os.fsdecode(b"/tmp/\xff")):
        with pytest.raises(ConfigurationError) as refused:
            DataFolder(path)
        assert str(refused.value).startswith("The ")
        assert "\n" not in str(refused.value)


def test_a_lock_file_that_is_a_link_or_a_pipe_is_refused(tmp_path: Path) -> None:
    linked, piped = tmp_path / "linked", tmp_path / "piped"
    linked.mkdir()
    piped.mkdir()
    (linked / "lock").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(piped / "lock")
    for folder in (linked, piped):
        with pytest.raises(ConfigurationError, match="cannot be used"):
            DataFolder(folder)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_a_folder_of_somebody_else_is_refused_by_one_sentence(tmp_path: Path) -> None:
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        with pytest.raises(ConfigurationError, match="Permission denied"):
            DataFolder(tmp_path / "data")
    finally:
        os.seteuid(0)


def test_the_database_url_gives_the_path_back(tmp_path: Path) -> None:
    for path in (tmp_path / "plain", tmp_path / ODD):
        url = make_url(database_url(path))
        assert url.drivername == "sqlite+aiosqlite"
        assert url.database == str(path / "jobs.db")
        assert not url.query
        assert not url.host


def test_a_relative_folder_gets_an_absolute_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_url(database_url(".jobserver")).database == str(tmp_path / ".jobserver" / "jobs.db")


def _holder(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
