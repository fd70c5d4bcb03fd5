"""What children inherit from the template that they are forked from."""

from __future__ import annotations

from pathlib import Path

from jobserver.job.model import Returned
from tests.pipeline.attempts import REFERENCE, Recorded, error_of


async def test_children_inherit_the_servers_own_modules_and_none_of_the_users(tmp_path: Path) -> None:
    """Imported in each of a hundred children, the server's own take all of the seconds that recovery has."""
    file = tmp_path / "modules"
    options = {"child_setup": "tests.pipeline.seen:note_modules", "child_setup_arguments": {"file": str(file)}}
    async with Recorded(references=(REFERENCE, "jobserver.builtin:handlers"), **options) as recorded:
        assert isinstance(await recorded.run("process"), Returned)
    inherited = set(file.read_text(encoding="utf-8").splitlines())
    assert {"jobserver.builtin", "httpx"} <= inherited
    assert REFERENCE.partition(":")[0] not in inherited


async def test_a_module_that_the_template_cannot_import_is_reported_by_the_child() -> None:
    async with Recorded(references=("jobserver.nowhere:handlers",)) as recorded:
        assert error_of(await recorded.run("process")) == ("HandlerNotFound", True)
