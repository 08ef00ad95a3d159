"""`python -m podium_scheduler.simulation`: studies a trace, or all built-in ones. What `podium simulate` runs.

Exit code 2: the arguments or the trace are not good.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from podium_runtime import logs
from podium_scheduler.domain.autoscaling.policy import Limits, Policy
from podium_scheduler.simulation import study, traces

_BAD_INPUT = 2


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    asked = _parser().parse_args(arguments)
    try:
        chosen = [(seed, trace) for seed in _seeds(asked) for trace in _traces(asked.trace, seed)]
    except (traces.BadTrace, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return _BAD_INPUT
    limits = Limits(max_pods=asked.max_pods, usd_per_hour=asked.usd_per_hour, usd_per_day=asked.usd_per_day)
    policy = Policy(limits=limits, round_s=asked.round, termination_lag_s=study.TERMINATION_LAG_S)
    all_studies = [study.study(trace, policy, seed=seed) for seed, trace in chosen]
    studies = study.worst_of(all_studies)
    if asked.seeds > 1:
        sys.stdout.write(study.summary(all_studies) + "\nThe worst of each:\n\n")
    sys.stdout.write(study.table(studies))
    if asked.explain:
        sys.stdout.writelines(f"\n{line}\n" for one in studies for line in study.history(one))
    return _draw(studies, asked.plots) if asked.plots else 0


def _draw(studies: Sequence[study.Study], folder: Path) -> int:
    try:
        from podium_scheduler.simulation import plots
    except ImportError:
        sys.stderr.write("error: plots need matplotlib: pip install 'podium-scheduler[simulate]'\n")
        return _BAD_INPUT
    folder.mkdir(parents=True, exist_ok=True)
    for one in studies:
        sys.stdout.write(f"{plots.draw(one, folder)}\n")
    return 0


def _traces(name: str, seed: int) -> list[traces.Trace]:
    if name == "all":
        return [study.built_in(each, seed) for each in traces.BUILT_IN]
    if name in traces.BUILT_IN:
        return [study.built_in(name, seed)]
    return [traces.load(Path(name))]


def _seeds(asked: argparse.Namespace) -> range:
    return range(asked.seed, asked.seed + max(1, asked.seeds))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="podium simulate", description="The autoscaler on a trace of work.")
    parser.add_argument("trace", help=f"{', '.join(traces.BUILT_IN)}, all, or a file (.csv, .json)")
    parser.add_argument("--plots", type=Path, help="folder for a PNG of each trace")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds", type=int, default=1, help="so many seeds from there; the worst of each trace is shown"
    )
    parser.add_argument("--round", type=float, default=10.0, help="seconds between two decisions")
    parser.add_argument("--max-pods", type=int, default=20)
    parser.add_argument("--usd-per-hour", type=float)
    parser.add_argument("--usd-per-day", type=float)
    parser.add_argument("--explain", action="store_true", help="every action with its reason")
    return parser


if __name__ == "__main__":
    # The loops of the scheduler tell what they do; here that is what `--explain` is for.
    logs.configure("ERROR", "console", "simulation")
    sys.exit(main(sys.argv[1:]))
