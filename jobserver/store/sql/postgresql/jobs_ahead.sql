-- How many due jobs go before a waiting one, counted up to 10,000: those of higher priority, and older ones of its own.
-- Takes: id uuid, due boolean
-- Returns: paused, ahead; no row when there is no such job
SELECT
    EXISTS (SELECT FROM queues q WHERE q.name = m.queue AND q.paused) AS paused,
    (
        SELECT count(*) FROM (
            SELECT FROM jobs j
            WHERE :due AND j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = m.queue AND j.priority = m.priority
                AND j.available_at <= m.available_at
                -- Submitted in one batch, they share a moment.
                AND (j.available_at < m.available_at OR j.id < m.id)
            -- In the order of the index, and with a limit that the planner knows: else it would rather read the table.
            ORDER BY j.available_at LIMIT 10000
        ) AS older
    ) + (
        SELECT count(*) FROM (
            SELECT FROM jobs j
            WHERE :due AND j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = m.queue AND j.priority = 0
                AND m.priority > 0 AND j.available_at <= (SELECT clock_timestamp())
            ORDER BY j.available_at LIMIT 10000
        ) AS high
    ) + (
        SELECT count(*) FROM (
            SELECT FROM jobs j
            WHERE :due AND j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = m.queue AND j.priority = 1
                AND m.priority > 1 AND j.available_at <= (SELECT clock_timestamp())
            ORDER BY j.available_at LIMIT 10000
        ) AS normal
    ) AS ahead
FROM jobs m WHERE m.id = :id
