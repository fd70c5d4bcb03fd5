"""What the commands that talk HTTP have in common. They import nothing of the server itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from jobserver.cli.environment import PREFIX
from jobserver.cli.output import printable, raw
from jobserver.cli.parameters import DURATION, FOR_EVER, EnvironmentOption
from jobserver.errors import JobserverError

if TYPE_CHECKING:  # imported by RemoteCommand, when a command runs: --help needs no HTTP client
    from jobserver.client import Answer, Job, Page, SyncClient

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8000"
STATUSES: Final = ("scheduled", "queued", "retrying", "running", "completed", "failed", "canceled")
FAILED: Final = 1
UNREACHABLE: Final = 3
# A person at a prompt would rather hear of it and decide.
RETRIES: Final = 2
COMPLETION_SECONDS: Final = 1.0


class Session:
    """The client of one command, and how its answers are shown."""

    def __init__(self, client: SyncClient, *, url: str, api_key: str | None, with_json: bool) -> None:
        self.client: Final = client
        self.url: Final = url
        self.api_key: Final = api_key
        self.with_json: Final = with_json

    def show(self, answer: Answer[T], for_people: Callable[[T], None]) -> T:
        """Print the answer, unchanged or for people."""
        if self.with_json:
            raw(answer.body)
        else:
            for_people(answer.value)
        return answer.value


class RemoteCommand(click.Command):
    """A command whose function gets a Session, and whose failures are one line and an exit code."""

    def __init__(self, name: str | None, *, params: list[click.Parameter] | None = None, **attributes: Any) -> None:
        url = EnvironmentOption(
            ["--url"],
            default=DEFAULT_URL,
            show_default=True,
            envvar=f"{PREFIX}URL",
            show_envvar=True,
            metavar="URL",
            help="The server.",
        )
        key = EnvironmentOption(
            ["--api-key"],
            envvar=f"{PREFIX}API_KEY",
            show_envvar=True,
            metavar="KEY",
            help="Who you are. Others see command lines: better by the variable.",
        )
        body = click.Option(["--json"], is_flag=True, help="Print the body of the answer, unchanged.")
        super().__init__(name, params=[*(params or []), url, key, body], **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_bare_wait(args))

    def invoke(self, ctx: click.Context) -> None:
        client_class = _client_class()
        from jobserver.client import ClientError, ServerUnreachable

        url, api_key, with_json = (ctx.params.pop(name) for name in ("url", "api_key", "json"))
        try:
            with client_class(url, api_key=api_key, retries=RETRIES) as client:
                ctx.params["session"] = Session(client, url=url, api_key=api_key, with_json=with_json)
                code = super().invoke(ctx)
        except ServerUnreachable as error:
            complain(f"{error} Is `jobserver serve` running?")
            code = UNREACHABLE
        except (ClientError, _invalid()) as error:
            complain(str(error))
            code = FAILED
        ctx.exit(code or 0)


def _client_class() -> type[SyncClient]:
    # Importing httpx imports its own command line with it, which takes 200 ms; we are another.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

    from jobserver.client import SyncClient

    return SyncClient


def _invalid() -> type[JobserverError]:
    from jobserver.errors import Invalid

    return Invalid


def _with_bare_wait(args: Sequence[str]) -> list[str]:
    """--wait may stand alone: what follows it and is no duration is not its value."""
    found = list(args)
    for at, argument in enumerate(args):
        if argument == "--":
            break
        if argument == "--wait" and (at + 1 == len(args) or DURATION.fullmatch(args[at + 1]) is None):
            found[at] = f"--wait={FOR_EVER}"
    return found


def complain(message: str) -> None:
    """One line on stderr."""
    click.echo(f"jobserver: {printable(message)}", err=True)


def agreed(question: str, *, yes: bool) -> bool:
    """Whether the person at the terminal, or --yes, agrees. Raises UsageError where there is neither."""
    if yes:
        return True
    check_can_ask(yes=yes)
    if click.confirm(question, err=True):
        return True
    complain("Nothing was changed.")
    return False


def check_can_ask(*, yes: bool) -> None:
    """Raises UsageError without a terminal and without --yes."""
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("There is nobody to ask here: say --yes if you mean it.")


def show_rest(page: Page) -> None:
    """What there is beside a page, on stderr."""
    if page.next_cursor is None:
        return
    total = f"more than {page.total:,}" if page.total_capped else f"{page.total:,}"
    found = "in the time there was" if page.partial else f"of {total}"
    click.echo(f"{len(page.items)} {found}; the next: --cursor {printable(page.next_cursor)}", err=True)


def outcome(job: Job) -> int:
    """The exit code for what became of a job; what is not good is said."""
    if job.status == "completed":
        return 0
    if job.status == "failed" and job.error is not None:
        said = f"failed: {job.error.type}: {job.error.message}"
    elif job.ended:
        said = "failed" if job.status == "failed" else "was canceled"
    else:
        said = f"is not finished, but {job.status}"
    complain(f"The job {job.id} {said}")
    return FAILED


# Names that the server knows, for the completion of the shell.


def complete_queue(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _completed(ctx, incomplete, lambda client: [queue.name for queue in client.queues()])


def complete_type(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _completed(ctx, incomplete, lambda client: [each.type for each in client.types()])


TYPE: Final = click.option("--type", metavar="TYPE", help="Of this type.", shell_complete=complete_type)
QUEUE: Final = click.option("--queue", metavar="NAME", help="In this queue.", shell_complete=complete_queue)
YES: Final = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
DRY_RUN: Final = click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
LIMIT: Final = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=1_000, show_default=True, metavar="N", help="At most."
)
FINGERPRINT: Final = click.option("--fingerprint", metavar="HEX", help="Failed alike: see `jobserver dlq groups`.")
STATUS: Final = click.option("--status", type=click.Choice(STATUSES), multiple=True, help="May be repeated.")
_FILTERS: Final = (
    TYPE,
    QUEUE,
    click.option("--tag", metavar="TEXT", help="With this tag."),
    click.option("--created-after", metavar="TIME", help="Such as 2026-03-07T10:00:00Z."),
    click.option("--created-before", metavar="TIME", help="Such as 2026-03-07T10:00:00Z."),
    click.option("--search", "q", metavar="TEXT", help="With this in their payload."),
    click.option("--error", metavar="TEXT", help="With this in the type or message of their last error."),
    FINGERPRINT,
)
_PAGE_OPTIONS: Final = (
    *_FILTERS,
    click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, metavar="N", help="At most."),
    click.option("--offset", type=click.IntRange(0), default=0, metavar="N", help="Leave out the first N."),
    click.option("--cursor", metavar="TEXT", help="Go on where the page before ended."),
)


def page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What chooses a page of jobs, or of dead ones."""
    for option in reversed(_PAGE_OPTIONS):
        command = option(command)
    return command


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What chooses jobs in any state."""
    for option in reversed((STATUS, *_FILTERS)):
        command = option(command)
    return command


def _completed(ctx: click.Context, incomplete: str, names: Callable[[SyncClient], list[str]]) -> list[CompletionItem]:
    url = ctx.params.get("url") or DEFAULT_URL
    try:
        with _client_class()(url, api_key=ctx.params.get("api_key"), timeout=COMPLETION_SECONDS, retries=0) as client:
            return [CompletionItem(name) for name in names(client) if name.startswith(incomplete)]
    except JobserverError:
        # Nobody wants to read of it in the middle of a line that is being typed.
        return []
