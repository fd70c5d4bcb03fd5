"""`python -m jobserver.torture.moved ...` is `python -m jobserver ...` on a machine whose clock is wrong.

By how much says the environment; the clock is moved before anything of the server is imported.
"""

from __future__ import annotations

import runpy

from jobserver.torture import clock

if __name__ == "__main__":
    clock.shift_as_told()
    runpy.run_module("jobserver", run_name="__main__", alter_sys=True)
