-- Keep the newest attempts of jobs that run again and again.
-- Takes: id uuid[], keep integer
DELETE FROM attempts
WHERE job_id IN (SELECT value ->> 'id' FROM json_each(:rows)) AND fence < (
    SELECT min(fence) FROM (
        SELECT fence FROM attempts b WHERE b.job_id = attempts.job_id ORDER BY fence DESC LIMIT :keep
    ) AS kept
)
