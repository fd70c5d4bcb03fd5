-- How many due jobs go after a waiting one, counted up to 10,000, and how many of those are queued.
-- Takes: id uuid
-- Returns: behind, queued
SELECT younger.n + normal.n + low.n AS behind, younger.queued + normal.queued + low.queued AS queued
FROM jobs m
CROSS JOIN LATERAL (
    SELECT count(*) AS n, count(*) FILTER (WHERE s.status = 'queued') AS queued FROM (
        SELECT j.status FROM jobs j
        WHERE j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = m.queue AND j.priority = m.priority AND j.available_at >= m.available_at
            AND (j.available_at > m.available_at OR j.id > m.id)
            AND j.available_at <= (SELECT clock_timestamp())
        -- In the order of the index, and with a limit that the planner knows: else it would rather read the table.
        ORDER BY j.available_at LIMIT 10000
    ) AS s
) AS younger
CROSS JOIN LATERAL (
    SELECT count(*) AS n, count(*) FILTER (WHERE s.status = 'queued') AS queued FROM (
        SELECT j.status FROM jobs j
        WHERE j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = m.queue AND j.priority = 1 AND m.priority < 1
            AND j.available_at <= (SELECT clock_timestamp())
        ORDER BY j.available_at LIMIT 10000
    ) AS s
) AS normal
CROSS JOIN LATERAL (
    SELECT count(*) AS n, count(*) FILTER (WHERE s.status = 'queued') AS queued FROM (
        SELECT j.status FROM jobs j
        WHERE j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = m.queue AND j.priority = 2 AND m.priority < 2
            AND j.available_at <= (SELECT clock_timestamp())
        ORDER BY j.available_at LIMIT 10000
    ) AS s
) AS low
WHERE m.id = :id
