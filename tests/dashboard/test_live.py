"""Live events on the page: what happens shows within a second; without them the page says so, asks, and recovers."""

from __future__ import annotations

import asyncio
import re
import signal
import time

from playwright.async_api import Route, expect

from tests.clocks import judged_by_the_clock
from tests.dashboard.browser import NO_ANSWER
from tests.dashboard.conftest import Open
from tests.engines import free_port
from tests.life.conftest import Serve


async def test_what_happens_shows_within_a_second(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "4")
    dashboard = await show(server)
    await dashboard.is_live()
    await expect(dashboard.tile("Dead letters")).to_have_text("0")
    seen: list[float] = []
    # A machine that is busy may be late: three of four in a row are asked for, and more tries are made for them.
    while sum(each < 1.0 for each in seen[-4:]) < 3:
        assert len(seen) < 12, seen
        # Apart, so that no answer that is under way anyway shows it.
        await asyncio.sleep(1.2)
        began = time.monotonic()
        await server.submit("shown.fail", {"order": len(seen)})
        # The first question after a silence is asked at once; with the submit and the run.
        await expect(dashboard.tile("Dead letters")).to_have_text(str(len(seen) + 1), timeout=5_000)
        seen.append(time.monotonic() - began)


@judged_by_the_clock
async def test_progress_is_live(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "4")
    dashboard = await show(server)
    await dashboard.is_live()
    job_id = await server.submit("shown.work", {"seconds": 12, "steps": 24})
    row = dashboard.row("Running jobs", "shown.work")
    bar = row.get_by_role("progressbar")
    # Handlers may say it as often as they like; an event comes once a second at the most.
    await expect(row).to_contain_text(re.compile(r"step [3-8] of 24"), timeout=10_000)
    await expect(row).to_contain_text("≈")
    first = int(await bar.get_attribute("aria-valuenow") or 0)
    await expect(row).to_contain_text(re.compile(r"step (9|1\d) of 24"), timeout=8_000)
    assert int(await bar.get_attribute("aria-valuenow") or 0) > first
    await server.http.post(f"/jobs/{job_id}/cancel")
    await expect(row).to_have_count(0, timeout=5_000)


async def test_a_server_that_dies_makes_the_page_stale_and_its_return_live_again(embedded: Serve, show: Open) -> None:
    port = str(free_port())
    server = await embedded("--workers", "2", "--port", port)
    dashboard = await show(server)
    dashboard.tolerates(NO_ANSWER)
    await dashboard.is_live()
    await expect(dashboard.tile("Dead letters")).to_have_text("0")
    server.kill()
    await dashboard.is_live("stale", within=5)
    await expect(dashboard.page.locator(".live")).to_contain_text("Stale")
    await expect(dashboard.page.get_by_text("The server does not answer.")).to_be_visible()
    # What was known stays on the screen.
    await expect(dashboard.tile("Dead letters")).to_have_text("0")
    await dashboard.screenshot("overview-stale")

    again = await embedded("--workers", "2", "--port", port)
    await dashboard.is_live(within=10)
    await expect(dashboard.page.get_by_text("The server does not answer.")).to_be_hidden()
    await again.submit("shown.fail")
    await expect(dashboard.tile("Dead letters")).to_have_text("1", timeout=3_000)


async def test_a_server_that_hangs_is_noticed(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "2")
    dashboard = await show(server)
    dashboard.tolerates(NO_ANSWER)
    await dashboard.is_live()
    server.send(signal.SIGSTOP)
    try:
        # No connection breaks: it is a call that gets no answer in time.
        await dashboard.is_live("stale", within=30)
    finally:
        server.send(signal.SIGCONT)
    await dashboard.is_live(within=15)
    await server.submit("shown.fail")
    await expect(dashboard.tile("Dead letters")).to_have_text("1", timeout=5_000)


async def test_without_live_events_the_page_asks(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "2", "--events-max", "0")
    dashboard = await show(server)
    dashboard.tolerates(r"status of 404.*/events")
    await dashboard.is_live("stale")
    await expect(dashboard.page.locator(".live")).to_have_text("Polling")
    await server.submit("shown.fail")
    await expect(dashboard.tile("Dead letters")).to_have_text("1", timeout=6_000)


async def test_a_hidden_page_gives_its_stream_back(on_postgresql: Serve, show: Open) -> None:
    """Browsers allow six connections to a server: tabs that nobody sees are not to use them up."""
    server = await on_postgresql("--workers", "2")
    dashboard = await show(server)
    await dashboard.is_live()
    await dashboard.page.evaluate(
        """() => {
          Object.defineProperty(document, 'hidden', { configurable: true, get: () => window.hiding });
          window.hiding = true;
          document.dispatchEvent(new Event('visibilitychange'));
        }"""
    )
    await dashboard.is_live("connecting", within=40)
    await server.submit("shown.fail")
    await dashboard.page.evaluate(
        "() => { window.hiding = false; document.dispatchEvent(new Event('visibilitychange')); }"
    )
    await dashboard.is_live()
    await expect(dashboard.tile("Dead letters")).to_have_text("1", timeout=3_000)


async def test_a_page_besides_the_overview_lives_through_death_and_return(embedded: Serve, show: Open) -> None:
    port = str(free_port())
    server = await embedded("--workers", "2", "--port", port)
    await server.finished(await server.submit("shown.quick"))
    dashboard = await show(server, "#/queues")
    page = dashboard.page
    dashboard.tolerates(NO_ANSWER)
    await dashboard.is_live()
    await expect(dashboard.row("Queues", "quick")).to_be_visible()
    # Whatever is opened later is there already.
    await page.wait_for_function(
        "() => performance.getEntriesByName(new URL('/assets/workers.js', location).href).length"
    )
    server.kill()
    await dashboard.is_live("stale", within=5)
    await expect(page.get_by_text("The server does not answer.")).to_be_visible()
    await expect(dashboard.row("Queues", "quick")).to_be_visible()
    await dashboard.go("#/workers")
    await expect(page.locator("h1")).to_have_text("Workers")

    async def upgraded(route: Route) -> None:
        answer = await route.fetch()
        await route.fulfill(json={**await answer.json(), "version": "99.0"})

    await page.route("**/session", upgraded)
    await embedded("--workers", "2", "--port", port)
    await dashboard.is_live(within=10)
    await expect(page.get_by_text("1 alive")).to_be_visible(timeout=10_000)
    # What was loaded is of the version before.
    await expect(page.locator("#banner")).to_contain_text("99.0")
    await page.unroute("**/session")
    await page.get_by_role("button", name="Reload").click()
    await dashboard.is_live()
    await expect(page.locator("#banner")).to_be_hidden()


async def test_a_page_that_could_not_be_loaded_comes_by_itself(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "2")
    dashboard = await show(server, None)
    page = dashboard.page
    dashboard.tolerates(r"net::ERR_FAILED", "dynamically imported module")
    await page.route("**/assets/queues.js*", lambda route: route.abort())
    await page.route("**/events", lambda route: route.abort())
    await dashboard.open("#/queues")
    await expect(page.locator("h1")).to_have_text("Not available")
    await dashboard.is_live("stale")
    await page.unroute_all()
    await dashboard.is_live()
    await expect(page.locator("h1")).to_have_text("Queues")


async def test_a_page_comes_by_itself_without_live_events_too(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "2", "--events-max", "0")
    dashboard = await show(server, None)
    page = dashboard.page
    dashboard.tolerates(r"net::ERR_FAILED", "dynamically imported module", r"status of 404.*/events")
    await page.route("**/assets/queues.js*", lambda route: route.abort())
    await dashboard.open("#/queues")
    await expect(page.locator("h1")).to_have_text("Not available")
    await expect(page.locator(".live")).to_have_text("Polling")
    await page.unroute_all()
    await expect(page.locator("h1")).to_have_text("Queues", timeout=10_000)


async def test_a_stream_that_gets_no_answer_is_not_waited_for(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "2")
    dashboard = await show(server, None)
    # A connection that is open and says nothing.
    await dashboard.page.route("**/events", lambda route: asyncio.sleep(0))
    await dashboard.open()
    await dashboard.is_live("stale", within=6)
    await server.submit("shown.fail")
    await expect(dashboard.tile("Dead letters")).to_have_text("1", timeout=6_000)


async def test_a_reader_of_the_stream_that_cannot_start_is_started_again(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "2")
    dashboard = await show(server, None)
    dashboard.tolerates(r"net::ERR_FAILED")
    await dashboard.page.route("**/assets/stream.js", lambda route: route.abort())
    await dashboard.open()
    await dashboard.is_live("stale", within=6)
    await dashboard.page.unroute("**/assets/stream.js")
    await dashboard.is_live(within=10)


async def test_without_live_events_the_rates_are_those_of_the_last_bucket(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "4", "--events-max", "0")
    dashboard = await show(server)
    dashboard.tolerates(r"status of 404.*/events")

    async def load() -> None:
        while True:
            await server.submit_all([{"type": "shown.quick"}] * 10)
            await asyncio.sleep(0.2)

    loading = asyncio.create_task(load())
    try:
        tile = dashboard.tile("Completed")
        await expect(tile).to_have_text(re.compile(r"^[1-9]"), timeout=25_000)
        seen = []
        for _ in range(28):
            await asyncio.sleep(0.25)
            seen.append(await tile.inner_text())
        assert all(re.match("[1-9]", said) for said in seen), seen
    finally:
        loading.cancel()


async def test_what_nobody_told_is_a_gap_and_what_was_missed_is_not_of_now(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "1")
    dashboard = await show(server)
    told = await dashboard.page.evaluate(
        """async () => {
          const { Rates } = await import('/assets/rates.js');
          const at = 1_800_000_001_000, item = ms => ({ at: new Date(ms).toISOString(), completed: 50 });
          const happened = (ms, completed) => new Map([[Math.floor(ms / 1_000), { completed }]]);
          const rates = new Rates();
          rates.learn({ bucket_seconds: 5, items: [item(at - 61_000), item(at - 26_000)] });
          const course = now => rates.series(1, now).values.completed;
          const polled = course(at);
          // The stream comes back with what was missed in half a minute, then goes on.
          rates.listen(at);
          rates.add(happened(at - 20_000, 3_000), at + 100);
          const missed = rates.present(at + 2_000).completed;
          rates.add(happened(at + 2_000, 30), at + 2_100);
          const heard = rates.present(at + 3_100).completed;
          // A quiet slot of which the stream told nothing is known to be quiet.
          const later = course(at + 12_000);
          rates.forget();
          return { polled, missed, heard, later, lost: rates.present(at + 13_000) };
        }"""
    )
    assert told["polled"][-6:] == [10, None, None, None, None, None]
    assert told["polled"][0] is None
    assert told["missed"] == 0
    assert told["heard"] > 5
    assert told["later"][-2] == 0
    assert told["lost"] is None


async def test_the_clock_of_the_server_does_not_jump(embedded: Serve, show: Open) -> None:
    dashboard = await show(await embedded("--workers", "1"))
    apart = await dashboard.page.evaluate(
        """async () => {
          const { learnClock, now } = await import('/assets/format.js');
          const began = Date.now(), at = () => now() - began;
          Date.now = () => began;
          // Told in whole seconds, by a server that is about 2.5 s ahead.
          return [2_600, 1_900, 2_400, 400, 0].map(ahead => {
            learnClock(new Date(began + ahead - 500).toISOString());
            return at();
          });
        }"""
    )
    assert apart == [2_600, 2_600, 2_600, 400, 400]


async def test_a_slow_deed_is_waited_for_and_is_no_outage(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "1")
    dashboard = await show(server)
    await dashboard.is_live()
    await dashboard.page.route(
        re.compile("/(jobs/actions|dlq/replay|dlq|queues/a/pause)$"), lambda route: asyncio.sleep(0)
    )
    said = await dashboard.page.evaluate(
        """async () => {
          const { del, get, post } = await import('/assets/api.js');
          const { state } = await import('/assets/live.js');
          const patience = [], kept = AbortSignal.timeout;
          const details = [];
          // What the page itself asks meanwhile has its time.
          const hurried = async ask => {
            AbortSignal.timeout = ms => { patience.push(ms); return kept.call(AbortSignal, 100); };
            const asked = ask();
            AbortSignal.timeout = kept;
            await asked.catch(error => details.push(error.detail));
          };
          for (const ask of [() => post('/jobs/actions', {}), () => post('/dlq/replay', {}), () => del('/dlq'),
                             () => post('/queues/a/pause'), () => post('/queues/a/pause', null, { patience: 30_000 })])
            await hurried(ask);
          const after = state();
          await hurried(() => get('/dlq'));
          return { patience, details, states: [after, state()] };
        }"""
    )
    assert said["patience"] == [120_000, 120_000, 120_000, 15_000, 30_000, 15_000]
    assert all("not known whether it was done" in detail for detail in said["details"][:5]), said["details"]
    assert said["details"][5] == "Nothing came within 15 s."
    assert said["states"] == ["live", "stale"]
