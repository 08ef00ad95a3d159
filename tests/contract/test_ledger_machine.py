"""The ledger in Postgres against `tests.support.ledger_model`: any order of calls, old tokens and repeats among them.

An ordinary run plays the same 25 games each time; PODIUM_TEST_EXAMPLES=2000 plays new ones, and shrinks what fails to
its shortest form (with pytest --timeout=0).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from tests.support import stack
from tests.support.ledger_calls import WORKERS, WORKLOADS, Calls, Ledger

SEARCHING = "PODIUM_TEST_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("PODIUM_TEST_EXAMPLES", "25"))
PICK = st.integers(0, 1_000)
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
PICKS = st.lists(PICK, min_size=1, max_size=3)


class LedgerMachine(Calls):
    """Chooses the calls. Most are the way of work; a few rules stand for all that may go wrong."""

    @initialize(sizes=SIZES)
    def begin(self, sizes: list[int]) -> None:
        self.admit(sizes, WORKLOADS[0])
        self.open_session(WORKERS[0], [], old=False)

    @precondition(lambda self: len(self.model.jobs) < 4)
    @rule(sizes=SIZES, workload=st.sampled_from(WORKLOADS), due=st.integers(0, 4))
    def a_job_comes(self, sizes: list[int], workload: str, due: int) -> None:
        self.admit(sizes, workload, due=due == 1)

    @rule(pick=PICK, picks=PICKS)
    def work_goes_out(self, pick: int, picks: list[int]) -> None:
        self.hand_out(pick, picks)

    @precondition(lambda self: self.held())
    @rule(picks=PICKS, failed=st.integers(0, 2), truncated=st.integers(0, 2))
    def work_is_done(self, picks: list[int], failed: int, truncated: int) -> None:
        self.complete(self.leases(picks, old=False), failed, truncated)

    @precondition(lambda self: self.held())
    @rule(picks=PICKS, how=st.sampled_from(["retry", "hand back", "split", "give up"]))
    def work_fails(self, picks: list[int], how: str) -> None:
        self._end(self.leases(picks, old=False), how)

    @precondition(lambda self: self.held())
    @rule(pick=PICK)
    def an_executor_dies_again_and_again(self, pick: int) -> None:
        (lease,) = self.leases([pick], old=False)
        job_id = self.job_id_of(lease[0])
        self.split([lease])
        for _ in range(2):
            self.hand_out(pick, [pick] * 20, job_id)
            self.split([(b.batch_id, b.token) for b in self.model.jobs[job_id].batches if b.token is not None])

    @precondition(lambda self: self.held())
    @rule(pick=PICK, how=st.sampled_from(["resume", "complete", "retry", "split", "give up"]))
    def a_lost_worker_is_late(self, pick: int, how: str) -> None:
        """Its batch is in other hands when it speaks."""
        ((batch_id, token),) = self.leases([pick], old=False)
        self.retry([(batch_id, token)], counts=True)
        self.hand_out(pick, [pick] * 20, self.job_id_of(batch_id))
        if how == "resume":
            self.resume(WORKERS[pick % len(WORKERS)], [(batch_id, token)])
        else:
            self._end([(batch_id, token)], how)

    @precondition(lambda self: self.issued)
    @rule(picks=PICKS, how=st.sampled_from(["complete", "retry", "hand back", "split", "give up"]))
    def somebody_repeats_or_is_late(self, picks: list[int], how: str) -> None:
        leases = self.leases(picks, old=True)
        self._end(leases, how)
        self._end(leases, how)

    def _end(self, leases: list[tuple[int, bytes]], how: str) -> None:
        match how:
            case "complete":
                self.complete(leases, 0, 1)
            case "split":
                self.split(leases)
            case "give up":
                self.give_up(leases)
            case _:
                self.retry(leases, counts=how == "retry")

    @precondition(lambda self: any(b.state == "FAILED" for b in self.model.batches()))
    @rule(picks=PICKS)
    def an_operator_requeues(self, picks: list[int]) -> None:
        self.requeue(picks)

    @precondition(lambda self: any(b.state in ("COMPLETED", "FAILED") for b in self.model.batches()))
    @rule(pick=PICK, before=st.integers(0, 20))
    def a_reader_has_read(self, pick: int, before: int) -> None:
        self.release(pick, before)

    @rule(
        pick=PICK,
        picks=PICKS,
        how=st.sampled_from(["feed", "hand over", "claim", "claim anything", "claim again", "admit again", "requeue"]),
    )
    def a_step_alone(self, pick: int, picks: list[int], how: str) -> None:
        match how:
            case "feed":
                self.feed(pick, len(picks))
            case "hand over":
                self.hand_over(pick, picks)
            case "claim again":
                self.claim_again(picks)
            case "admit again":
                self.admit_again(pick)
            case "requeue":
                self.requeue(picks)
            case _:
                self.claim(picks, pick, anything=how == "claim anything")

    @rule(
        pick=PICK,
        picks=PICKS,
        how=st.sampled_from(["break", "break for long", "goodbye", "resume", "resume with old", "renew", "rescue"]),
    )
    def a_session_moves(self, pick: int, picks: list[int], how: str) -> None:
        match how:
            case "break" | "break for long":
                self.stream_breaks(self.session(pick), over=how != "break")
            case "goodbye":
                self.goodbye(self.session(pick))
            case "renew":
                self.renew(picks)
            case "rescue":
                self.leases_are_lost()
            case _:
                self.open_session(WORKERS[pick % len(WORKERS)], picks, old=how == "resume with old")

    @rule(
        pick=PICK, picks=PICKS, how=st.sampled_from(["entries", "results", "results", "cancel", "deadlines", "nobody"])
    )
    def misfortune(self, pick: int, picks: list[int], how: str) -> None:
        match how:
            case "entries":
                self.entries_are_lost(picks)
            case "results":
                self.results_are_lost(pick, picks)
            case "cancel":
                self.cancel(pick)
            case "deadlines":
                self.expire_due()
            case _:
                self.give_up_waiting(WORKLOADS[1])


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    directory = tmp_path_factory.mktemp("ledger")
    with asyncio.Runner() as runner:
        resources = AsyncExitStack()
        servers = runner.run(resources.enter_async_context(stack.servers(directory)))
        made = Ledger(runner, servers.postgres.url)
        runner.run(made.jobs.put_app("default"))
        try:
            yield made
        finally:
            runner.run(made.pool.close())
            runner.run(resources.aclose())


def test_the_ledger_does_what_the_model_does(ledger: Ledger) -> None:
    LedgerMachine.ledger = ledger
    chosen = settings(
        max_examples=EXAMPLES,
        stateful_step_count=40,
        derandomize=not SEARCHING,
        # Shrinking takes minutes against a real database: an ordinary run says at once that something is wrong.
        phases=[Phase.generate, Phase.shrink] if SEARCHING else [Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(LedgerMachine, settings=chosen)
