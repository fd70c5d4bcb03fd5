-- Fold the deltas that statements appended into the counts. Several processes may do so at once.
-- Takes: max_rows integer
-- Returns: n, how many deltas were folded
WITH taken AS (
    DELETE FROM job_count_deltas WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM job_count_deltas LIMIT :max_rows FOR UPDATE SKIP LOCKED
    ))
    RETURNING queue, status, n
),
folded AS (
    INSERT INTO job_counts AS c (queue, status, n)
    SELECT queue, status, sum(n) FROM taken GROUP BY queue, status ORDER BY queue, status
    ON CONFLICT (queue, status) DO UPDATE SET n = c.n + excluded.n
)
SELECT count(*) AS n FROM taken
