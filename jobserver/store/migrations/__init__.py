"""Alembic migrations. Each must work with the previous release's code while both run."""

from typing import Final

# Known without importing Alembic, which costs a start 0.7 s; a test compares it with the scripts.
HEAD: Final = "0006"
