"""`python -m tests.faults.nemesis --seed 7`, or a campaign: `--seeds 1-50 --parallel 2 --report campaign.json`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.faults.nemesis import campaign, runner
from tests.faults.nemesis.plan import plan


def main() -> int:
    """Returns the exit status: 0 when every seed passed."""
    options = _options()
    if options.show:
        print(*plan(options.seed, options.seconds), sep="\n")
        return 0
    if options.seeds:
        reports = asyncio.run(campaign.run(options.seeds, options.seconds, options.parallel))
        print(campaign.table(reports))
    else:
        reports = [asyncio.run(runner.run_seed(options.seed, options.seconds))]
        if options.report != "-":
            campaign.tell(reports[0])
    if options.report:
        campaign.write(reports, options.report)
    return 0 if all(r.passed for r in reports) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.nemesis", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="run one seed")
    which.add_argument("--seeds", type=seeds, help="run many: 1-50, or 3,7,9")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the faults go on (default 60)")
    parser.add_argument("--parallel", type=int, default=1, help="seeds at the same time")
    parser.add_argument("--report", default="", help="a file for the report as JSON; - for the standard output")
    parser.add_argument("--show", action="store_true", help="only print the plan of --seed")
    return parser.parse_args()


def seeds(words: str) -> list[int]:
    """`1-50`, `3,7,9`, or both."""
    found: list[int] = []
    for part in words.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


if __name__ == "__main__":
    sys.exit(main())
