-- Delete those of some jobs that are terminal, in one status, older than their retention, and of no key that is known.
-- Takes: ids uuid[], status text, older_than_seconds float8
-- Returns: id
DELETE FROM jobs AS j
-- ARRAY, not IN: it is evaluated once.
WHERE j.id = ANY (ARRAY(
        SELECT o.id FROM jobs AS o
        -- As an expression: no index of statuses may offer itself, for the plan has to go by id.
        WHERE o.id = ANY(:ids) AND o.status || '' = :status AND o.status || '' IN ('completed', 'failed', 'canceled')
            AND o.finished_at < clock_timestamp() - make_interval(secs => :older_than_seconds)
            -- Or the repeat of a submit would make a second job.
            AND NOT EXISTS (
                SELECT FROM idempotency_keys AS k WHERE k.job_id = o.id AND k.expires_at > clock_timestamp()
            )
        ORDER BY o.id FOR UPDATE OF o SKIP LOCKED
    ))
RETURNING j.id
