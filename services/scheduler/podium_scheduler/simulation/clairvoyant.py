"""The least that anybody could spend on a trace who knows all of the future: a lower bound that holds for every rule.

A pod is paid for while it comes (its load included), while it is ready, and until it is gone. Let C be the least price
of coming and going (over the offers: lowest price ever, times shortest cold start, load and, unless pods of it may die
by themselves, termination lag), and p the lowest price of a second of any offer. Then, for every schedule that meets
all windows:

1. *Work.* An item takes at least as long as on the offer and at the price where it is cheapest, and computing is done
   by ready pods. So the ready time costs at least A, the sum of this over all items.

2. *Lives and gaps.* Choose windows I(1), ..., I(m), each [arrival, due] of a job, that do not overlap and leave gaps
   g(1), ..., g(m-1) between them. In each some pod computes. The one that computes in I(i+1) either became ready after
   the end of I(i): then it is another pod than those that did so for other i, and its coming and going costs C. Or it
   was ready before, and through all of the gap g(i): then it was paid for in the gap, which costs p g(i); and gaps do
   not overlap, so these costs add up. The first pod costs C in any case. If k of the gaps are bridged, it is cheapest
   to bridge the k shortest. Ready time that bridges a gap may be used for work, so A and the gaps do not add up, but
   the greater of both is paid: at least (m - k) C + max(A, p (g(1) + ... + g(k))), the gaps ascending.

3. *Peaks.* The work of jobs that come and are due within a span of t seconds takes at least n = work / (t x fastest
   rate) pods, each of which came at some time. So there are at least n lives.

Hence: spend >= min over k of C max(m - k, n) + max(A, p (g(1) + ... + g(k))). Capacity that runs out, failures, prices
that are low only at other times, and pods that come in whole numbers all make it dearer, never cheaper.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from podium_scheduler.simulation.market import Market, Stall
from podium_scheduler.simulation.traces import Arrival, Trace

_APART_S = (0.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 10_800.0, 14_400.0)
"""The bound holds for every choice of windows: it is computed for choices with gaps of at least these, and the greatest
taken. Small gaps can be bridged by pods that have held work back for them, great ones can not."""


def least_usd(trace: Trace, market: Market) -> float:
    """The bound. Jobs without a window count as work, and not as windows."""
    if not trace.arrivals:
        return 0.0
    peak = _peak_pods(trace, market)
    usd_per_item = {w: _usd_per_item(w, market) for w in {arrival.workload for arrival in trace.arrivals}}
    work_usd = sum(arrival.items * usd_per_item[arrival.workload] for arrival in trace.arrivals)
    return max(_least_usd(work_usd, market, _chosen(trace.arrivals, apart_s), peak) for apart_s in _APART_S)


def _least_usd(work_usd: float, market: Market, windows: Sequence[Arrival], peak: int) -> float:
    life_usd = _life_usd(market)
    usd_per_s = min(stall.least_usd_per_hour for stall in market.stalls) / 3600
    gaps = sorted(later.at_s - sooner.due_s for sooner, later in itertools.pairwise(windows))
    lives = max(1, len(windows))
    return min(
        life_usd * max(lives - k, peak, 1) + max(work_usd, usd_per_s * sum(gaps[:k])) for k in range(len(gaps) + 1)
    )


def _usd_per_item(workload: str, market: Market) -> float:
    rated = ((stall, market.rate(workload, stall.offer)) for stall in market.stalls)
    return min(stall.least_usd_per_hour / 3600 / rate for stall, rate in rated if rate)


def _life_usd(market: Market) -> float:
    load_s = min(market.load_s.values(), default=0.0)
    return min(
        stall.least_usd_per_hour / 3600 * (stall.cold_start_s + load_s + _lag_s(stall, market))
        for stall in market.stalls
    )


def _lag_s(stall: Stall, market: Market) -> float:
    return market.termination_lag_s if stall.mean_life_s is None else 0.0


def _chosen(arrivals: Sequence[Arrival], apart_s: float) -> list[Arrival]:
    """As many windows as there are that are so far apart: always the one that closes first."""
    chosen: list[Arrival] = []
    for arrival in sorted((a for a in arrivals if a.due_s < math.inf), key=lambda a: a.due_s):
        if not chosen or arrival.at_s > chosen[-1].due_s + apart_s:
            chosen.append(arrival)
    return chosen


def _peak_pods(trace: Trace, market: Market) -> int:
    fastest = {w: max(market.rate(w, s.offer) for s in market.stalls) for w in {a.workload for a in trace.arrivals}}
    by_due = sorted((a for a in trace.arrivals if a.due_s < math.inf), key=lambda a: a.due_s)
    most = 0.0
    for begin in {arrival.at_s for arrival in by_due}:
        work_s = 0.0
        for arrival in by_due:
            if arrival.at_s >= begin:
                work_s += arrival.items / fastest[arrival.workload]
                most = max(most, work_s / (arrival.due_s - begin))
    return math.ceil(most - 1e-9)
