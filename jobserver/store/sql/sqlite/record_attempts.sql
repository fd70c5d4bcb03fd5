-- The history rows of attempts that `settle` has just ended.
-- Takes: job_id uuid[], fence bigint[], number integer[], started_at timestamptz[], ended_at timestamptz[], outcome text[], error text[], worker_id text[]
INSERT INTO attempts (job_id, fence, number, started_at, ended_at, outcome, error, worker_id)
SELECT
    value ->> 'job_id', value ->> 'fence', value ->> 'number', value ->> 'started_at', value ->> 'ended_at',
    value ->> 'outcome', value ->> 'error', value ->> 'worker_id'
FROM json_each(:rows)
