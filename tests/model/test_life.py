"""Random lives of jobs on both pairs of engines, beside a model. See machine.py for the rules.

JOBSERVER_MODEL_EXAMPLES=1000 looks further, each time elsewhere; `--hypothesis-seed` repeats such a run.
A failure is shrunk for up to five minutes, with JOBSERVER_MODEL_SHRINK=no it is shown as found.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import Pair
from tests.model.machine import LifeMachine
from tests.model.world import World

EXAMPLES = os.environ.get("JOBSERVER_MODEL_EXAMPLES")
PHASES = [Phase.generate] if os.environ.get("JOBSERVER_MODEL_SHRINK") == "no" else [Phase.generate, Phase.shrink]


# A run takes some 15 s; shrinking a failure takes longer.
@pytest.mark.timeout(600 if EXAMPLES is None else 86_400)
def test_whatever_happens_sql_says_what_the_model_says(pair: Pair) -> None:
    chosen = settings(
        max_examples=int(EXAMPLES or 20),
        stateful_step_count=40,
        # The same runs each time, unless somebody wants to look further.
        derandomize=EXAMPLES is None,
        database=None,
        print_blob=True,
        # Real engines: a step takes milliseconds, and what it costs varies with the machine.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        phases=PHASES,
        report_multiple_bugs=False,
    )
    with World(pair) as world:
        # A factory is what the function takes, whatever its annotation says.
        run_state_machine_as_test(lambda: LifeMachine(world), settings=chosen)  # type: ignore[arg-type]
