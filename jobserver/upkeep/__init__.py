"""Upkeep closes every gap: one loop a file, all of one shape, on every process. No process is a leader.

pulse.py      says that this process lives, and keeps its leases
heartbeat.py  lets the pulse go on while the event loop is blocked, and watches the loop
hear.py       hears of cancels, pauses and new types; tells progress
promote.py    moves due jobs from the delayed sets to their streams; refills the sets from SQL
expire.py     fails waiting jobs whose time is over
reclaim.py    takes back running jobs of the dead and those whose lease is over, and their messages
reconcile.py  finds waiting jobs whose message was lost
watchdog.py   rebuilds connections to Redis when work waits here and nothing is read
prune.py      deletes what is older than its retention; folds the counts
"""
