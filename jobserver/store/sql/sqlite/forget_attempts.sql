-- The history of jobs that are gone.
-- Takes: ids uuid[]
DELETE FROM attempts AS j WHERE j.job_id IN (SELECT value FROM json_each(:ids))
