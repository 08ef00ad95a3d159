"""The planted bugs: each a small change that a tired engineer might make, and the test that must fail for it."""

from __future__ import annotations

from dataclasses import dataclass

_SCHEDULER = "services/scheduler/podium_scheduler"
_BATCHES = f"{_SCHEDULER}/adapters/sql/batch_ledger.py"
_SESSIONS = f"{_SCHEDULER}/adapters/sql/session_ledger.py"
_RESULTS = "services/gateway/podium_gateway/app/results.py"
_MACHINE = "tests/contract/test_ledger_machine.py::test_the_ledger_does_what_the_model_does"
_STREAM = "tests/integration/test_scheduler_stream.py"
_CONSUMERS = "tests/integration/test_consumer_ledger.py"


@dataclass(frozen=True, slots=True)
class Bug:
    """In `file`, `old` (which is there exactly once) becomes `new`; then `test` must fail."""

    name: str
    """What goes wrong, in a few words."""
    file: str
    old: str
    new: str
    test: str


BUGS = (
    Bug(
        "completion does not look at the lease",
        _BATCHES,
        "AND b.state = 'LEASED' AND b.lease_token = d.lease_token",
        "AND b.state = 'LEASED'",
        _MACHINE,
    ),
    Bug(
        "a retry does not look at the lease",
        _BATCHES,
        "WHERE b.batch_id = r.batch_id AND b.state = 'LEASED' AND b.lease_token = r.lease_token",
        "WHERE b.batch_id = r.batch_id AND b.state = 'LEASED'",
        _MACHINE,
    ),
    Bug(
        "a completion that comes twice counts twice",
        _BATCHES,
        "AND b.state = 'LEASED' AND b.lease_token = d.lease_token",
        "AND (b.state = 'COMPLETED' OR b.state = 'LEASED' AND b.lease_token = d.lease_token)",
        _MACHINE,
    ),
    Bug(
        "batches of cancelled jobs can be claimed",
        _BATCHES,
        "(b.state = 'QUEUED' OR b.lease_token = c.lease_token)",
        "(b.state IN ('QUEUED', 'CANCELLED') OR b.lease_token = c.lease_token)",
        _MACHINE,
    ),
    Bug(
        "a session that was fenced can claim",
        _BATCHES,
        "JOIN sessions s ON s.session_id = c.session_id AND s.state = 'OPEN'",
        "JOIN sessions s ON s.session_id = c.session_id",
        _MACHINE,
    ),
    Bug(
        "a worker resumes leases that it has lost",
        _SESSIONS,
        "WHERE b.batch_id = l.batch_id AND b.lease_token = l.lease_token AND b.state = 'LEASED'",
        "WHERE b.batch_id = l.batch_id AND b.state = 'LEASED'",
        _MACHINE,
    ),
    Bug(
        "a session that was fenced is renewed",
        _SESSIONS,
        "WHERE s.session_id = h.session_id AND s.state = 'OPEN'",
        "WHERE s.session_id = h.session_id",
        _MACHINE,
    ),
    Bug(
        "the rescuer does not wait for the grace",
        _SESSIONS,
        "WHERE state <> 'ENDED' AND expire_time <= now()",
        "WHERE (state = 'BROKEN' OR state = 'OPEN' AND expire_time <= now())",
        _MACHINE,
    ),
    Bug(
        "half of a split batch begins at the wrong place of its payload",
        _BATCHES,
        "payload_encoding, payload_offset + first, offered,",
        "payload_encoding, first, offered,",
        _MACHINE,
    ),
    Bug(
        "bisecting an odd number of items loses one",
        f"{_SCHEDULER}/domain/batches.py",
        "return Split(items // 2, items - items // 2)",
        "return Split(items // 2, items // 2)",
        "tests/unit/scheduler/test_batch_machine.py",
    ),
    Bug(
        "outcomes are acknowledged before they are committed",
        f"{_SCHEDULER}/app/completer.py",
        """            self._report(done, await self._complete(done))
""",
        """            self._report(done, {o.batch_id for o in done})
            await self._complete(done)
""",
        "tests/unit/scheduler/test_completer.py",
    ),
    Bug(
        "jobs are admitted to workers while the feeder looks whose turn it is",
        f"{_SCHEDULER}/app/feeder.py",
        "        self._straight.close()\n",
        "",
        "tests/unit/scheduler/test_straight.py",
    ),
    Bug(
        "a leader whose term is over leases what it admits",
        f"{_SCHEDULER}/adapters/sql/feed_ledger.py",
        """s.state = 'OPEN'
        WHERE EXISTS (SELECT FROM term)
""",
        """s.state = 'OPEN'
""",
        "tests/integration/test_feed_ledger.py",
    ),
    Bug(
        "results are admitted to Redis more than once",
        f"{_SCHEDULER}/adapters/redis/admit_result.lua",
        "if known then",
        "if false then",
        "tests/integration/test_result_buffer.py",
    ),
    Bug(
        "released results are not trimmed",
        f"{_SCHEDULER}/adapters/redis/release_results.lua",
        "      redis.call('HDEL', KEYS[2], item .. ':' .. upload .. ':' .. chunk)\n",
        "",
        "tests/integration/test_result_buffer.py",
    ),
    Bug(
        "entries are settled although nobody took their batch",
        f"{_SCHEDULER}/app/dispatcher.py",
        "done = claims.keys() - await self._untaken(claims, leased)",
        "done = set(claims)",
        "tests/unit/scheduler/test_dispatcher.py",
    ),
    Bug(
        "a leader goes on although another has been elected",
        f"{_SCHEDULER}/adapters/sql/leadership.py",
        "WHERE leader_term = $2 RETURNING true",
        "WHERE leader_term >= $2 RETURNING true",
        "tests/integration/test_leadership_terms.py",
    ),
    Bug(
        "what a superseded leader writes is committed",
        f"{_SCHEDULER}/adapters/sql/leadership.py",
        '        if not await connection.scalar(_FENCE, {"term": self.term}):\n',
        "        if self.term < 0:\n",
        "tests/integration/test_leadership.py",
    ),
    Bug(
        "after a loss of Redis nothing is computed again",
        f"{_SCHEDULER}/app/reconciler.py",
        "            await self._recompute_lost()\n            await self._returned",
        "            await self._returned",
        "tests/unit/scheduler/test_reconciler.py",
    ),
    Bug(
        "queued batches without an entry stay queued",
        f"{_SCHEDULER}/app/reconciler.py",
        "missing = [batch_id for batch_id in queued if batch_id not in present]",
        "missing = [batch_id for batch_id in present if batch_id not in queued]",
        f"{_STREAM}::test_losing_redis_costs_recomputation_and_nothing_else",
    ),
    Bug(
        "a worker forgets finished results when it reconnects",
        "services/worker/podium_worker/app/worker.py",
        """            if entry.state is batches.State.FINISHED:
                self._outbox.frames(entry.frames)
        self._note()
""",
        """        self._note()
""",
        "tests/integration/test_worker_session.py::test_finished_results_survive_a_broken_stream",
    ),
    Bug(
        "the SDK hands on what it has seen before",
        "libs/client/podium_client/streams.py",
        "        return chunk.since(expected)\n",
        "        return chunk\n",
        "tests/unit/client/test_client_streams.py",
    ),
    Bug(
        "a cursor inside a batch acknowledges all of it",
        _RESULTS,
        "cursors.Place(end if ends_batch else batch.first_item, max(at, reached))",
        "cursors.Place(end, max(at, reached))",
        "tests/integration/test_gateway_results.py::test_resuming_at_any_cursor_gives_the_identical_rest",
    ),
    Bug(
        "the gateway passes over failed batches in silence",
        _RESULTS,
        "            messages.extend(self._failure(batch))\n",
        "            list(self._failure(batch))\n",
        "tests/integration/test_gateway_results.py::test_failed_batches_are_told_at_their_place",
    ),
    Bug(
        "a worker keeps what a new session resumes although it no longer has it",
        "services/worker/podium_worker/app/worker.py",
        """            if key not in self._hand:
                # Nobody else""",
        """            if key in self._hand and key not in self._hand:
                # Nobody else""",
        "tests/unit/worker/test_worker.py::test_what_is_resumed_and_not_here_any_more_is_handed_back",
    ),
    Bug(
        "a requeued batch's failed items stay counted",
        f"{_SCHEDULER}/adapters/sql/requeue_ledger.py",
        "job_counters.Delta(pending=1, finished=-1, failed=-items)",
        "job_counters.Delta(pending=1, finished=-1, failed=0 * items)",
        f"{_CONSUMERS}::test_a_requeued_batch_comes_again_to_every_group_and_the_end_of_its_job_too",
    ),
    Bug(
        "a consumer acknowledges what another holds",
        f"{_SCHEDULER}/adapters/sql/consumer_ledger.py",
        """    WHERE delivery_id = ANY(CAST(:delivery_ids AS bigint[])) AND consumer_id = :consumer_id
    RETURNING batch_id
""",
        """    WHERE delivery_id = ANY(CAST(:delivery_ids AS bigint[]))
    RETURNING batch_id
""",
        f"{_CONSUMERS}::test_an_acknowledgement_that_comes_too_late_changes_nothing",
    ),
    Bug(
        "a batch is offered to a group twice",
        f"{_SCHEDULER}/adapters/sql/offers.py",
        "b.batch_id = ANY(CAST(:batch_ids AS bigint[])) AND NOT b.offered",
        "b.batch_id = ANY(CAST(:batch_ids AS bigint[]))",
        f"{_CONSUMERS}::test_a_lost_result_does_not_come_again_to_a_group_that_has_acknowledged_it",
    ),
    Bug(
        "stale failures drop somebody else's results",
        f"{_SCHEDULER}/app/completer.py",
        "for held in (o.held for o in ended if o.batch_id in leased):",
        "for held in (o.held for o in ended if leased is not None):",
        "tests/unit/scheduler/test_completer.py::test_a_stale_failure_leaves_the_results_of_whoever_has_the_lease_now",
    ),
)
