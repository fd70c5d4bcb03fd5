-- Jobs by queue and status, exact at this moment, without a look at the jobs.
-- Returns: queue, status, n
SELECT queue, status, sum(n) AS n FROM (
    SELECT queue, status, n FROM job_counts
    UNION ALL
    SELECT queue, status, n FROM job_count_deltas
) AS sums GROUP BY queue, status HAVING sum(n) <> 0
