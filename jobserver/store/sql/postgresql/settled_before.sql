-- Which of these attempts are in the history: a settlement whose commit was not confirmed looks itself up.
-- Takes: id uuid[], fence bigint[]
-- Returns: job_id, fence of the attempt, outcome, and status, fence_now of the job (null when it is gone)
SELECT a.job_id, a.fence, a.outcome, j.status, j.fence AS fence_now, j.queue, j.priority, j.type, j.due_at
FROM unnest(:id, :fence) AS w(id, fence)
JOIN attempts a ON a.job_id = w.id AND a.fence = w.fence
LEFT JOIN jobs j ON j.id = w.id
