"""A study as a picture. The only module that needs matplotlib (the extra `simulate`)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from podium_scheduler.simulation.study import FIXED, PODIUM, THRESHOLD, Study

_COLOURS = {PODIUM: "#1b6ca8", FIXED: "#8a8a8a", THRESHOLD: "#d1792c"}
_DOTS_PER_INCH = 80


def draw(study: Study, folder: Path) -> Path:
    """Writes NAME.png: backlog, pods and spend over time, and the completion times. Raises OSError."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    (backlog, pods), (spend, completion) = figure.subplots(2, 2)
    for rule, run in study.outcomes.items():
        hours = [sample.at_s / 3600 for sample in run.samples]
        look = {"color": _COLOURS.get(rule, "black"), "label": rule, "linewidth": 1.2}
        backlog.plot(hours, [sample.backlog for sample in run.samples], **look)
        pods.step(hours, [sample.pods for sample in run.samples], where="post", **look)
        spend.plot(hours, [sample.spend_usd for sample in run.samples], **look)
        ended = sorted(seconds / 60 for seconds in run.completion_s)
        completion.plot(ended, [(place + 1) / len(ended) for place in range(len(ended))], **look)
    spend.axhline(study.bound_usd, color="black", linestyle="--", linewidth=1, label="clairvoyant bound")
    _name(backlog, "items without an outcome", "hours")
    _name(pods, "pods that are paid for", "hours")
    _name(spend, "USD spent", "hours")
    _name(completion, "share of jobs done", "minutes after they came")
    spend.legend(frameon=False)
    figure.suptitle(study.trace.name)
    path = folder / f"{study.trace.name}.png"
    # Without the version of the library, so that the same run gives the same file.
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return path


def _name(axes: Axes, what: str, along: str) -> None:
    axes.set_title(what, fontsize=10, loc="left")
    axes.set_xlabel(along, fontsize=9)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
