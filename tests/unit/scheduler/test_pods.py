"""Pods by the rules alone: the diagram, what a list means, who may join, and whose the cost is."""

from __future__ import annotations

import itertools
import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_scheduler.domain import costs, join_tokens, pod_watch, pods
from podium_scheduler.domain.join_tokens import Refusal
from podium_scheduler.domain.pods import Move, Reason, Sighting, State

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
PATIENCE = pod_watch.Patience(
    call=timedelta(seconds=60), list_lag=timedelta(seconds=30), absence=timedelta(seconds=5),
    boot=timedelta(minutes=10), canary=timedelta(minutes=5), worker=timedelta(minutes=2), drain=timedelta(minutes=3),
)  # fmt: skip
SEEN = Sighting("im-1", "test-1", Decimal("1.5"))


def pod(state: State, **changed: object) -> pods.Pod:
    """A pod whose every time is an hour ago, as far as its state has come."""
    ago = NOW - HOUR
    reached = {
        State.INTENDED: (),
        State.CREATING: ("call",),
        State.STARTING: ("call", "listed"),
        State.READY: ("call", "listed", "registered", "ready"),
        State.DRAINING: ("call", "listed", "registered", "ready", "drain"),
        State.DESTROYING: ("call", "listed", "destroy"),
        State.FAILED: ("call", "end"),
        State.LOST: ("call", "listed", "end"),
        State.DESTROYED: ("call", "listed", "destroy", "end"),
    }[state]
    times = ("call", "listed", "registered", "ready", "drain", "destroy", "end", "last_seen")
    values: dict[str, object] = {f"{name}_time": ago if name in reached else None for name in times}
    values |= {
        "pod_id": uuid.UUID(int=1), "name": "test-1", "provider": "imaginary",
        "provider_pod_id": "im-1" if "listed" in reached else "", "state": state, "reason": Reason.NONE, "detail": "",
        "workload": "", "gpu_type": "L4", "gpu_count": 1, "vram_bytes": 0, "compute_capability": "", "device_name": "",
        "cloud": "NONE", "region": "", "price_usd_per_hour": Decimal("1.5"), "create_time": ago,
        "worker_id": uuid.UUID(int=9) if "registered" in reached else None,
    }  # fmt: skip
    return pods.Pod(**{**values, **changed})  # type: ignore[arg-type]


# --- the diagram ------------------------------------------------------------------------------------------


def test_the_diagram_has_every_arrow_and_no_other() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+): .+$", pods.__doc__ or "", re.MULTILINE)
    allowed = [(a.value, b.value) for a, b in itertools.product(State, State) if pods.may_move(a, b)]
    assert sorted(drawn) == sorted(allowed)


def test_only_what_the_list_shows_again_leaves_an_end() -> None:
    assert {(a, b) for a in pods.FINAL for b in State if pods.may_move(a, b)} == {
        (a, State.DESTROYING) for a in pods.FINAL
    }
    assert pods.FINAL.isdisjoint(pods.MAY_EXIST)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (State.INTENDED, State.STARTING, Reason.IDLE),
        (State.DESTROYED, State.READY, None),
        (State.READY, State.DRAINING, None),
        (State.STARTING, State.DESTROYING, Reason.NONE),
    ],
)
def test_a_move_that_is_no_arrow_or_has_no_reason_cannot_be_made(
    before: State, after: State, reason: Reason | None
) -> None:
    with pytest.raises(pods.IllegalMove):
        Move(uuid.uuid4(), before, after, reason)


def test_a_digest_is_in_no_repr() -> None:
    assert "secret" not in repr(Move(uuid.uuid4(), State.INTENDED, State.CREATING, join_token_sha256=b"secret")) + repr(
        join_tokens.Grant(State.STARTING, b"secret", None, None)
    )


def test_a_name_is_one_that_every_provider_takes() -> None:
    assert re.fullmatch("[a-z0-9][a-z0-9-]{0,62}", pods.name_of("podium-production", uuid.uuid4()))


# --- matching ---------------------------------------------------------------------------------------------


def test_what_the_list_shows_is_known_by_its_id_then_by_its_name() -> None:
    known = pod(State.READY, pod_id=uuid.UUID(int=1), name="a", provider_pod_id="im-1")
    new = pod(State.CREATING, pod_id=uuid.UUID(int=2), name="b")
    one, two = Sighting("im-1", "renamed"), Sighting("im-2", "b")
    twin, foreign = Sighting("im-3", "b"), Sighting("im-4", "a")
    found, strangers = pod_watch.match([known, new], [one, two, one, twin, foreign])
    assert found == {known.pod_id: one, new.pod_id: two}
    assert strangers == (twin, foreign), "a second of a name is not the first"


# --- what a sighting moves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (pod(State.INTENDED), (State.CREATING, None)),
        (pod(State.CREATING), (State.STARTING, None)),
        (pod(State.STARTING), (State.DESTROYING, Reason.BOOT_TIMEOUT)),
        (pod(State.STARTING, listed_time=NOW - 10 * timedelta(minutes=1)), None),
        (pod(State.STARTING, registered_time=NOW - HOUR), (State.DESTROYING, Reason.CANARY_TIMEOUT)),
        (pod(State.STARTING, registered_time=NOW - timedelta(minutes=5)), None),
        (pod(State.READY), None),
        (pod(State.READY, worker_gone_time=NOW - timedelta(minutes=2)), None),
        (pod(State.READY, worker_gone_time=NOW - timedelta(minutes=2.1)), (State.DESTROYING, Reason.WORKER_GONE)),
        (pod(State.DRAINING, drain_time=NOW - timedelta(minutes=3)), None),
        (pod(State.DRAINING, drain_time=NOW - timedelta(minutes=3.1)), (State.DESTROYING, None)),
        (pod(State.DRAINING, drain_time=NOW, worker_gone_time=NOW), (State.DESTROYING, None)),
        (pod(State.DESTROYING), None),
    ],
)
def test_a_pod_that_is_listed(before: pods.Pod, after: tuple[State, Reason | None] | None) -> None:
    move = pod_watch.after_sighting(before, SEEN, NOW, PATIENCE)
    assert (move and (move.after, move.reason)) == after
    broken = pod_watch.after_sighting(before, replace(SEEN, broken=True, detail="its words"), NOW, PATIENCE)
    if before.state in (State.INTENDED, State.DESTROYING):
        assert broken == move
    else:
        assert broken is not None
        # One that drains ends by itself, for the reason that it drains for.
        reason = None if before.state is State.DRAINING else Reason.PROVIDER_ERROR
        assert (broken.after, broken.reason, broken.detail) == (State.DESTROYING, reason, "its words")


def test_a_pod_that_broke_while_it_was_created_is_known_by_its_id_when_it_is_destroyed() -> None:
    move = pod_watch.after_sighting(pod(State.CREATING), replace(SEEN, broken=True), NOW, PATIENCE)
    assert move is not None and move.sighting is not None
    assert move.sighting.provider_pod_id == "im-1"


def test_only_news_is_written() -> None:
    known = pod(State.READY, last_seen_time=NOW - timedelta(seconds=1))
    assert not pod_watch.is_news(known, SEEN, NOW)
    assert not pod_watch.is_news(known, replace(SEEN, price_usd_per_hour=None), NOW)
    assert pod_watch.is_news(known, replace(SEEN, price_usd_per_hour=Decimal(2)), NOW)
    assert pod_watch.is_news(known, SEEN, NOW + pod_watch.SEEN_EVERY)
    assert pod_watch.is_news(pod(State.DESTROYING, provider_pod_id="", last_seen_time=NOW), SEEN, NOW)


# --- what an absence moves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "end"),
    [
        (State.STARTING, (State.LOST, Reason.VANISHED)),
        (State.READY, (State.LOST, Reason.VANISHED)),
        (State.DRAINING, (State.LOST, Reason.VANISHED)),
        (State.DESTROYING, (State.DESTROYED, None)),
    ],
)
def test_an_absence_is_believed_when_a_later_list_agrees(state: State, end: tuple[State, Reason | None]) -> None:
    missing = pod(state)
    since = pod_watch.absent_since(missing, None, NOW, PATIENCE)
    assert since == NOW
    assert pod_watch.after_absence(missing, since, NOW, PATIENCE) is None
    assert pod_watch.after_absence(missing, since, NOW + timedelta(seconds=4.9), PATIENCE) is None
    later = NOW + timedelta(seconds=5)
    assert pod_watch.absent_since(missing, since, later, PATIENCE) == since
    move = pod_watch.after_absence(missing, since, later, PATIENCE)
    assert move is not None
    assert (move.after, move.reason, move.bill_end) == (*end, since)
    at_once = replace(PATIENCE, absence=timedelta(0))
    assert pod_watch.after_absence(missing, since, NOW, at_once) is None, "one list is never enough"


def test_an_absence_says_nothing_before_the_list_must_show_the_pod() -> None:
    answered = pod(State.DESTROYING, call_time=NOW - HOUR, listed_time=NOW - timedelta(seconds=29))
    assert pod_watch.absent_since(answered, None, NOW, PATIENCE) is None
    unanswered = pod(State.CREATING, call_time=NOW - timedelta(seconds=89))
    assert pod_watch.absent_since(unanswered, None, NOW, PATIENCE) is None, "its call may take as long as a call may"
    later = NOW + timedelta(seconds=1)
    assert pod_watch.absent_since(answered, None, later, PATIENCE) == later
    assert pod_watch.absent_since(unanswered, None, later, PATIENCE) == later
    assert pod_watch.absent_since(pod(State.INTENDED), None, later, PATIENCE) is None


def test_a_create_call_that_led_to_nothing_fails() -> None:
    move = pod_watch.after_absence(pod(State.CREATING), NOW, NOW, PATIENCE)
    assert move is not None
    assert (move.after, move.reason) == (State.FAILED, Reason.CREATE_UNRESOLVED)


# --- strangers --------------------------------------------------------------------------------------------


def strange(
    known: list[pods.Pod], policy: pod_watch.OrphanPolicy = pod_watch.OrphanPolicy.DESTROY, seen: Sighting = SEEN
) -> Move | pods.Orphan | None:
    by_name = {one.name: one for one in known}
    return pod_watch.after_strange_sighting(seen, by_name, "imaginary", policy, uuid.UUID(int=5))


@pytest.mark.parametrize("state", sorted(pods.FINAL))
def test_a_pod_of_ours_that_is_listed_after_its_end_is_destroyed(state: State) -> None:
    over = pod(state, reason=Reason.CREATE_UNRESOLVED)
    for policy in pod_watch.OrphanPolicy:
        move = strange([over], policy)
        assert isinstance(move, Move)
        assert (move.pod_id, move.before, move.after, move.sighting) == (over.pod_id, state, State.DESTROYING, SEEN)
        assert move.reason_after(over.reason) is Reason.CREATE_UNRESOLVED


def test_a_pod_that_nobody_knows_is_destroyed_or_adopted() -> None:
    for policy, state in zip(pod_watch.OrphanPolicy, (State.DESTROYING, State.STARTING), strict=True):
        assert strange([], policy) == pods.Orphan(uuid.UUID(int=5), "test-1", "imaginary", state, SEEN)


@pytest.mark.parametrize("state", [State.READY, State.DESTROYED])
def test_a_second_pod_of_a_name_is_destroyed_whatever_the_policy(state: State) -> None:
    first = pod(state, provider_pod_id="im-0")
    for policy in pod_watch.OrphanPolicy:
        assert strange([first], policy) == pods.Orphan(
            uuid.UUID(int=5), "test-1#im-1", "imaginary", State.DESTROYING, SEEN
        )
    second = pod(State.DESTROYED, name="test-1#im-1")
    move = strange([first, second])
    assert isinstance(move, Move)
    assert move.before is State.DESTROYED


def test_a_pod_that_became_ours_meanwhile_is_left_alone() -> None:
    assert strange([pod(State.CREATING)]) is None
    assert strange([pod(State.STARTING)]) is None
    elsewhere = strange([pod(State.CREATING, provider="another")])
    assert isinstance(elsewhere, pods.Orphan)


# --- join tokens ------------------------------------------------------------------------------------------

WORKER = uuid.UUID(int=9)
GRANT = join_tokens.Grant(State.STARTING, b"s" * 32, NOW, None)


@pytest.mark.parametrize(
    ("grant", "refusal"),
    [
        (None, Refusal.WRONG),
        (replace(GRANT, sha256=None, expire_time=None), Refusal.WRONG),
        (replace(GRANT, sha256=b"t" * 32), Refusal.WRONG),
        (GRANT, Refusal.EXPIRED),
        (replace(GRANT, expire_time=NOW + timedelta(microseconds=1)), None),
        (replace(GRANT, worker_id=uuid.UUID(int=8)), Refusal.USED),
        (replace(GRANT, worker_id=WORKER), None),
        (replace(GRANT, worker_id=WORKER, sha256=b"t" * 32), Refusal.WRONG),
        *(
            (replace(GRANT, worker_id=WORKER, state=state), None)
            for state in (State.CREATING, State.STARTING, State.READY, State.DRAINING)
        ),
        *(
            (replace(GRANT, worker_id=WORKER, state=state), Refusal.POD_OVER)
            for state in (State.INTENDED, State.DESTROYING, State.DESTROYED, State.LOST, State.FAILED)
        ),
    ],
)
def test_who_may_join(grant: join_tokens.Grant | None, refusal: Refusal | None) -> None:
    assert join_tokens.refusal(grant, b"s" * 32, WORKER, NOW) == refusal


# --- costs ------------------------------------------------------------------------------------------------


def test_a_bill_is_price_times_time_within_the_window() -> None:
    a, b = uuid.UUID(int=1), uuid.UUID(int=2)
    spans = [
        costs.Span(a, NOW - HOUR, NOW + HOUR / 2, Decimal("2.00"), 4),
        costs.Span(a, NOW + HOUR / 2, None, Decimal("0.50"), 4),
        costs.Span(b, NOW - 2 * HOUR, NOW - HOUR, Decimal(100)),
    ]
    found = costs.bills(spans, NOW, NOW + HOUR)
    assert found == {a: costs.Bill(3600.0, 4 * 3600.0, 1_250_000), b: costs.Bill()}
    assert costs.total(found.values()) == found[a]
    assert costs.total([]) == costs.Bill()


def test_a_job_pays_for_what_was_done_for_it_and_nobody_for_the_rest() -> None:
    pod_id, one, two = (uuid.UUID(int=n) for n in (1, 2, 3))
    bill = costs.Bill(pod_seconds=1000.0, gpu_seconds=2000.0, micro_usd=1_000_000)
    uses = [costs.Use(one, "clip", 1000.0, 100.0, 50.0), costs.Use(two, "minilm", 500.0)]
    found = costs.attribute({pod_id: bill}, {pod_id: uses, uuid.uuid4(): uses})
    assert found.jobs[one] == costs.JobCost(1150.0, 500_000, 50_000, 25_000)
    assert found.jobs[one].micro_usd == 575_000
    assert found.jobs[two] == costs.JobCost(500.0, 250_000)
    assert found.unattributed_micro_usd == 175_000


def test_loads_and_idle_times_go_to_those_who_kept_the_pod_busy() -> None:
    jobs = [uuid.UUID(int=n) for n in (1, 2, 3)]
    busy = [costs.Use(jobs[0], "clip", 30.0), costs.Use(jobs[1], "clip", 10.0), costs.Use(jobs[2], "minilm", 40.0)]
    shared = costs.share_out(busy, {"clip": 8.0, "unused": 99.0}, idle_s=16.0)
    assert [(u.load_s, u.idle_s) for u in shared] == [(6.0, 6.0), (2.0, 2.0), (0.0, 8.0)]
    assert costs.share_out([costs.Use(jobs[0], "clip", 0.0)], {"clip": 8.0}, 1.0) == [costs.Use(jobs[0], "clip", 0.0)]


SECONDS = st.floats(0, 1e6, allow_nan=False)
JOB_IDS = st.integers(1, 5).map(lambda n: uuid.UUID(int=n))
USES = st.lists(st.builds(costs.Use, JOB_IDS, st.just("w"), SECONDS, SECONDS, SECONDS))
SPANS = st.lists(
    st.builds(
        lambda pod_id, start, length, price, gpus: costs.Span(
            uuid.UUID(int=pod_id),
            NOW + timedelta(microseconds=start),
            None if length is None else NOW + timedelta(microseconds=start + length),
            Decimal(price) / 1_000_000,
            gpus,
        ),
        st.integers(1, 4),
        st.integers(-(10**10), 10**10),
        st.none() | st.integers(0, 10**10),
        st.integers(0, 10**8),
        st.integers(0, 8),
    )
)


@given(spans=SPANS, uses=st.dictionaries(JOB_IDS, USES))
def test_jobs_and_the_unattributed_are_the_bill(
    spans: list[costs.Span], uses: dict[uuid.UUID, list[costs.Use]]
) -> None:
    found = costs.attribute(costs.bills(spans, NOW, NOW + HOUR), uses)
    parts = [job.micro_usd for job in found.jobs.values()]
    assert sum(parts) + found.unattributed_micro_usd == found.bill.micro_usd
    assert min([*parts, found.unattributed_micro_usd]) >= 0


@given(spans=SPANS)
def test_a_bill_is_exact_to_a_micro_usd_a_span(spans: list[costs.Span]) -> None:
    exact = sum(
        (
            Fraction(span.price_usd_per_hour) * 1_000_000 * Fraction(length // timedelta(microseconds=1), 3_600_000_000)
            for span in spans
            if (length := span.within(NOW, NOW + HOUR))
        ),
        Fraction(0),
    )
    billed = costs.total(costs.bills(spans, NOW, NOW + HOUR).values()).micro_usd
    assert exact - len(spans) <= billed <= exact


@given(spans=SPANS, cut=st.integers(0, 3600))
def test_two_windows_cost_what_they_cost_together(spans: list[costs.Span], cut: int) -> None:
    middle = NOW + timedelta(seconds=cut)

    def cost(start: datetime, end: datetime) -> int:
        return costs.total(costs.bills(spans, start, end).values()).micro_usd

    whole, parts = cost(NOW, NOW + HOUR), cost(NOW, middle) + cost(middle, NOW + HOUR)
    assert 0 <= whole - parts <= len(spans), "a span that is cut is rounded down twice"
