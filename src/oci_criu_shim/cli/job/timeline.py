"""Draw a job's runs for a report: one bar for each run, in a row for each node.

Only this module imports matplotlib, for SVG and PNG; timeline.html needs nothing but a browser. Everything drawn has an
id in the SVG: work-1, restore-2, checkpoint-1, ….
"""

from __future__ import annotations

import io
import json
import os
import shlex

from oci_criu_shim import files, units
from oci_criu_shim.cli.job import story
from oci_criu_shim.errors import USAGE, ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from oci_criu_shim.cli.job.story import Run, Story, TaskRuns
    from oci_criu_shim.task.history import Event

    Style = dict[str, Any]
    """Keyword arguments of matplotlib's."""

PAGE = "html"
FORMATS = ("svg", "png", PAGE)
# Okabe and Ito's colours, which the colour-blind can tell apart; lost work is hatched besides.
WORK, DUMP, RESTORE, LOST, WAIT = "#56B4E9", "#E69F00", "#009E73", "#D55E00", "#999999"
STOPPED = "#333333"
LABELS = {
    "work": "running",
    "restore": "restore",
    "turn": "checkpoint waits for its turn",
    "checkpoint": "checkpoint",
    "removed": "checkpoint, removed since",
    "untaken": "checkpoint failed",
    "refused": "checkpoint refused",
    "lost": "work lost",
    "wait": "waiting to go on",
    "unseen": "lost or waiting",
    "failed": "failed or died",
    story.CANCELLED: "cancelled",
    story.TIMEOUT: "time limit",
    story.NO_MEMORY: "out of memory",
}
ENDS = {story.FAILED: "failed", story.DIED: "failed", **{end: end for end in story.ENDS.values()}}
SCALES = ((4 * 86400, "days", 86400), (4 * 3600, "hours", 3600), (240, "minutes", 60), (0, "seconds", 1))
# Between ticks, of which there are at most TICKS more than one.
STEPS = {
    **dict.fromkeys(("seconds", "minutes"), (1, 2, 5, 10, 15, 30, 60)),
    **{"hours": (1, 2, 3, 6, 12, 24), "days": (1, 2, 7, 14, 30, 90, 365)},
}
TICKS = 9
STYLE: dict[Any, Any] = {
    **{"svg.fonttype": "none", "svg.hashsalt": "oci-criu-shim", "text.parse_math": False},
    **{"font.size": 10, "hatch.linewidth": 0.7},
}
WIDTH, ROW, REST = 10.0, 0.55, 2.1  # inches
BAR, THIN = 0.5, 0.1  # of a row
HOLLOW: Style = {"markerfacecolor": "white", "markeredgecolor": LOST, "markersize": 8}
PROBLEMS = {"checkpoint-failed": ("untaken", "v", -BAR / 2), "refused": ("refused", "^", BAR / 4)}
DPI = 150
LEGEND = 6  # at most, in a row
MOST_TASKS = 32  # on a page
MARKER, DIGIT = 0.011, 0.011  # of the picture's width
VISIBLE = 0.003  # of it: the legend names no bar that is narrower
LONGEST = 40  # letters of a job's name


def draw(found: Story, path: str) -> None:
    """Write the picture to `path`, an SVG or PNG by its name; raise ShimError if it can't be made."""
    form = os.path.splitext(path)[1][1:].lower()
    if form not in FORMATS:
        raise ShimError(f"{path} is not named as a picture", "name it .svg, .png or .html", status=USAGE)
    data = _page(found) if form == PAGE else _drawn(found, path, form)
    files.write_atomically(path, data, 0o666)


def _page(found: Story) -> bytes:
    """Return a page that draws the job from its JSON in any browser, with nothing from anywhere else."""
    with open(os.path.join(os.path.dirname(__file__), "timeline.html"), encoding="utf-8") as stream:
        page = stream.read()
    about = json.dumps({"title": _title(found), "sums": _sums(found), **found.describe()})
    return page.replace("@JOB@", about.replace("<", "\\u003c")).encode()


def _title(found: Story) -> str:
    return f"Job {units.short(found.title, LONGEST)}: {found.state}"


def _sums(found: Story) -> str:
    lost = f"lost {found.bound}{units.time(found.lost)}"
    return f"{found.work}, {lost}, waited {units.time(found.waited)}"


def _drawn(found: Story, path: str, form: str) -> bytes:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        html = shlex.quote(f"{os.path.splitext(path)[0]}.html")
        hint = f"--timeline {html} needs nothing; or have the site install python3-matplotlib"
        raise ShimError(f"this node has no matplotlib, which draws {form}", hint) from None
    with matplotlib.rc_context(STYLE):
        rows = _rows(found)
        figure = Figure(figsize=(WIDTH, REST + ROW * len(rows)), layout="constrained")
        picture = _Picture(found, rows, figure.add_subplot())
        for task in found.tasks[:MOST_TASKS]:
            picture.draw(task)
        picture.finish()
        written = io.BytesIO()
        figure.savefig(written, format=form, dpi=DPI, metadata={"Date": None} if form == "svg" else None)
    return written.getvalue()


def _rows(found: Story) -> list[str]:
    return list(dict.fromkeys(_row(found, task, run) for task in found.tasks[:MOST_TASKS] for run in task.runs))


def _row(found: Story, task: TaskRuns, run: Run) -> str:
    return f"{task.key} on {run.node}" if found.tasks[1:] else run.node


class _Picture:
    def __init__(self, found: Story, rows: list[str], axes: Axes) -> None:
        self.found = found
        self.axes = axes
        self.rows = {row: number for number, row in enumerate(rows)}
        span = max(found.end - found.begin, 1.0)
        self.unit, self.scale = next((unit, scale) for least, unit, scale in SCALES if span >= least)
        self.span = span / self.scale
        self.known: dict[str, Artist] = {}  # what the legend has to name
        self.counts: dict[str, int] = {}
        self.placed: dict[tuple[str, int], list[float]] = {}  # {(what, row): the places of all}

    def draw(self, task: TaskRuns) -> None:
        """Draw all runs of a task, and the waits between them."""
        before: Run | None = None
        for run in task.runs:
            row = self.rows[_row(self.found, task, run)]
            if before:
                self._gap(before, run, self.rows[_row(self.found, task, before)], row)
            self._run(task, run, row)
            before = run
        if before and task.given_up is not None:
            self._bar("wait", row, before.until, task.given_up, THIN, color=WAIT)
            self._end(task.fate, row, task.given_up)

    def _x(self, time: float) -> float:
        return (time - self.found.begin) / self.scale

    def _name(self, kind: str, artist: Artist, entry: str = "") -> None:
        """Give the artist its id, and the first of each kind its `entry` in the legend, if it has one."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        artist.set_gid(f"{kind}-{self.counts[kind]}")
        if entry:
            self.known.setdefault(entry, artist)

    def _bar(self, kind: str, row: int, begin: float, end: float, height: float = BAR, **style: Any) -> None:
        left, right = self._x(begin), self._x(max(begin, end))
        (bar,) = self.axes.barh(row, right - left, height, left, **style)
        self._name(kind, bar, kind if right - left >= VISIBLE * self.span else "")

    def _marker(self, kind: str, row: float, time: float, entry: str = "", **style: Any) -> None:
        (marker,) = self.axes.plot([self._x(time)], [row], linestyle="none", **{"markeredgecolor": "white", **style})
        self._name(kind, marker, entry or kind)

    def _run(self, task: TaskRuns, run: Run, row: int) -> None:
        end = run.until
        self._bar("work", row, run.begin, end, color=WORK, edgecolor="black", linewidth=0.6)
        if run.outcome not in (story.RUNNING, story.COMPLETED) and run.lost > 0:
            self._bar("lost", row, run.lost_from, end, fill=False, hatch="////", edgecolor=LOST)
        if run.restored:
            until = run.begin + run.restored["seconds"]
            self._bar("restoring", row, run.begin, until, color=RESTORE)
            self._marker("restore", row + BAR / 2, until, marker="^", color=RESTORE, markersize=9)
        for event in reversed(run.checkpoints):  # the last one has its number, whether others have room or not
            self._checkpoint(event, row, task.has(event))
        for problem in run.problems:
            self._problem(problem, row)
        self._end(run.outcome, row, end)

    def _end(self, outcome: str, row: int, time: float) -> None:
        if kind := ENDS.get(outcome):
            self._marker(kind, row, time, marker="X", color=LOST if kind == "failed" else STOPPED, markersize=11)

    def _checkpoint(self, event: Event, row: int, there: bool) -> None:
        if waited := event.get("waited", 0):
            self._bar("turn", row, event["at"] - waited, event["at"], THIN, color=DUMP)
        self._bar("frozen", row, event["at"], event["at"] + event["frozen"], color=DUMP, edgecolor=DUMP, linewidth=0.8)
        if not self._has_room("markers", row, event["at"], MARKER):
            return
        style: Style = {"color": DUMP} if there else {"markerfacecolor": "white", "markeredgecolor": DUMP}
        entry = "checkpoint" if there else "removed"
        self._marker("checkpoint", row - BAR / 2, event["at"], entry, marker="v", markersize=9, **style)
        name, place = story.name(event), self._x(event["at"])
        if not self._has_room("numbers", row, event["at"], DIGIT * (1 + len(name))):
            return
        above: Style = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        self.axes.annotate(name, (place, row - BAR / 2), fontsize=9, bbox=behind, **above)

    def _problem(self, event: Event, row: int) -> None:
        """Draw a checkpoint that was not taken, or not restored."""
        if event["event"] in PROBLEMS and self._has_room(event["event"], row, event["time"], MARKER):
            kind, marker, place = PROBLEMS[event["event"]]
            self._marker(kind, row + place, event["time"], marker=marker, **HOLLOW)

    def _has_room(self, what: str, row: int, time: float, width: float) -> bool:
        """Return whether a thing this wide (of the picture) fits beside those in its row; if so, note it."""
        place, others = self._x(time), self.placed.setdefault((what, row), [])
        if any(abs(place - other) < width * self.span for other in others):
            return False
        others.append(place)
        return True

    def _gap(self, before: Run, run: Run, from_row: int, row: int) -> None:
        """Draw a line from a run's end, as far as it is known, to the next run's row and along it."""
        end = before.until
        self.axes.plot([self._x(end)] * 2, [from_row, row], color=WAIT, linewidth=1, zorder=0)
        if before.end is not None:
            self._bar("wait", row, end, run.begin, THIN, color=WAIT)
        else:
            self._bar("unseen", row, end, run.begin, THIN, fill=False, hatch="////", edgecolor=WAIT)
        width = self._x(run.begin) - self._x(end)
        if width > 6 * DIGIT * self.span:
            middle = self._x(end) + width / 2
            text = units.time(run.begin - end)
            self.axes.text(middle, row - THIN, text, ha="center", va="bottom", fontsize=9, color="#444444")

    def finish(self) -> None:
        """Draw axes, title and legend."""
        from matplotlib.ticker import MultipleLocator

        axes, found = self.axes, self.found
        axes.set_yticks(list(self.rows.values()), list(self.rows))
        axes.set_ylim(len(self.rows) - 0.5, -0.7)
        axes.set_ylabel("task and node" if found.tasks[1:] else "node")
        axes.set_xlim(-0.02 * self.span, 1.03 * self.span)
        axes.set_xlabel(f"time since the job's start at {story.when(found.begin)} ({self.unit})")
        steps = STEPS[self.unit]
        axes.xaxis.set_major_locator(MultipleLocator(next((s for s in steps if self.span <= TICKS * s), steps[-1])))
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(self._title(), loc="left")
        handles = {name: self.known[kind] for kind, name in LABELS.items() if kind in self.known}
        rows = -(-len(handles) // LEGEND)
        assert axes.figure
        style: Style = {"loc": "outside lower center", "columnspacing": 1.4, "frameon": False}
        axes.figure.legend(handles.values(), handles.keys(), ncols=-(-len(handles) // rows), **style)

    def _title(self) -> str:
        found = self.found
        part = f", the first {MOST_TASKS} of {len(found.tasks)} tasks" if found.tasks[MOST_TASKS:] else ""
        return f"{_title(found)}{part}\n{_sums(found)}"
