-- How many due jobs come after a waiting one, counted up to 10,000, and how many of those are queued.
-- Takes: id uuid
-- Returns: behind, queued
SELECT count(*) AS behind, coalesce(sum(CASE WHEN b.status = 'queued' THEN 1 ELSE 0 END), 0) AS queued
FROM (
    SELECT j.status FROM jobs m JOIN jobs j ON j.queue = m.queue AND j.priority = m.priority
        AND j.available_at >= m.available_at AND (j.available_at > m.available_at OR j.id > m.id)
        AND j.available_at <= :now
    WHERE m.id = :id AND j.status IN ('queued', 'scheduled', 'retrying')
    UNION ALL
    SELECT j.status FROM jobs m JOIN jobs j ON j.queue = m.queue AND m.priority < 2 AND j.priority = 2
        AND j.available_at <= :now
    WHERE m.id = :id AND j.status IN ('queued', 'scheduled', 'retrying')
    UNION ALL
    SELECT j.status FROM jobs m JOIN jobs j ON j.queue = m.queue AND m.priority < 1 AND j.priority = 1
        AND j.available_at <= :now
    WHERE m.id = :id AND j.status IN ('queued', 'scheduled', 'retrying')
    LIMIT 10000
) AS b
