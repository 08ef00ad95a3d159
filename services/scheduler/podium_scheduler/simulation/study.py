"""One trace under every rule, beside the bound; and the figures as a table."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from podium_scheduler.domain.autoscaling.policy import Policy
from podium_scheduler.simulation import clairvoyant, market, rules, traces, world

PODIUM, FIXED, THRESHOLD = "podium", "fixed pool", "threshold"


@dataclass(frozen=True, slots=True)
class Study:
    """What came of a trace."""

    trace: traces.Trace
    bound_usd: float
    outcomes: dict[str, world.Outcome] = field(default_factory=dict)
    """By rule."""

    seed: int = 0

    def ratio(self, rule: str) -> float:
        """A rule's spend over the bound."""
        return self.outcomes[rule].spend_usd / self.bound_usd

    @property
    def is_cheapest(self) -> bool:
        """Whether the autoscaler spent less than both simple rules."""
        ours = self.outcomes[PODIUM].spend_usd
        return all(ours < run.spend_usd for rule, run in self.outcomes.items() if rule != PODIUM)


TERMINATION_LAG_S = 30.0
"""What the autoscaler is told: what the simulated clouds take, and two rounds of the pod keeper."""
RULES_ROUND_S = 30.0
"""The simple rules decide so often: the default polling interval of KEDA."""


def study(trace: traces.Trace, policy: Policy | None = None, *, seed: int = 0) -> Study:
    """Runs a trace under each rule, with the same seed."""
    policy = policy or Policy(termination_lag_s=TERMINATION_LAG_S)
    workloads = tuple(sorted({arrival.workload for arrival in trace.arrivals}))
    days = int(trace.horizon_s // traces.DAY_S) + 2
    cloud = market.built_in(random.Random(seed), days, workloads)
    contenders = {
        PODIUM: rules.podium(policy),
        FIXED: rules.fixed_pool(rules.peak_pods(trace, cloud)),
        THRESHOLD: rules.threshold(max_pods=policy.limits.max_pods),
    }
    found = Study(trace, clairvoyant.least_usd(trace, cloud), seed=seed)
    for name, rule in contenders.items():
        round_s = policy.round_s if name == PODIUM else RULES_ROUND_S
        found.outcomes[name] = world.World(cloud, trace, rule, seed=seed, round_s=round_s).run()
    return found


def built_in(name: str, seed: int = 0) -> traces.Trace:
    """A built-in trace; its dice and the clouds' are not the same."""
    return traces.BUILT_IN[name](random.Random(f"{name} {seed}"))


_HEAD = (
    "trace",
    "rule",
    "USD",
    "x bound",
    "missed",
    "of jobs",
    "p50",
    "p99",
    "window used",
    "pods",
    "at most",
    "failed",
)


def table(studies: Iterable[Study]) -> str:
    """Markdown, a line for each trace and rule."""
    lines = [_line(_HEAD), _line(["---"] * 2 + ["---:"] * (len(_HEAD) - 2))]
    for one in studies:
        lines.append(_line([one.trace.name, "clairvoyant bound", f"{one.bound_usd:.2f}", "1.00", *[""] * 8]))
        lines += [_line(_figures(one, rule)) for rule in one.outcomes]
    return "\n".join(lines) + "\n"


def summary(studies: Sequence[Study]) -> str:
    """Markdown, a line for each trace: the autoscaler over all seeds."""
    head = ("trace", "seeds", "worst x bound", "at seed", "mean x bound", "missed", "of jobs", "below both rules")
    lines = [_line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
    for name in dict.fromkeys(one.trace.name for one in studies):
        those = [one for one in studies if one.trace.name == name]
        worst = max(those, key=lambda one: one.ratio(PODIUM))
        mean = sum(one.ratio(PODIUM) for one in those) / len(those)
        runs = [one.outcomes[PODIUM] for one in those]
        lines.append(
            _line(
                [
                    name,
                    str(len(those)),
                    f"{worst.ratio(PODIUM):.3f}",
                    str(worst.seed),
                    f"{mean:.3f}",
                    str(sum(run.missed for run in runs)),
                    str(sum(len(run.completion_s) for run in runs)),
                    f"{sum(one.is_cheapest for one in those)} of {len(those)}",
                ]
            )
        )
    return "\n".join(lines) + "\n"


def worst_of(studies: Sequence[Study]) -> list[Study]:
    """Of each trace the study of the seed at which the autoscaler did worst."""
    worst: dict[str, Study] = {}
    for one in studies:
        first = worst.setdefault(one.trace.name, one)
        if one.ratio(PODIUM) > first.ratio(PODIUM):
            worst[one.trace.name] = one
    return list(worst.values())


def history(one: Study) -> list[str]:
    """What the autoscaler did, a line for each action."""
    return [f"{at / 3600:7.2f} h  {what}" for at, what in one.outcomes[PODIUM].reasons]


def _figures(one: Study, rule: str) -> list[str]:
    run = one.outcomes[rule]
    ended = sorted(run.completion_s)
    shares = [
        s / a.window_s for s, a in zip(run.completion_s, one.trace.arrivals, strict=False) if a.window_s is not None
    ]
    return [
        one.trace.name,
        rule,
        f"{run.spend_usd:.2f}",
        f"{one.ratio(rule):.2f}",
        str(run.missed),
        str(len(ended)),
        _minutes(_quantile(ended, 0.5)),
        _minutes(_quantile(ended, 0.99)),
        f"{max(shares):.0%}" if shares else "",
        str(run.spawned),
        str(run.most_pods),
        str(run.failed),
    ]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"


def _quantile(ascending: Sequence[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]
