"""The life of a job, in this order: submit stores it, the stream delivers it, a consumer executes it, finish decides.

submit.py    validate -> dedupe -> insert (durable) -> publish
deliver.py   the one bounded queue of what Redis is to be told
consume.py   fetch -> claim -> hand to a free consumer
execute.py   run one attempt: payload, timeout, cancel -> Outcome
finish.py    Outcome -> decide -> fenced write -> acknowledge, redeliver or dead-letter
commands.py  what people do to jobs and queues
batch.py     Batcher: group commit; knows nothing of jobs
"""
