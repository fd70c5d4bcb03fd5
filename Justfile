# `just` lists everything. Needs `pip install -e '.[dev]'`; `just bench` also `'.[bench]'`.

[private]
default:
    @just --list --unsorted

# run the server with the embedded engines; options of `jobserver serve` may follow
serve *options:
    jobserver serve {{options}}

# run the tests; options of pytest may follow
test *options:
    pytest {{options}}

# run the tests with JOBSERVER_TEST_LONG=1, those that take a minute too; options of pytest may follow
full *options:
    JOBSERVER_TEST_LONG=1 pytest {{options}}

# everything that must hold before a commit: lint, types, tests
check: lint types
    pytest -q

# format the code and apply safe fixes
fmt:
    ruff check --fix .
    ruff format .

# style, formatting and the direction of imports
lint:
    ruff check .
    ruff format --check .
    lint-imports

# check the types
types:
    mypy

# start the whole stack in containers, with passwords made on first use; options of `docker compose` may follow
up *options:
    python compose/passwords.py
    docker compose -f compose/compose.yml {{options}} up --detach --build --wait

# stop the stack; its data stays
down:
    docker compose -f compose/compose.yml down

# follow the logs of the stack; names of services may follow
logs *services:
    docker compose -f compose/compose.yml logs --follow --tail 100 {{services}}

# run so many servers behind the proxy
scale servers:
    docker compose -f compose/compose.yml up --detach --no-recreate --scale server={{servers}} server

# make the JSON of the Grafana dashboards
dashboards:
    python -m grafana.dashboards

# measure everything, beside the peers too (hours; minutes with --quick); names of benchmarks may follow
bench *options:
    python -m bench {{options}}

# measure the floors that a release must hold (about 5 minutes); options of bench.floors may follow
floors *options:
    python -m bench.floors {{options}}

# measure how fast faults are recovered from (about 8 minutes); options of bench.recovery may follow
recovery *options:
    python -m bench.recovery {{options}}

# check what readers of live events see, faults included, and measure open streams (about 5 minutes); options of bench.events may follow
events *options:
    python -m bench.events {{options}}

# measure what the dashboard costs the server, and itself, in a real browser (about 25 minutes); options of bench.page may follow
page *options:
    python -m bench.page {{options}}

# offer a server three times what it can do, for a minute, and look what becomes of those it takes; options may follow
overload *options:
    python -m bench.overload {{options}}

# break a server on purpose and check that nothing was lost; options of `jobserver torture` may follow
torture *options:
    jobserver torture {{options}}

# remove each guard, one at a time, and show which test fails without it (about 10 minutes); names of guards may follow
mutants *names:
    python -m tests.mutants {{names}}

# the tortures that a release must survive (about 45 minutes), into bench/results/torture.json
evidence *reports:
    python -m bench.torture {{reports}}

# measure the peers beside this server, each in an environment of its own (about an hour); options of bench.peers may follow
peers *options:
    python -m bench.peers {{options}}
