"""The batch and its lease against a model that knows no states: only facts, and who may still change them.

The domain side is `batches.after` and `batches.after_failure`, played as the ledger plays them: an outcome is applied
only by who shows the token of the lease. The model side are a few facts about each batch (does it wait in the ledger,
who holds it, what became of it), from which the state follows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from podium_scheduler.domain import batches
from podium_scheduler.domain.batches import Event, FailureReason, State

POLICY = batches.RetryPolicy(max_attempts=2)
PICK = st.integers(0, 1_000)
REASONS = [FailureReason.WORKER_LOST] * 3 + [FailureReason.EXECUTOR_CRASHED, FailureReason.BAD_PAYLOAD]
BY_LEASE = {Event.COMPLETE, Event.RETRY, Event.SPLIT}
RESULT = "result"


@dataclass(slots=True)
class Facts:
    """What is true of a batch, said without the word state."""

    items: range
    entry: bool = False
    """A reference to it is in the work stream."""
    holder: int | None = None
    """The token of who computes it."""
    end: str | None = None
    """RESULT, or why there is none."""
    read: bool = False
    attempts: int = 0
    blamed: int = 0
    """Attempts that counted against it since it was cut or computed."""

    @property
    def state(self) -> State:
        """The state that follows from the facts."""
        if self.end == RESULT:
            return State.DELIVERED if self.read else State.COMPLETED
        if self.end is not None:
            return State(self.end)
        if self.holder is not None:
            return State.LEASED
        return State.QUEUED if self.entry else State.PENDING


@dataclass(slots=True)
class Played:
    """The same batch as the domain has it."""

    state: State = State.PENDING
    attempt: int = 0
    token: int | None = None


class BatchMachine(RuleBasedStateMachine):
    """One job's batches; everything may happen to each at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: list[Facts] = []
        self.played: list[Played] = []
        self.tokens = itertools.count(1)
        self.issued: list[tuple[int, int]] = []
        self.outcomes: set[int] = set()
        """Tokens whose attempt has ended with a result, a failure or a loss."""

    @initialize(items=st.integers(1, 9))
    def admit(self, items: int) -> None:
        self.items = items
        self._add(range(items))

    def _add(self, items: range) -> None:
        self.facts.append(Facts(items))
        self.played.append(Played())

    def _move(self, number: int, event: Event) -> bool:
        """Applies an event to the domain's batch if the domain allows it; says whether it did."""
        try:
            self.played[number].state = batches.after(self.played[number].state, event)
        except batches.IllegalTransition:
            return False
        return True

    # --- choosing -----------------------------------------------------------------------------------------

    @rule(pick=PICK)
    def work_goes_out(self, pick: int) -> None:
        """The way of most batches."""
        number = self._among(pick, State.PENDING)
        self.feed(number)
        self.claim(number)

    @precondition(lambda self: self.issued)
    @rule(pick=PICK, old=st.integers(0, 3))
    def complete(self, pick: int, old: int) -> None:
        self._complete(*self._lease(pick, old == 1))

    @precondition(lambda self: self.issued)
    @rule(pick=PICK, old=st.integers(0, 3), reason=st.sampled_from(REASONS), handed_back=st.integers(0, 3))
    def fail(self, pick: int, old: int, reason: FailureReason, handed_back: int) -> None:
        self._fail(*self._lease(pick, old == 1), reason, handed_back == 1)

    @rule(pick=PICK)
    def its_executor_dies(self, pick: int) -> None:
        number = self._among(pick, State.PENDING)
        self.feed(number)
        self.claim(number)
        holder = self.facts[number].holder
        if holder is not None:
            self._fail(number, holder, FailureReason.EXECUTOR_CRASHED, False)

    @rule(pick=PICK)
    def its_reader_comes(self, pick: int) -> None:
        self.its_reader_has_read_it(self._among(pick, State.COMPLETED))

    @rule(pick=PICK, event=st.sampled_from([e for e in Event if e not in BY_LEASE]))
    def something_else(self, pick: int, event: Event) -> None:
        """Anything that needs no lease, to any batch, in whatever state."""
        number = pick % len(self.facts)
        match event:
            case Event.FEED:
                self.feed(number)
            case Event.CLAIM:
                self.claim(number)
            case Event.ASSEMBLE:
                self.all_of_it_is_known(number)
            case Event.REFEED:
                self.its_entry_is_lost(number)
            case Event.RELEASE:
                self.its_reader_has_read_it(number)
            case Event.RECOMPUTE:
                self.its_result_is_lost(number)
            case Event.GIVE_UP:
                self.nobody_can_serve_it(number)
            case Event.REQUEUE:
                self.an_operator_requeues_it(number)
            case _:
                self.its_job_ends(number, event)

    def _among(self, pick: int, state: State) -> int:
        found = [n for n, f in enumerate(self.facts) if f.state is state] or [0]
        return found[pick % len(found)]

    def _lease(self, pick: int, old: bool) -> tuple[int, int]:
        held = [(n, f.holder) for n, f in enumerate(self.facts) if f.holder is not None]
        among = self.issued if old or not held else held
        return among[pick % len(among)]

    # --- what happens to it -------------------------------------------------------------------------------

    def feed(self, number: int) -> None:
        facts = self.facts[number]
        waits = facts.end is None and facts.holder is None and not facts.entry
        assert self._move(number, Event.FEED) == waits
        facts.entry |= waits

    def claim(self, number: int) -> None:
        facts, played = self.facts[number], self.played[number]
        assert self._move(number, Event.CLAIM) == facts.entry
        if facts.entry:
            token = next(self.tokens)
            facts.entry, facts.holder = False, token
            facts.attempts += 1
            played.token, played.attempt = token, played.attempt + 1
            self.issued.append((number, token))

    def all_of_it_is_known(self, number: int) -> None:
        facts = self.facts[number]
        waits = facts.end is None and facts.holder is None and not facts.entry
        assert self._move(number, Event.ASSEMBLE) == waits
        facts.end = RESULT if waits else facts.end

    def its_entry_is_lost(self, number: int) -> None:
        assert self._move(number, Event.REFEED) == self.facts[number].entry
        self.facts[number].entry = False

    def _complete(self, number: int, token: int) -> None:
        facts = self.facts[number]
        if self._shows(number, token):
            assert self._move(number, Event.COMPLETE)
            facts.holder, facts.end = None, RESULT

    def _fail(self, number: int, token: int, reason: FailureReason, handed_back: bool) -> None:
        if not self._shows(number, token):
            return
        facts, played = self.facts[number], self.played[number]
        facts.holder = None
        outcome = batches.after_failure(
            played.attempt, reason, items=len(facts.items), retryable=reason is not FailureReason.BAD_PAYLOAD,
            handed_back=handed_back, policy=POLICY,
        )  # fmt: skip
        match outcome:
            case batches.Retry(delay, counts):
                assert self._move(number, Event.RETRY)
                assert timedelta(0) < delay <= POLICY.max_delay and counts != handed_back
                played.attempt -= not counts
                facts.blamed += counts
                assert counts is False or facts.blamed < POLICY.max_attempts, "the budget is finite"
            case batches.GiveUp(why):
                assert self._move(number, Event.GIVE_UP)
                assert not handed_back and why is reason
                alone = reason is FailureReason.EXECUTOR_CRASHED and len(facts.items) == 1 and facts.blamed
                spent = facts.blamed + 1 >= POLICY.max_attempts
                assert alone or spent or reason is FailureReason.BAD_PAYLOAD, "nothing is given up too soon"
                facts.end = "FAILED"
            case batches.Split(first, second):
                assert self._move(number, Event.SPLIT)
                assert reason is FailureReason.EXECUTOR_CRASHED and first > 0 and second > 0
                whole = facts.items
                facts.items, facts.blamed, played.attempt = whole[:first], 0, 0
                self._add(whole[first:])
                assert len(self.facts[-1].items) == second

    def _shows(self, number: int, token: int) -> bool:
        """Whether the domain's lease is this one; if so, it ends here and is found to end for the first time."""
        played = self.played[number]
        assert (played.token == token) == (self.facts[number].holder == token)
        if played.token != token:
            return False
        assert token not in self.outcomes
        self.outcomes.add(token)
        played.token = None
        return True

    def its_reader_has_read_it(self, number: int) -> None:
        facts = self.facts[number]
        assert self._move(number, Event.RELEASE) == (facts.end == RESULT and not facts.read)
        facts.read |= facts.end == RESULT

    def its_result_is_lost(self, number: int) -> None:
        facts = self.facts[number]
        lost = facts.end == RESULT and not facts.read
        assert self._move(number, Event.RECOMPUTE) == lost
        if lost:
            facts.end, facts.blamed, self.played[number].attempt = None, 0, 0

    def nobody_can_serve_it(self, number: int) -> None:
        facts = self.facts[number]
        if facts.holder is None:
            waits = facts.end is None
            assert self._move(number, Event.GIVE_UP) == waits
            facts.entry, facts.end = False, "FAILED" if waits else facts.end

    def its_job_ends(self, number: int, event: Event) -> None:
        facts = self.facts[number]
        unread = facts.end is None or (facts.end == RESULT and not facts.read)
        assert self._move(number, event) == unread
        if unread:
            facts.end = "CANCELLED" if event is Event.CANCEL else "EXPIRED"
            facts.entry, facts.holder, self.played[number].token = False, None, None

    def an_operator_requeues_it(self, number: int) -> None:
        facts = self.facts[number]
        assert self._move(number, Event.REQUEUE) == (facts.end == "FAILED")
        if facts.end == "FAILED":
            facts.end, facts.blamed, self.played[number].attempt = None, 0, 0

    # --- what always holds --------------------------------------------------------------------------------

    @invariant()
    def the_domain_says_what_the_facts_say(self) -> None:
        for facts, played in zip(self.facts, self.played, strict=True):
            assert played.state is facts.state
            assert (played.token is not None) == (played.state is State.LEASED)
            assert 0 <= played.attempt <= facts.attempts

    @invariant()
    def every_item_is_in_one_batch(self) -> None:
        if self.facts:
            assert sorted(n for facts in self.facts for n in facts.items) == list(range(self.items))


TestBatchMachine = BatchMachine.TestCase
TestBatchMachine.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
