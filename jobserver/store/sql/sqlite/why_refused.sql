-- Why a claim did not win these jobs. "ours" was won by the same claim, whose commit was not confirmed.
-- Takes: id uuid[], fence bigint[], token uuid
-- Returns: id, fence, verdict (gone, expired, paused, early, again, ours, held, over, stale), due_at
SELECT
    w.id,
    w.fence,
    j.due_at,
    CASE
        WHEN j.id IS NULL THEN 'gone'
        WHEN j.status IN ('queued', 'scheduled', 'retrying') AND j.fence = w.fence THEN CASE
            WHEN j.expires_at <= :now THEN 'expired'
            WHEN EXISTS (SELECT 1 FROM queues q WHERE q.name = j.queue AND q.paused) THEN 'paused'
            WHEN j.due_at > :now THEN 'early'
            ELSE 'again'
        END
        WHEN j.status = 'running' AND j.fence = w.fence + 1 AND j.claim_token = :token THEN 'ours'
        WHEN j.status = 'running' AND j.fence = w.fence + 1 THEN CASE
            WHEN j.lease_expires_at > :now THEN 'held'
            ELSE 'over'
        END
        ELSE 'stale'
    END AS verdict
FROM (SELECT value ->> 'id' AS id, value ->> 'fence' AS fence FROM json_each(:rows)) AS w
LEFT JOIN jobs j ON j.id = w.id
