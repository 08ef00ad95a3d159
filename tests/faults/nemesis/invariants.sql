-- What the ledger must satisfy. Each query returns the rows that violate it; none is right.
-- Before the semicolon of each: one statement, so that it sees one snapshot.
-- "always": at any moment, also in the middle of faults. "quiet": once all work is done and all is healed.
-- The batches of a job that is over (`archive_due` has come) leave in steps: what counts them looks at the others.

-- always: counters_equal_the_batches
SELECT j.job_id, j.state, j.batch_count, j.batches_pending, j.batches_finished, j.items_succeeded, j.items_failed
FROM jobs j CROSS JOIN LATERAL (
    SELECT count(*) AS batches,
           count(*) FILTER (WHERE state = 'PENDING') AS pending,
           count(*) FILTER (WHERE state NOT IN ('PENDING', 'QUEUED', 'LEASED')) AS finished,
           coalesce(sum(items_succeeded), 0) AS succeeded,
           coalesce(sum(CASE WHEN state IN ('FAILED', 'CANCELLED', 'EXPIRED') THEN item_count ELSE items_failed END), 0)
               AS failed,
           coalesce(sum(items_truncated), 0) AS truncated
    FROM batches WHERE job_id = j.job_id) AS b
WHERE NOT j.archived AND coalesce(j.archive_due > now(), true)
  AND (j.batch_count, j.batches_pending, j.batches_finished, j.items_succeeded, j.items_failed, j.items_truncated)
   <> (b.batches, b.pending, b.finished, b.succeeded, b.failed, b.truncated);

-- always: an_archived_job_has_no_batches_and_is_over
SELECT j.job_id, j.state, j.items_released, j.item_count, count(b.batch_id) AS batches
FROM jobs j LEFT JOIN batches b ON b.job_id = j.job_id
WHERE j.archived
GROUP BY j.job_id
HAVING count(b.batch_id) > 0 OR j.state IN ('PENDING', 'RUNNING')
    OR (j.items_released < j.item_count AND NOT j.results_expired);

-- always: batches_tile_the_job
WITH kept AS (
    SELECT job_id, item_count FROM jobs WHERE NOT archived AND coalesce(archive_due > now(), true)
)
SELECT job_id, first_item, expected, item_count
FROM (
    SELECT b.job_id, first_item, b.item_count,
           coalesce(lag(first_item + b.item_count) OVER (PARTITION BY b.job_id ORDER BY first_item), 0) AS expected
    FROM batches b JOIN kept ON kept.job_id = b.job_id) AS b
WHERE first_item <> expected
UNION ALL
SELECT j.job_id, NULL, j.item_count, sum(b.item_count)
FROM kept j LEFT JOIN batches b ON b.job_id = j.job_id
GROUP BY j.item_count, j.job_id HAVING coalesce(sum(b.item_count), 0) <> j.item_count;

-- always: one_job_a_request
SELECT app_id, request_id, count(*) FROM jobs GROUP BY app_id, request_id HAVING count(*) > 1;

-- always: feedable_says_what_it_means
SELECT job_id, feedable, batches_pending, state FROM jobs
WHERE feedable <> (batches_pending > 0 AND state IN ('PENDING', 'RUNNING'));

-- always: a_job_is_final_exactly_when_nothing_of_it_is_open
SELECT j.job_id, j.state, count(b.batch_id) AS open_batches
FROM jobs j LEFT JOIN batches b ON b.job_id = j.job_id AND b.state IN ('PENDING', 'QUEUED', 'LEASED')
GROUP BY j.job_id
HAVING (j.state IN ('PENDING', 'RUNNING')) <> (count(b.batch_id) > 0);

-- always: a_completed_job_has_every_outcome
SELECT job_id, item_count, items_succeeded, items_failed FROM jobs
WHERE state = 'COMPLETED' AND items_succeeded + items_failed <> item_count;

-- always: only_batches_of_ended_jobs_end_like_them
SELECT b.batch_id, b.state, j.state AS job_state FROM batches b JOIN jobs j ON j.job_id = b.job_id
WHERE b.state IN ('CANCELLED', 'EXPIRED') AND b.state <> j.state;

-- always: what_is_released_is_delivered
SELECT b.batch_id, b.first_item, b.item_count, b.state, j.items_released
FROM batches b JOIN jobs j ON j.job_id = b.job_id
WHERE b.state IN ('PENDING', 'QUEUED', 'LEASED', 'COMPLETED') AND b.first_item + b.item_count <= j.items_released;

-- always: what_is_acknowledged_is_released
-- Also where Redis lost a result that its client had read, so that the batch was computed again while the client
-- acknowledged it. What a consumer group waits for stays.
SELECT b.batch_id, b.first_item, b.item_count, b.state, j.acknowledged_item
FROM batches b JOIN jobs j ON j.job_id = b.job_id
WHERE b.state NOT IN ('PENDING', 'QUEUED', 'LEASED') AND b.first_item + b.item_count <= j.acknowledged_item
  AND b.payload IS NOT NULL AND NOT j.results_expired
  AND NOT EXISTS (SELECT FROM deliveries d WHERE d.batch_id = b.batch_id);

-- always: delivered_lies_before_released_or_acknowledged
SELECT b.batch_id, b.first_item, b.item_count, j.items_released, j.acknowledged_item
FROM batches b JOIN jobs j ON j.job_id = b.job_id
WHERE b.state = 'DELIVERED' AND b.first_item + b.item_count > greatest(j.items_released, j.acknowledged_item)
  AND NOT EXISTS (SELECT FROM consumer_groups g WHERE g.app_id = j.app_id);

-- quiet: all_that_is_acknowledged_counts_as_released
SELECT job_id, items_released, acknowledged_item FROM jobs j
WHERE items_released < acknowledged_item AND NOT EXISTS (SELECT FROM deliveries d WHERE d.job_id = j.job_id);

-- always: no_payload_after_delivery
SELECT batch_id FROM batches WHERE state = 'DELIVERED' AND payload IS NOT NULL;

-- always: open_batches_keep_their_payload
SELECT batch_id, state FROM batches WHERE state IN ('PENDING', 'QUEUED', 'LEASED', 'COMPLETED') AND payload IS NULL;

-- always: a_lease_is_whole
SELECT batch_id, state, lease_token IS NULL AS no_token, session_id FROM batches
WHERE (state = 'LEASED') <> (lease_token IS NOT NULL) OR (state = 'LEASED') <> (session_id IS NOT NULL);

-- always: no_token_twice
SELECT lease_token, count(*) FROM batches WHERE lease_token IS NOT NULL GROUP BY lease_token HAVING count(*) > 1;

-- always: one_open_session_a_worker
SELECT worker_id, count(*) FROM sessions WHERE state = 'OPEN' GROUP BY worker_id HAVING count(*) > 1;

-- always: a_failed_batch_says_why
SELECT batch_id, state, failure_reason FROM batches
WHERE (state IN ('FAILED', 'CANCELLED', 'EXPIRED')) <> (failure_reason IS NOT NULL);

-- always: a_batch_given_up_for_its_worker_used_its_attempts
SELECT batch_id, attempt FROM batches WHERE state = 'FAILED' AND failure_reason = 'WORKER_LOST' AND attempt < 5;

-- quiet: no_job_is_stuck
SELECT job_id, state, batches_pending, batches_finished, batch_count FROM jobs WHERE state IN ('PENDING', 'RUNNING');

-- quiet: no_batch_is_open
SELECT batch_id, job_id, state, attempt, session_id FROM batches WHERE state IN ('PENDING', 'QUEUED', 'LEASED');

-- quiet: no_lease_leaked
SELECT b.batch_id, b.session_id, s.state FROM batches b LEFT JOIN sessions s ON s.session_id = b.session_id
WHERE b.session_id IS NOT NULL;

-- quiet: no_session_without_a_heartbeat
SELECT session_id, worker_id, replica_id, state, expire_time FROM sessions
WHERE state <> 'ENDED' AND expire_time < now() OR state = 'BROKEN';
