-- Keep the newest attempts of jobs that run again and again.
-- Takes: id uuid[], keep integer
DELETE FROM attempts a USING unnest(:id) AS w(id)
WHERE a.job_id = w.id AND a.fence < (
    SELECT min(fence) FROM (
        SELECT fence FROM attempts b WHERE b.job_id = w.id ORDER BY fence DESC LIMIT :keep
    ) AS kept
)
