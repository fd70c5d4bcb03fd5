"""procrastinate on PostgreSQL, with 100 jobs at once and LISTEN/NOTIFY.

Persists: to PostgreSQL, committed at defer, at the start of each job and at its end; finished rows are kept
(the default).
Recovery: none by itself. Its documents offer a periodic task that retries the jobs of workers without a heartbeat for
30 s; it is on where that is measured, each minute instead of each tenth one as there.
Settings: psycopg with its binary speedups, up to 20 connections; logs at warning.
"""

from __future__ import annotations

from collections.abc import Sequence

import protocol
from procrastinate import App, JobContext, PsycopgConnector

app = App(
    connector=PsycopgConnector(conninfo=protocol.POSTGRES_URL, min_size=4, max_size=20),
    import_paths=["procrastinate_side"],
)


@app.task(name="noop")
async def noop(n: int, text: str) -> None:
    protocol.mark(n)
    await protocol.hold()


if protocol.RECOVERY:

    @app.periodic(cron="* * * * *")
    @app.task(name="retry_stalled_jobs", queueing_lock="retry_stalled_jobs", pass_context=True)
    async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:
        for job in await app.job_manager.get_stalled_jobs():
            await app.job_manager.retry_job(job)


class Procrastinate(protocol.Side):
    bulks = True

    async def setup(self) -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    async def __aenter__(self) -> Procrastinate:
        await app.open_async()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await app.close_async()

    async def submit(self, number: int) -> None:
        await noop.defer_async(n=number, text=protocol.TEXT)

    async def submit_bulk(self, numbers: Sequence[int]) -> None:
        await noop.batch_defer_async(*({"n": number, "text": protocol.TEXT} for number in numbers))

    def worker(self) -> list[str]:
        return [
            *(protocol.program("procrastinate"), "--app", "procrastinate_side.app", "--log-level", "warning"),
            *("worker", "--concurrency", str(protocol.CONCURRENCY)),
        ]


if __name__ == "__main__":
    protocol.main(Procrastinate())
