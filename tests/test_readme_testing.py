"""The tests that the page shows for the example's handlers pass, with the fixture that comes with the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.children import environment
from tests.test_docs import blocks


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    [handlers] = [block for block in blocks("python") if "words.count" in block]
    [tests] = [block for block in blocks("python") if "jobserver_sandbox" in block]
    (tmp_path / "words.py").write_text(handlers)
    (tmp_path / "test_words.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "test_words.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
