"""Draws what the benchmarks have found: build/bench/report.html, of all results in build/bench.

`python3 -m bench.page` alone does that, too. The page needs no JavaScript, and nothing from anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from bench.report import HEADS, RESULTS, Measure, Result, load, number, write_whole

NAME = "report.html"
STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
WIDTH, ROW, BAR, CAP = 960, 22, 12, 3
LETTER = 7.4  # a letter of a label, about
VALUE = 170  # of the column of figures
TICKS = 8  # at most
Measures = Mapping[str, Measure]


def write(results: Path = RESULTS) -> Path:
    """Write the page of the results in a directory, and return its path. Raise SystemExit if there are none."""
    found = {path.stem: load(path) for path in sorted(results.glob("*.json"))}
    if not found:
        raise SystemExit(f"bench: there are no results in {results}: make bench has them")
    return write_whole(results / NAME, page(found))


def page(results: Mapping[str, Result]) -> str:
    """Return the page of some results, by their names."""
    root = Element("html", lang="en")
    head, body = SubElement(root, "head"), SubElement(root, "body")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": POLICY})
    SubElement(head, "meta", name="viewport", content="width=device-width")
    _add(head, "title", "oci-criu-shim: benchmarks")
    _add(head, "style", STYLE.read_text())
    _add(body, "h1", "oci-criu-shim: benchmarks")
    _add_summary(body, results)
    for name, result in results.items():
        _add_result(body, name, result)
    indent(root, "\t")
    return f"<!doctype html>\n{tostring(root, encoding='unicode', method='html')}\n"


def _add(parent: Element, tag: str, text: str = "", **attributes: object) -> Element:
    """Add an element; the attribute `kind` is its class."""
    named = {"class" if key == "kind" else key: _text(value) for key, value in attributes.items() if value != ""}
    child = SubElement(parent, tag, named)
    child.text = text or None
    return child


def _text(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _add_summary(parent: Element, results: Mapping[str, Result]) -> None:
    _add(parent, "p", "Bars are medians, thin lines go from the least to the most, dashed ones are goals.")
    names = _add(parent, "ul")
    for name, result in results.items():
        line = _add(names, "li")
        _add(line, "a", name, href=f"#{name}").tail = f": {_goals(result)}"


def _goals(result: Result) -> str:
    verdicts = [measure.verdict() for measure in result.measures.values()]
    missed = f", MISSED: {', '.join(result.missed())}" if result.missed() else ""
    return f"{verdicts.count('met')} goals met{missed}"


def _add_result(parent: Element, name: str, result: Result) -> None:
    section = _add(parent, "section", id=name)
    _add(section, "h2", name)
    for paragraph in result.about.strip().split("\n\n"):
        _add(section, "p", paragraph)
    machine = ", ".join(f"{key.replace('_', ' ')} {_text(value)}" for key, value in result.machine.items())
    versions = ", ".join(f"{key} {value}" for key, value in result.versions.items())
    _add(section, "p", f"{result.at}: {machine}; {versions}", kind="dim")
    for group, measures in _split(result.measures, lambda measure: measure.group).items():
        if group:
            _add(section, "h3", group)
        for unit, some in _split(measures, lambda measure: measure.unit).items():
            _add_plot(section, unit, some)
        _add_table(section, measures)


def _split(measures: Measures, key: Callable[[Measure], str]) -> dict[str, dict[str, Measure]]:
    """Return {key of some measures: these measures}, all of it in their order."""
    found: dict[str, dict[str, Measure]] = {}
    for name, measure in measures.items():
        found.setdefault(key(measure), {})[name] = measure
    return found


def _add_table(parent: Element, measures: Measures) -> None:
    table = _add(parent, "table")
    row = _add(_add(table, "thead"), "tr")
    for text in HEADS:
        _add(row, "th", text)
    rows = _add(table, "tbody")
    for name, measure in measures.items():
        row = _add(rows, "tr", kind=_kind(measure))
        for text in (name, *measure.cells()):
            _add(row, "td", text)


def _kind(measure: Measure) -> str:
    return "missed" if measure.verdict() == "MISSED" else ""


class Axis:
    """Values, and their places in a picture."""

    def __init__(self, measures: Measures, left: float) -> None:
        ends = [end for one in measures.values() for end in (one.value, one.least, one.most, one.goal or 0.0)]
        self.low, self.high = min(0.0, *ends), max(0.0, *ends)
        if self.low == self.high:
            self.high = 1.0
        self.left = left

    def x(self, value: float) -> float:
        return self.left + (WIDTH - VALUE - self.left) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return round numbers, with 0 among them."""
        least = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(least))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
        return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _add_plot(parent: Element, unit: str, measures: Measures) -> None:
    """Add a picture of measures of one unit, with a row for each."""
    axis = Axis(measures, LETTER * max(map(len, measures)) + 10)
    bottom = ROW * len(measures)
    label = f"medians and spread, {unit}"
    picture = _add(parent, "svg", viewBox=f"0 0 {WIDTH} {bottom + 20}", role="img", **{"aria-label": label})
    for tick in axis.ticks():
        _add(picture, "path", kind="grid", d=f"M{axis.x(tick):.1f} 0V{bottom}")
        _add_text(picture, f"{tick:.6g}", axis.x(tick), bottom + 14, "middle", "dim")
    _add_text(picture, unit, WIDTH, bottom + 14, "end", "dim")
    for place, (name, measure) in enumerate(measures.items()):
        _add_bar(picture, name, measure, axis, ROW * place)


def _add_text(parent: Element, text: str, x: float, y: float, anchor: str = "start", kind: str = "") -> None:
    _add(parent, "text", text, x=x, y=y, kind=kind, **{"text-anchor": anchor})


def _add_bar(parent: Element, name: str, measure: Measure, axis: Axis, top: float) -> None:
    row = _add(parent, "g")
    _add(row, "title", f"{name}: {', '.join(map(number, measure.samples))}")
    middle, (begin, end) = top + ROW / 2, sorted((axis.x(0.0), axis.x(measure.value)))
    kind = f"bar {_kind(measure)}".rstrip()
    _add(row, "rect", kind=kind, x=begin, y=middle - BAR / 2, width=end - begin, height=BAR)
    if measure.samples[1:]:
        least, most = axis.x(measure.least), axis.x(measure.most)
        caps = (f"M{x:.1f} {middle - CAP:.1f}v{2 * CAP}" for x in (least, most))
        _add(row, "path", kind="spread", d=f"M{least:.1f} {middle:.1f}H{most:.1f}{''.join(caps)}")
    if measure.goal is not None:
        _add(row, "path", kind="goal", d=f"M{axis.x(measure.goal):.1f} {top:.1f}v{ROW}")
    value, spread, *_ = measure.cells()
    _add_text(row, name, axis.left - 8, middle + 4, "end")
    _add_text(row, f"{value} ({spread})" if spread else value, WIDTH, middle + 4, "end")


if __name__ == "__main__":
    print(write())
