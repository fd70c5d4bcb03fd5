"""Upkeep closes every gap: one loop a file, all of one shape, on every process. No process is a leader.

heartbeat.py  says that this process lives; keeps its leases; hears of cancels, pauses and new types
promote.py    moves due jobs from the delayed sets to their streams; refills the sets from SQL
expire.py     fails waiting jobs whose time is over
reclaim.py    takes back running jobs whose lease is over, and messages of processes that died
reconcile.py  finds waiting jobs whose message was lost
prune.py      deletes what is older than its retention; folds the counts
"""
