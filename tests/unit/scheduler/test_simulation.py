"""The simulator, and what is claimed of the autoscaler on the five built-in traces."""

from __future__ import annotations

import functools
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from podium_cli import simulate
from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling.actions import Action
from podium_scheduler.domain.autoscaling.observed import Observed
from podium_scheduler.domain.autoscaling.policy import Limits, Policy
from podium_scheduler.simulation import __main__ as command
from podium_scheduler.simulation import clairvoyant, market, plots, rules, study, traces, world
from podium_scheduler.simulation.traces import HOUR_S, Arrival, Trace

CHEAP = offers.Offer("cloud", "RTX 4090", 1, 0.36, cloud=offers.Cloud.COMMUNITY)
COLD_S, LOAD_S, LAG_S = 90.0, 20.0, 15.0
# Nothing fails, and nothing takes longer than it has to.
CALM = market.Market(
    (market.Stall(CHEAP, cold_start_s=COLD_S, cold_start_more_s=1e-9),),
    {("clip", "RTX 4090"): 50.0},
    {("clip", "RTX 4090"): LOAD_S},
    termination_lag_s=LAG_S,
    slowdown=0.0,
)


def trace(*arrivals: Arrival, horizon_s: float = 24 * HOUR_S) -> Trace:
    return Trace("made", arrivals, horizon_s)


TRACES = ("bursty", "trickle")
"""All of them, with ten seeds each: tests/faults/test_autoscaler_on_many_seeds.py."""


def work(at_s: float, seconds: float, window_s: float | None = 4 * HOUR_S) -> Arrival:
    return Arrival(at_s, round(seconds * 50), window_s)


def run(cloud: market.Market, work: Trace, policy: Policy | None = None, seed: int = 0) -> world.Outcome:
    policy = policy or Policy(termination_lag_s=study.TERMINATION_LAG_S)
    return world.World(cloud, work, rules.podium(policy), seed=seed, round_s=policy.round_s).run()


@functools.cache
def studied(name: str) -> study.Study:
    # Rounds three times as long as they are: it has to hold all the same, and is tested sooner.
    return study.study(study.built_in(name), Policy(round_s=30.0, termination_lag_s=study.TERMINATION_LAG_S))


@pytest.mark.parametrize("name", TRACES)
def test_the_autoscaler_spends_little_more_than_the_least_that_is_possible(name: str) -> None:
    found = studied(name)
    ours = found.outcomes[study.PODIUM]
    assert ours.missed == 0
    assert len(ours.completion_s) == len(found.trace.arrivals)
    assert all(math.isfinite(seconds) for seconds in ours.completion_s)
    assert 1.0 <= found.ratio(study.PODIUM) <= 1.25
    assert ours.spend_usd < found.outcomes[study.FIXED].spend_usd
    assert ours.spend_usd < found.outcomes[study.THRESHOLD].spend_usd


@pytest.mark.slow
@pytest.mark.parametrize("seed", [10])
def test_a_trickle_is_within_the_bound_whatever_fails(seed: int) -> None:
    # The hardest of the traces: most of what it costs is coming and going. tests/faults has the others.
    policy = Policy(round_s=30.0, termination_lag_s=study.TERMINATION_LAG_S)
    jobs = study.built_in("trickle", seed)
    cloud = market.built_in(random.Random(seed), 4)
    found = run(cloud, jobs, policy, seed)
    assert found.missed == 0
    assert found.spend_usd <= 1.25 * clairvoyant.least_usd(jobs, cloud)


def test_the_other_rules_meet_the_windows_too() -> None:
    # Or being dearer than they would be no merit.
    found = [studied(name).outcomes[rule] for name in TRACES for rule in (study.FIXED, study.THRESHOLD)]
    assert [outcome.missed for outcome in found] == [0] * len(found)


def test_a_pod_is_paid_from_its_create_call_until_it_is_gone() -> None:
    # Two hours of work fill a pod. It comes, loads, works, has 30 to 40 s of nothing, drains, and goes.
    found = run(CALM, trace(work(0, 2 * HOUR_S)))
    least = COLD_S + LOAD_S + 2 * HOUR_S + 30 + LAG_S
    assert least <= found.spend_usd / CHEAP.usd_per_s <= least + 40
    assert found.completion_s == pytest.approx([COLD_S + LOAD_S + 2 * HOUR_S], abs=1)
    assert found.samples[-1].pods == 0
    # The ledger has it from the create call until the first list that does not show it.
    assert 0 <= (found.ledger_usd - found.spend_usd) / CHEAP.usd_per_s <= 10


def test_the_same_seed_gives_the_same_run() -> None:
    cloud = market.built_in(random.Random(3))
    jobs = trace(*(work(600 * n, 900) for n in range(12)))
    assert run(cloud, jobs, seed=3) == run(cloud, jobs, seed=3)
    assert run(cloud, jobs, seed=3).spend_usd != run(cloud, jobs, seed=4).spend_usd


def test_work_of_pods_that_die_is_done_by_others() -> None:
    frail = replace(CALM, stalls=(replace(CALM.stalls[0], mean_life_s=1800.0, boot_failures=0.2),))
    found = run(frail, trace(work(0, 4 * HOUR_S, 12 * HOUR_S), horizon_s=14 * HOUR_S))
    assert found.failed >= 3
    assert found.missed == 0


def test_an_outage_is_waited_out() -> None:
    away = replace(CALM, stalls=(replace(CALM.stalls[0], outages=((0.0, HOUR_S),)),))
    found = run(away, trace(work(0, 2 * HOUR_S, 12 * HOUR_S), horizon_s=6 * HOUR_S))
    assert HOUR_S < found.completion_s[0] - 2 * HOUR_S < 2 * HOUR_S
    # It backs off: far from an attempt in each of the 360 rounds. No attempt makes a machine, and each has its own pod.
    tries = sum(reason.startswith("Spawn") for _, reason in found.reasons)
    assert 10 < tries < 20
    assert found.spawned == 1


@pytest.mark.parametrize("seed", range(3))
def test_budgets_hold_while_everything_fails(seed: int) -> None:
    cloud = market.built_in(random.Random(seed))
    frail = replace(cloud, stalls=tuple(replace(s, boot_failures=0.2, mean_life_s=7200.0) for s in cloud.stalls))
    # With the termination lag that is shipped.
    policy = Policy(limits=Limits(max_pods=6, usd_per_hour=1.5, usd_per_day=3.0))
    # Four dollars' worth, of which the day allows three, and the next day the rest.
    jobs = trace(*(work(16 * HOUR_S + 600 * n, 1800, 3 * HOUR_S) for n in range(24)), horizon_s=20 * HOUR_S)
    found = run(frail, jobs, policy, seed)
    assert found.highest_day_usd > 2.5
    assert found.highest_day_usd <= 3.0
    assert found.highest_usd_per_hour <= 1.5
    assert found.most_pods <= 6


def test_workloads_share_pods() -> None:
    cloud = market.built_in(random.Random(0), workloads=("clip", "bge"))
    both = trace(*(Arrival(60.0 * n, 3000, 4 * HOUR_S, ("clip", "bge")[n % 2]) for n in range(40)))
    found = run(replace(cloud, stalls=cloud.stalls[1:]), both)
    assert (found.missed, found.spawned) == (0, 1)


def test_pods_are_the_keepers_whatever_the_cloud_answers() -> None:
    # Half of the answers to create calls do not tell, and lists lag: one machine a pod all the same, and none is left.
    unclear = replace(CALM, stalls=(replace(CALM.stalls[0], unclear_answers=0.5),))
    policy = Policy(termination_lag_s=study.TERMINATION_LAG_S)
    jobs = trace(*(work(3 * HOUR_S * n, HOUR_S / 2, HOUR_S) for n in range(6)))
    made = world.World(unclear, jobs, rules.podium(policy), round_s=30.0)
    found = made.run()
    assert found.missed == 0
    ended = made.ledger.rows.values()
    assert {pod.state for pod in ended} <= {pods.State.DESTROYED, pods.State.FAILED}
    assert pods.Reason.CREATE_UNRESOLVED in {pod.reason for pod in ended}, "asked for, and never made"
    assert not made.cloud.alive
    assert len({pod.provider_pod_id for pod in ended if pod.provider_pod_id}) == found.spawned
    # The ledger has learnt of every end by the list, and bills up to a round of the keeper more.
    assert 0 <= (found.ledger_usd - found.spend_usd) / CHEAP.usd_per_s <= 15 * found.spawned


def test_a_rule_that_fails_fails_the_run() -> None:
    # The scheduler goes on with the pods that there are; in a study that would be a result that nobody can trust.
    def broken(observed: Observed, now: float) -> list[Action]:
        raise ZeroDivisionError("of course")

    with pytest.raises(ZeroDivisionError, match="of course"):
        world.World(CALM, trace(work(0, 60)), broken).run()


def test_rounds_stop_while_there_is_nothing_to_decide() -> None:
    found = run(CALM, trace(work(0, 2 * HOUR_S), work(20 * HOUR_S, 2 * HOUR_S)))
    assert found.rounds < 2 * 800
    assert found.missed == 0


# --- the bound


def test_the_bound_of_one_job_is_a_pod_that_comes_works_and_goes() -> None:
    least = clairvoyant.least_usd(trace(work(0, HOUR_S)), CALM)
    assert least == pytest.approx(CHEAP.usd_per_s * (HOUR_S + COLD_S + LOAD_S + LAG_S))


def test_the_bound_counts_lives_or_the_gaps_between_them() -> None:
    life_usd = CHEAP.usd_per_s * (COLD_S + LOAD_S + LAG_S)
    far = trace(work(0, 60, 600.0), work(5 * HOUR_S, 60, 600.0))
    assert clairvoyant.least_usd(far, CALM) == pytest.approx(2 * life_usd + CHEAP.usd_per_s * 120)
    # Here it is cheaper to keep the pod for the 100 s between the windows than to have another come.
    near = trace(work(0, 40, 600.0), work(700, 40, 600.0))
    assert clairvoyant.least_usd(near, CALM) == pytest.approx(life_usd + CHEAP.usd_per_s * 100)


def test_the_bound_counts_the_pods_of_the_peak() -> None:
    peak = trace(*(work(0, HOUR_S, 2 * HOUR_S) for _ in range(5)))
    lives = clairvoyant.least_usd(peak, CALM) / CHEAP.usd_per_s - 5 * HOUR_S
    assert lives == pytest.approx(3 * (COLD_S + LOAD_S + LAG_S))


@pytest.mark.parametrize("seed", range(3))
def test_no_rule_beats_the_bound(seed: int) -> None:
    dice = random.Random(seed)
    jobs = sorted(dice.uniform(0, 10 * HOUR_S) for _ in range(8))
    made = trace(*(work(at, dice.uniform(30, 3000), dice.uniform(1500, 9000)) for at in jobs))
    least = clairvoyant.least_usd(made, CALM)
    for rule in (rules.fixed_pool(3), rules.threshold(), rules.threshold(60.0, 1.0), rules.podium(Policy())):
        found = world.World(CALM, made, rule).run()
        if not found.missed:
            assert found.spend_usd >= least


# --- the simple rules


def test_the_fixed_pool_is_as_large_as_the_busiest_span_needs() -> None:
    busy = trace(*(work(600.0 * n, 1500, 1200) for n in range(12)), horizon_s=3 * HOUR_S)
    assert rules.peak_pods(busy, CALM) == 3
    assert world.World(CALM, busy, rules.fixed_pool(3)).run().most_pods == 3


def test_the_threshold_rule_follows_the_queue() -> None:
    found = world.World(CALM, trace(work(0, 1300)), rules.threshold(600.0)).run()
    assert found.spawned == 3
    assert [reason for _, reason in found.reasons][:4] == ["Spawn: 1300 s of work wait"] * 3 + ["Drain: idle for 300 s"]


def test_of_many_seeds_the_worst_is_shown() -> None:
    small, great = run(CALM, trace(work(0, 60))), run(CALM, trace(work(0, 600)))
    good = study.Study(trace(), 1.0, {study.PODIUM: small, study.FIXED: great}, seed=0)
    bad = study.Study(trace(), 1.0, {study.PODIUM: great, study.FIXED: small}, seed=1)
    assert study.worst_of([good, bad]) == study.worst_of([bad, good]) == [bad]
    head, _, line = study.summary([good, bad]).strip().splitlines()
    figures = dict(zip(head.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True))
    assert (figures["seeds"], figures["at seed"], figures["below both rules"]) == ("2", "1", "1 of 2")
    assert figures["worst x bound"] == f"{great.spend_usd:.3f}"


# --- traces, and the command


def test_a_trace_is_read_from_csv_and_json(tmp_path: Path) -> None:
    table = tmp_path / "jobs.csv"
    table.write_text("at_s,items,window_s,workload\n60,100,,\n0,5,3600,bge\n", encoding="utf-8")
    arrivals = (Arrival(0.0, 5, 3600.0, "bge"), Arrival(60.0, 100))
    assert traces.load(table) == Trace("jobs", arrivals, 3660.0)
    told = tmp_path / "jobs.json"
    rows = [{"at_s": 60, "items": 100}, {"at_s": 0, "items": 5, "window_s": 3600, "workload": "bge"}]
    told.write_text(json.dumps({"name": "mine", "horizon_s": 7200, "arrivals": rows}), encoding="utf-8")
    assert traces.load(told) == Trace("mine", arrivals, 7200.0)
    told.write_text(json.dumps(rows), encoding="utf-8")
    assert traces.load(told).arrivals == arrivals


@pytest.mark.parametrize(
    "text", ["at_s,items\n", "at_s,items\n1,0\n", "at_s,items\n-1,5\n", "when\n1\n", "at_s,items\nx,1\n"]
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(text, encoding="utf-8")
    with pytest.raises(traces.BadTrace):
        traces.load(bad)
    assert command.main([str(bad)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_command_prints_a_table_reasons_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("at_s,items,window_s\n0,100000,7200\n600,100000,7200\n", encoding="utf-8")
    assert command.main([str(jobs), "--plots", str(tmp_path / "out"), "--explain"]) == 0
    told = capsys.readouterr().out
    assert "| jobs | podium |" in told
    assert "Spawn: " in told
    assert (tmp_path / "out" / "jobs.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_has_every_rule(tmp_path: Path) -> None:
    made = plots.draw(study.study(trace(work(0, 3000))), tmp_path)
    assert made == tmp_path / "made.png"
    assert made.stat().st_size > 10_000


def test_podium_simulate_hands_its_options_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = functools.partial(
        simulate.simulate_command, plots=None, seed=1, round_s=20.0, usd_per_hour=None, usd_per_day=None
    )
    jobs = tmp_path / "-jobs.csv"
    jobs.write_text("at_s,items,window_s\n0,400000,7200\n", encoding="utf-8")
    assert asked(str(jobs), max_pods=0, explain=True) == 0
    # No pods, no spend; the bound is what it would have taken.
    assert "| -jobs | podium | 0.00 | 0.00 | 1 | 1 |" in capfd.readouterr().out
    assert asked(str(tmp_path / "none.csv"), max_pods=1, explain=False) == 2
    assert capfd.readouterr().err.startswith("error: ")
