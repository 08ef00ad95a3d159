"""The placement planner: what fits, who is covered, and that nothing moves for nothing."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from podium_scheduler.domain import placement
from podium_scheduler.domain.placement import Demand, Device, Model, Worker

GB = 1 << 30
NAMES = ("a", "b", "c", "d", "e")
ALL = frozenset(NAMES)
# Ten seconds a load, four gigabytes a model: one or two on a device of 6 or 12.
MODELS = {(name, "gpu"): Model(4 * GB, 10.0) for name in NAMES}


def gpu(*resident: str, memory: int = 6 * GB, fit: Iterable[str] = ALL) -> Device:
    return Device("gpu", memory, frozenset(fit), dict.fromkeys(resident, 4 * GB))


def worker(key: str, *devices: Device, wanted: Sequence[str] = (), failed: Iterable[str] = ()) -> Worker:
    return Worker(key, devices, tuple(wanted), frozenset(failed))


def loaded(workload: str, work_s: float, turn_s: float = 1.0) -> Demand:
    return Demand(workload, work_s, turn_s=turn_s)


def test_what_has_work_is_loaded_and_what_has_none_is_left_to_the_worker() -> None:
    plan = placement.plan([worker("w", gpu("b"))], [Demand("a", 100.0, 1.0)], MODELS)
    assert plan == {"w": ("a",)}
    assert placement.plan([worker("w", gpu("b"), wanted=["b"])], [], MODELS) == {"w": ()}


def test_it_is_loaded_where_it_is() -> None:
    workers = [worker("w1", gpu()), worker("w2", gpu("a")), worker("w3", gpu())]
    assert placement.plan(workers, [loaded("a", 1.0)], MODELS) == {"w1": (), "w2": ("a",), "w3": ()}


def test_an_idle_device_goes_before_one_that_has_work() -> None:
    workers = [worker("w1", gpu("a")), worker("w2", gpu()), worker("w3", gpu("d"))]
    plan = placement.plan(workers, [loaded("a", 5.0), Demand("b", 5.0, 1.0)], MODELS)
    assert plan == {"w1": ("a",), "w2": ("b",), "w3": ()}


def test_a_copy_makes_way_for_what_nobody_has() -> None:
    workers = [worker("w1", gpu("a")), worker("w2", gpu("a"))]
    plan = placement.plan(workers, [loaded("a", 9000.0), Demand("b", 1.0, 1.0)], MODELS)
    assert sorted(plan.values()) == [("a",), ("b",)]


def test_copies_follow_the_work() -> None:
    workers = [worker(f"w{n}", gpu()) for n in range(6)]
    plan = placement.plan(workers, [Demand("a", 4000.0, 1.0), Demand("b", 2000.0, 1.0)], MODELS)
    assert sorted(plan.values()) == [("a",)] * 4 + [("b",)] * 2


def test_a_copy_that_does_not_pay_for_its_load_is_not_made() -> None:
    # A second device would save 10 s, and loading takes 10.
    workers = [worker("w1", gpu("a")), worker("w2", gpu())]
    assert placement.plan(workers, [loaded("a", 20.0)], MODELS) == {"w1": ("a",), "w2": ()}
    assert placement.plan(workers, [loaded("a", 60.0)], MODELS) == {"w1": ("a",), "w2": ("a",)}


def test_what_was_only_lately_in_use_is_kept_and_not_loaded() -> None:
    workers = [worker("w1", gpu("a")), worker("w2", gpu(), wanted=["b"])]
    assert placement.plan(workers, [loaded("a", 0.0), Demand("b", 0.0)], MODELS) == {"w1": ("a",), "w2": ()}
    # And it is in nobody's way.
    assert placement.plan([workers[0]], [loaded("a", 0.0), Demand("b", 1.0)], MODELS) == {"w1": ("b",)}


def test_others_move_over_to_make_room_for_what_has_no_choice() -> None:
    workers = [worker("w1", gpu()), worker("w2", gpu(fit="a"))]
    plan = placement.plan(workers, [Demand("a", 9.0, 2.0), Demand("b", 9.0, 1.0)], MODELS)
    assert plan == {"w1": ("b",), "w2": ("a",)}


def test_a_worker_that_failed_to_load_it_is_asked_last() -> None:
    workers = [worker("w1", gpu(), failed="a"), worker("w2", gpu("b"))]
    assert placement.plan(workers, [Demand("a", 9.0, 1.0)], MODELS) == {"w1": (), "w2": ("a",)}
    assert placement.plan(workers[:1], [Demand("a", 9.0, 1.0)], MODELS) == {"w1": ("a",)}


def test_what_no_worker_could_load_keeps_no_place_from_others() -> None:
    workers = [worker("w", gpu("a"), wanted=["a"], failed="c")]
    demands = [loaded("a", 1e6, turn_s=1e3), Demand("c", 5.0, 1000.0), Demand("b", 1e6, 500.0)]
    assert placement.plan(workers, demands, MODELS) == {"w": ("b",)}
    # Nor does it end a turn.
    both = worker("w", gpu("a", "b", memory=12 * GB), wanted=["b", "a"], failed="c")
    mixed = [loaded("a", 1e6, turn_s=1.0), loaded("b", 1e6, turn_s=1e3), Demand("c", 5.0, 1000.0)]
    assert placement.plan([both], mixed, MODELS) == {"w": ("b", "a")}


def test_workloads_that_do_not_fit_together_take_turns() -> None:
    """One device, two workloads with work without end: whoever waits gets it when the other's turn is over."""
    now, device = 0.0, gpu("a")
    wanted: tuple[str, ...] = ("a",)
    since = {"a": 0.0, "b": 0.0}
    history: list[str] = []
    while now < 600:
        demands = [
            loaded(w, 1e6, now - since[w]) if w in device.resident else Demand(w, 1e6, now - since[w]) for w in "ab"
        ]
        wanted = placement.plan([worker("w", device, wanted=wanted)], demands, MODELS)["w"]
        (chosen,) = wanted
        history.append(chosen)
        now += 2.0
        if chosen not in device.resident:
            now += 10.0
            since = dict.fromkeys(since, now)
            device = gpu(chosen)
    turns = [history[0]] + [w for before, w in itertools.pairwise(history) if w != before]
    assert set(turns) == {"a", "b"}
    # A turn is four loads long, so that a fifth of the time at most goes into loading.
    assert 8 <= len(turns) <= 600 / (placement.TURN_LOADS * 10.0)


def test_older_demand_goes_first_where_not_all_fits() -> None:
    demands = [Demand("a", 9.0, 5.0), Demand("b", 9.0, 50.0), Demand("c", 9000.0, 1.0)]
    assert placement.plan([worker("w", gpu())], demands, MODELS) == {"w": ("b",)}
    assert placement.plan([worker("w", gpu(memory=12 * GB))], demands, MODELS) == {"w": ("b", "a")}


def test_the_order_of_a_list_holds_while_nobody_waits() -> None:
    both = worker("w", gpu("a", "b", memory=12 * GB), wanted=["b", "a"])
    for work in ((1.0, 9.0), (9.0, 1.0)):
        assert placement.plan([both], [loaded("a", work[0]), loaded("b", work[1])], MODELS) == {"w": ("b", "a")}


def test_a_large_model_may_have_a_device_to_itself() -> None:
    models = MODELS | {("a", "gpu"): Model(6 * GB, 10.0)}
    demands = [Demand("a", 9.0, 2.0), Demand("b", 9.0, 1.0)]
    assert placement.plan([worker("w", gpu())], demands, models) == {"w": ("a",)}
    models |= {("a", "gpu"): Model(6 * GB + 1, 10.0)}
    assert placement.plan([worker("w", gpu())], demands, models) == {"w": ("b",)}


sizes = st.integers(0, 10)
workloads = st.sampled_from(NAMES)


@st.composite
def devices(draw: st.DrawFn) -> Device:
    resident = draw(st.dictionaries(workloads, sizes, max_size=3))
    fit = draw(st.frozensets(workloads)) | resident.keys()
    return Device(draw(st.sampled_from(["x", "y"])), draw(st.integers(0, 20)), frozenset(fit), resident)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Worker], list[Demand], dict[tuple[str, str], Model]]:
    workers = [
        Worker(
            f"w{n}",
            tuple(draw(st.lists(devices(), max_size=3))),
            tuple(draw(st.lists(workloads, unique=True, max_size=3))),
            draw(st.frozensets(workloads, max_size=1)),
        )
        for n in range(draw(st.integers(0, 4)))
    ]
    somewhere = {w for one in workers for device in one.devices for w in device.resident}
    demands = [
        Demand(
            name,
            draw(st.sampled_from([0.0, 1.0, 50.0, 5000.0])),
            0.0 if name in somewhere else draw(st.floats(0, 100)),
            draw(st.floats(0, 100)) if name in somewhere else None,
        )
        for name in draw(st.lists(workloads, unique=True))
    ]
    models = {(name, kind): Model(draw(sizes), draw(st.floats(0, 60))) for name in NAMES for kind in ("x", "y")}
    return workers, demands, models


def packs(wanted: Sequence[str], devices: Sequence[Device], models: placement.Models) -> bool:
    """Whether the devices together have room for a list: tries all ways."""

    def room(left: Sequence[str], held: tuple[Mapping[str, int], ...]) -> bool:
        if not left:
            return True
        first, *others = left
        for number, device in enumerate(devices):
            size = device.resident.get(first, 0) or models[first, device.name].memory_bytes
            more = {**held[number], first: size}
            if first in device.fit and placement.fits(device, more):
                if room(others, (*held[:number], more, *held[number + 1 :])):
                    return True
        return False

    return room(list(wanted), tuple({} for _ in devices))


@given(scenes())
def test_no_worker_is_asked_for_more_than_fits(
    scene: tuple[list[Worker], list[Demand], dict[tuple[str, str], Model]],
) -> None:
    workers, demands, models = scene
    plan = placement.plan(workers, demands, models)
    assert plan.keys() == {w.key for w in workers}
    for one in workers:
        wanted = plan[one.key]
        assert len(set(wanted)) == len(wanted)
        assert set(wanted) <= {d.workload for d in demands}
        assert packs(wanted, one.devices, models)


@given(scenes(), st.randoms(use_true_random=False))
def test_the_same_scene_has_the_same_plan_in_whatever_order_it_is_told(
    scene: tuple[list[Worker], list[Demand], dict[tuple[str, str], Model]], random: object
) -> None:
    workers, demands, models = scene
    plan = placement.plan(workers, demands, models)
    shuffled = list(workers), list(demands)
    for each in shuffled:
        random.shuffle(each)  # type: ignore[attr-defined]
    assert placement.plan(*shuffled, models) == plan


@given(scenes())
def test_what_has_no_bound_is_always_covered(
    scene: tuple[list[Worker], list[Demand], dict[tuple[str, str], Model]],
) -> None:
    workers, demands, models = scene
    free = [
        dataclasses.replace(one, devices=tuple(dataclasses.replace(d, memory_bytes=0) for d in one.devices))
        for one in workers
    ]
    plan = placement.plan(free, demands, models)
    for demand in demands:
        able = any(demand.workload in device.fit for one in free for device in one.devices)
        assert not demand.work_s or not able or any(demand.workload in wanted for wanted in plan.values())


@given(
    st.lists(st.tuples(st.frozensets(workloads, min_size=1), st.sampled_from([*NAMES, ""])), min_size=1, max_size=5),
    st.lists(workloads, unique=True, min_size=1),
)
def test_whatever_can_be_covered_at_once_is(fleet: list[tuple[frozenset[str], str]], asked: list[str]) -> None:
    """One model on a device: then the most that can be covered is a matching, which trying all ways finds too."""
    workers = [
        worker(f"w{n}", Device("gpu", 6 * GB, fit | ({there} if there else set()), {there: 4 * GB} if there else {}))
        for n, (fit, there) in enumerate(fleet)
    ]
    demands = [
        Demand(w, 9.0, turn_s=1.0 if any(w in one.devices[0].resident for one in workers) else None) for w in asked
    ]
    plan = placement.plan(workers, demands, MODELS)

    def most(left: list[str], free: list[Worker]) -> int:
        if not left:
            return 0
        first, *others = left
        with_first = [
            1 + most(others, [o for o in free if o is not one]) for one in free if first in one.devices[0].fit
        ]
        return max([most(others, free), *with_first])

    assert len({w for wanted in plan.values() for w in wanted}) == most(asked, workers)


works = st.lists(st.floats(10, 100_000), min_size=len(NAMES), max_size=len(NAMES))
wiggles = st.lists(st.lists(st.floats(0.9, 1.1), min_size=len(NAMES), max_size=len(NAMES)), min_size=2, max_size=12)


@given(st.integers(5, 12), works, wiggles)
def test_nothing_flaps_when_demand_wiggles(count: int, work: list[float], factors: list[list[float]]) -> None:
    """The plan is carried out, demand goes up and down by a tenth, again and again: nothing that was unloaded for
    something else comes back."""
    lists: dict[str, tuple[str, ...]] = {f"w{n}": () for n in range(count)}
    gone: set[tuple[str, str]] = set()
    for step in [[1.0] * len(NAMES), *factors]:
        workers = [worker(key, gpu(*wanted), wanted=wanted) for key, wanted in lists.items()]
        somewhere = {w for wanted in lists.values() for w in wanted}
        demands = [
            Demand(name, work_s * factor, turn_s=100.0 if name in somewhere else None)
            for name, work_s, factor in zip(NAMES, work, step, strict=True)
        ]
        plan = placement.plan(workers, demands, MODELS)
        for key, wanted in plan.items():
            assert not {(key, w) for w in wanted} & gone
            gone |= {(key, w) for w in set(lists[key]) - set(wanted)}
        lists = plan
    # With that it has come to rest.
    settled = [worker(key, gpu(*wanted), wanted=wanted) for key, wanted in lists.items()]
    assert placement.plan(settled, demands, MODELS) == lists
