"""`python -m bench.peers`."""

from __future__ import annotations

from bench.peers.run import main

main()
