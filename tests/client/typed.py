"""What a checker must accept of typed submits, and refuse, which says so with its code. Read by mypy, never run."""

from jobserver import Attempt, Client, Handlers, JobRequest, SyncClient
from jobserver.client import Event, Job
from jobserver.testing import Ran, perform

handlers = Handlers()


@handlers.handler("email.send", queue="mail")
async def send_email(attempt: Attempt, to: str, subject: str = "hello") -> str:
    return to


@handlers.handler("add")
def add(a: int, b: int) -> int:
    return a + b


request: JobRequest = send_email.job(to="a@b.c", subject="hi")
send_email.job("a@b.c")
add.job(1, b=2)

send_email.job()  # refused: call-arg
send_email.job(to=5)  # refused: arg-type
send_email.job(to="a@b.c", subjet="hi")  # refused: call-arg
add.job(1, "2")  # refused: arg-type
handlers.handler("x", queue=5)  # refused: arg-type
handlers.handler("x", priority="urgent")  # refused: arg-type

# The function itself is what it was.
called: int = add(1, 2)


async def use(client: Client, sync: SyncClient, attempt: Attempt) -> None:
    job: Job = await client.submit(add.job(1, 2), key="k", delay=5, tags=("a",))
    await client.submit("add", {"a": 1, "b": 2}, priority="high")
    await client.submit(add.job(1, 2), delai=5)  # refused: call-arg
    await client.submit(add.job(1, 2), priority="urgent")  # refused: arg-type
    sync.submit(add.job(1, 2), timeout="5")  # refused: arg-type
    async for event in client.watch(job.id):
        known: Event = event
        print(known.event)
    async for each in client.list(status="failed", quue="mail"):  # refused: call-arg
        print(each.id)
    done: Ran = await perform(send_email, to="a@b.c")
    await perform(send_email, to=1)  # refused: arg-type
    print(done, await send_email(attempt, "a@b.c"))
