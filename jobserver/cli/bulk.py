"""A file of payloads, a line each, submitted in batches: in bounded memory, and with no job doubled when repeated.

The key of each job is made of the content of the file and the number of its line, so that the server knows what it
has already. The file is read twice: to check every line before anything is sent, and to send it.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final

import click
import msgspec

from jobserver.cli.output import raw
from jobserver.cli.remote import FAILED, Session, complain

if TYPE_CHECKING:  # see remote.py
    from rich.progress import Progress

    from jobserver.client import RequestRefused
    from jobserver.job.handlers import JobRequest

MAX_LINE_BYTES: Final = 64 * 1_048_576
MAX_LINES: Final = 1_000
# Of payloads in one request: what the server takes at most is several times this.
BATCH_BYTES: Final = 4 * 1_048_576
# In the middle of a file, an outage of a minute is better waited for.
REPEATS: Final = 20


class Content(msgspec.Struct, frozen=True):
    """What the first reading found: how many bytes and jobs, and a name that changes with any of them."""

    bytes: int
    jobs: int
    name: str


class Line(msgspec.Struct, frozen=True):
    """One payload, and where it stands."""

    number: int
    data: bytes


def submit_file(session: Session, type_: str, path: str, key: str | None, options: dict[str, Any]) -> int:
    """Submit a job for each line of the file; the exit code."""
    from jobserver.client import ClientError, RequestRefused
    from jobserver.job.handlers import JobRequest

    session.client.calls.repeats = REPEATS
    given = {name: value for name, value in options.items() if value is not None}
    # What is wrong with the options is wrong with every line.
    JobRequest(type=type_, **given).body(key)
    stored = created = 0
    with _opened(path) as file:
        content = _checked(file, path, type_)
        name = content.name if key is None else key
        file.seek(0)
        with _progress(content.jobs, quiet=session.with_json) as advance:
            try:
                for lines in _batches(_lines(file, content.bytes)):
                    requests = [JobRequest(type=type_, payload=msgspec.Raw(line.data), **given) for line in lines]
                    keys = [f"{name}:{line.number}" for line in lines]
                    answer = session.client.run(session.client.calls.submit_batch(_bodies(requests, keys)))
                    if session.with_json:
                        raw(answer.body)
                    stored += len(lines)
                    created += sum(item.created for item in answer.value.jobs)
                    advance(len(lines))
            except RequestRefused as refused:
                complain(_in_file(refused, lines))
                _say_where(stored, content)
                return FAILED
            except (ClientError, KeyboardInterrupt):
                _say_where(stored, content)
                raise
    if not session.with_json:
        known = f", {stored - created:,} were there already" if created < stored else ""
        click.echo(f"{created:,} jobs submitted{known}")
    return 0


def _bodies(requests: list[JobRequest], keys: list[str]) -> list[Any]:
    return [request.body(key) for request, key in zip(requests, keys, strict=True)]


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """The file, or what comes on standard input, which is kept on disk: it is read twice."""
    if path == "-":
        with tempfile.TemporaryFile() as kept:
            shutil.copyfileobj(sys.stdin.buffer, kept)
            kept.seek(0)
            yield kept
        return
    try:
        file = open(path, "rb")  # noqa: SIM115  # closed below, after its own errors were told
    except OSError as error:
        raise click.UsageError(f"The file {path!a} cannot be read: {error.strerror}.") from None
    with file:
        if not file.seekable():
            raise click.UsageError(f"The file {path!a} is a pipe: use --file - and redirect it.")
        yield file


def _checked(file: IO[bytes], path: str, type_: str) -> Content:
    """Reads everything once. Raises UsageError for a line that is not JSON: nothing was sent then."""
    decode = msgspec.json.Decoder().decode
    digest = hashlib.blake2b(type_.encode() + b"\n", digest_size=16)
    jobs = size = 0
    for line in _lines(file, None):
        try:
            decode(line.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise click.UsageError(f"Line {line.number} of {path!a} is not JSON: {error}.") from None
        jobs += 1
    size = file.tell()
    file.seek(0)
    for piece in iter(lambda: file.read(1_048_576), b""):
        digest.update(piece)
    if not jobs:
        raise click.UsageError(f"The file {path!a} has no lines.")
    return Content(size, jobs, f"file-{digest.hexdigest()}")


def _lines(file: IO[bytes], end: int | None) -> Iterator[Line]:
    """Lines that are not blank, numbered from 1; up to the byte `end`, should the file have grown since."""
    number = read = 0
    while end is None or read < end:
        data = file.readline(MAX_LINE_BYTES + 1)
        if not data:
            return
        number += 1
        read += len(data)
        if len(data) > MAX_LINE_BYTES:
            raise click.UsageError(f"Line {number} is larger than any server accepts.")
        if data.strip():
            yield Line(number, data.strip())


def _batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    size = 0
    for line in lines:
        if batch and (len(batch) == MAX_LINES or size + len(line.data) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line.data)
    if batch:
        yield batch


def _in_file(refused: RequestRefused, lines: list[Line]) -> str:
    """The refusal of a batch, by the lines of the file."""
    import re

    def line(found: re.Match[str]) -> str:
        index = int(found[1])
        return f"line {lines[index].number}: $" if index < len(lines) else found[0]

    errors = refused.problem.errors
    text = str(refused)
    if errors is not msgspec.UNSET and errors and errors[0].path not in text:
        text = f"{errors[0].path}: {text}"
    return re.sub(r"\$\.jobs\[(\d+)\]", line, text)


def _say_where(stored: int, content: Content) -> None:
    complain(f"{stored:,} of {content.jobs:,} jobs are submitted; the same command goes on where this one ended.")


@contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[Any]:
    """A bar on a terminal; what is yielded is told of jobs that are done."""
    if quiet or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar: Progress = Progress(
        TextColumn("submitting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("submitting", total=total)
        yield lambda count: bar.advance(task, count)
