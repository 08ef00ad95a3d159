"""What became of the pods that came for a workload: where its model could not be loaded, and when that is enough.

A model that loads nowhere would have pods rented for ever. Pods that were intended together are one try, as they are
for the backoff of an offer. A try counts while its pod is there, for the work that was there when it began, and for new
work for an hour: so a broken model has a few pods an hour at most, and one that was mended gets another chance; with
another leader at once, for the registry is read at the start. A pod that loaded it ends the count. A machine that has
not what the workload needs says little of the model, and of the next machine: it takes many of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TRIES = 3
UNFIT_TRIES = 10
"""With machines that had not what it needs."""
_REMEMBERED_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A pod of which it is known whether it could load a workload's model."""

    offer_key: str
    began: float
    """When its intent was committed."""
    ended: float | None
    """When it was given back; None: it is there."""
    words: str
    """Why its worker could not; empty: it could."""
    fit: bool = True
    """Its machine had what the workload needs."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the trials of a workload say."""

    failed_on: frozenset[str] = frozenset()
    """Keys of offers whose pods could not load it."""
    hopeless: str = ""
    """Why no more pods are rented for it; empty: they are."""


def findings(newest_first: Iterable[Trial], since: float | None, leads_since: float, now: float) -> Findings:
    """`since`: when the oldest work that waits came; None: none waits. `leads_since`: when this leader began."""
    failed: list[Trial] = []
    for trial in newest_first:
        if not trial.words:
            break
        if _counts(trial, since, max(leads_since, now - _REMEMBERED_S)):
            failed.append(trial)
    tries, fit = len({trial.began for trial in failed}), len({trial.began for trial in failed if trial.fit})
    words = ""
    if fit >= TRIES or tries >= UNFIT_TRIES:
        words = f"{tries} tries with pods, and none could load it: {failed[0].words}"
    return Findings(frozenset(trial.offer_key for trial in failed), words)


def _counts(trial: Trial, since: float | None, lately: float) -> bool:
    if trial.ended is None or trial.ended >= lately:
        return True
    return since is not None and trial.began >= since
