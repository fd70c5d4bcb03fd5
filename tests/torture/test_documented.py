"""The README names every fault, on which engines it can be injected, and what it does."""

from __future__ import annotations

from jobserver.torture.faults import BOTH, FAULTS
from tests.test_docs import code, table


def test_every_fault_is_documented() -> None:
    documented = {
        code(name): (engines, does) for name, engines, does in table("Torture", "fault", "engines", "what it does")
    }
    expected = {name: ("both" if fault.pairs == BOTH else "PostgreSQL", fault.says) for name, fault in FAULTS.items()}
    assert documented == expected
