"""Mutation checks: each guard is removed, one at a time, and a test must notice.

    python -m tests.mutants [NAME...] [--list] [--workers N]

`table.py` names the guards, `run.py` removes them in a copy of the tree.
"""
