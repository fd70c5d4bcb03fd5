"""The torture: real engines and server processes, a bounded load, faults on purpose, and a check of the history.

history.py    what happened, as data: submits, runs, rows, fault windows
check.py      history -> violations; pure
schedule.py   seed -> the sequence of faults and the jobs of the load
clock.py      the wall clock of a process, moved
moved.py      starts a server on such a clock
oracle.py     the handlers, which log outside of the system under test
load.py       submits, cancels and replays over HTTP, and remembers every answer
engines.py    PostgreSQL and Valkey of its own, to kill, pause and cut off; the embedded pair
installation.py  copies, rights and ports of the programs of engines
processes.py  the server processes, started again when they die
proxy.py      what stands between a server and an engine
faults.py     the table of faults
watch.py      the gauges of the servers, all the while
evidence.py   what SQL and Redis hold in the end
report.py     progress for people, figures for machines
run.py        start, load with faults, quiesce, check
"""
