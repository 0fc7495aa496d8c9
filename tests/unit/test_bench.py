"""What benchmarks have found: figures, their table and their page. No benchmark is run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import zstandard

from bench import disk, migrate, page, steady
from bench.__main__ import main
from bench.applications import APPLICATIONS, PACKAGES
from bench.processes import Process, parse
from bench.report import Measure, Result, differences, load, number, ratios
from tests.programs.site import SCRIPTS

VOID = ("meta",)
ODD = """<script>alert("1 & 2")</script>"""


def result() -> Result:
    found = Result({"slurm": "24.11.5", ODD: ODD}, about=f"Measures.\n\n{ODD}", at="2026-11-30T18:00:00+00:00")
    found.measures = {
        "met": Measure.of([1.5, 1.0, 2.0], goal=2, group="one"),
        "missed": Measure.of([1.25, 1.25], "ratio", 1.2, group="one"),
        "fast": Measure.of([0.98, 1.0, 0.99], "ratio", 0.99, better="higher"),
        "alone": Measure.of([0], "calls", 0),
        "below": Measure.of([-0.25, 0.125], group="one"),
        ODD: Measure.of([1234.5678], ODD, group=ODD),
    }
    return found


class Reader(HTMLParser):
    """Counts elements, and sees to it that all of them end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += [data.strip()] if data.strip() else []

    def count(self, tag: str, kind: str | None = None) -> int:
        return sum(found == tag and (kind is None or about.get("class") == kind) for found, about in self.seen)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def test_median_and_spread() -> None:
    found = Measure.of([3.0, 1.0, 2.00000004], "s")
    assert (found.value, found.least, found.most, found.runs) == (2.0, 1.0, 3.0, 3)
    assert found.samples == (3.0, 1.0, 2.0)
    assert found.cells() == ("2.00", "1.00 to 3.00", "s", "3", "", "")
    assert Measure.of([5], goal=4).cells() == ("5.00", "", "s", "1", "≤ 4.00", "MISSED")


@pytest.mark.parametrize(
    ("value", "goal", "better", "verdict"),
    [(1.0, 1.0, "lower", "met"), (1.1, 1.0, "lower", "MISSED"), (0.9, 1.0, "higher", "MISSED"), (0, None, "lower", "")],
)
def test_verdict(value: float, goal: float | None, better: str, verdict: str) -> None:
    assert Measure.of([value], goal=goal, better=better).verdict() == verdict


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (2.888, "2.89"), (0.000234, "0.000234"), (268435456, "268435456"), (-0.125, "-0.125"), (12.34, "12.3")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_what_was_taken_in_turns_is_compared_run_by_run() -> None:
    assert ratios([1, 4], [2, 2]) == [0.5, 2]
    assert differences([1, 4], [2, 2]) == [-1, 2]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = result()
    path = found.write("one", tmp_path)
    assert [path] == [*tmp_path.iterdir()]
    again = load(path)
    assert again.table() == found.table()
    assert again.measures["met"].samples == [1.5, 1.0, 2.0]
    assert {"cpus", "model", "memory", "kernel", "file_system", "load"} == set(again.machine)
    raw = json.loads(path.read_text())["measures"]["met"]
    assert (raw["value"], raw["unit"], raw["runs"], raw["goal"]) == (1.5, "s", 3, 2)


def test_results_of_an_older_version_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    measure = {"value": 1.5, "unit": "s", "runs": 3, "goal": 1.2, "better": "lower"}
    path.write_text(json.dumps({"versions": {}, "measures": {"a": measure}, "machine": {"cpus": 2}}))
    assert load(path).table().splitlines()[1].split() == ["a", "1.50", "s", "3", "≤", "1.20", "MISSED"]
    assert ">1.50</td>" in page.write(tmp_path).read_text()


def test_table() -> None:
    lines = result().table().splitlines()
    assert lines[1].split() == ["met", "1.50", "1.00", "to", "2.00", "s", "3", "≤", "2.00", "met"]
    assert result().missed() == ["missed"]


def test_page_is_well_formed_and_needs_nothing_else(tmp_path: Path) -> None:
    for name in ("one", "two"):
        result().write(name, tmp_path)
    path = page.write(tmp_path)
    assert path == tmp_path / "report.html"
    text = path.read_text()
    reader = read(text)
    assert text.startswith("<!doctype html>\n<html")
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"(https?|data):|url\(|@import", text)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in reader.seen}
    assert not {"src", "style", "onload"} & {name for _, about in reader.seen for name in about}
    assert [about["href"] for tag, about in reader.seen if tag == "a"] == ["#one", "#two"]
    assert {"one", "two"} <= {about.get("id") for _, about in reader.seen}


def test_page_has_every_figure() -> None:
    reader = read(page.page({"one": result()}))
    assert reader.count("rect") == len(result().measures)
    assert reader.count("rect", "bar missed") == reader.count("tr", "missed") == 1
    assert reader.count("path", "goal") == 4
    assert reader.count("path", "spread") == 4  # not of the two that were measured once
    assert reader.count("svg") == 5  # a picture for each unit of a group
    assert reader.count("table") == 3
    for text in ("1.50", "1.00 to 2.00", "≤ 1.20", "MISSED", "1.50 (1.00 to 2.00)"):
        assert text in reader.words, text


def test_what_others_say_is_text() -> None:
    reader = read(page.page({"one": result()}))
    assert "script" not in {tag for tag, _ in reader.seen}
    assert reader.words.count(ODD) == 6  # a paragraph, a heading, a label, a unit, and the cells of both


@pytest.mark.parametrize("samples", [[0.0], [-1.0], [5e-7, 6e-7], [3e9]])
def test_pictures_keep_within_their_bounds(samples: list[float]) -> None:
    text = page.page({"one": Result({}, {"a": Measure.of(samples, goal=samples[0])})})
    picture = ElementTree.fromstring(re.search(r"<svg.*</svg>", text, re.DOTALL)[0])  # type: ignore[index]
    for element in picture.iter():
        for name in ("x", "width"):
            assert 0 <= float(element.get(name, 0)) <= page.WIDTH
        assert all(0 <= float(x) <= page.WIDTH for x in re.findall(r"[MH](-?[\d.]+)", element.get("d", "")))
    assert 2 <= len([one for one in picture if one.get("class") == "grid"]) <= page.TICKS + 2


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there are no results in"):
        page.write(tmp_path)


def disk_samples(name: str) -> disk.Samples:
    found: disk.Samples = {}
    for where in disk.DISKS:
        for setting, seconds in (("off", [2.0, 2.5]), ("auto", [1.0, 2.0])):
            found |= {(what, name, where, setting): seconds for what in disk.UNITS}
            found["memory", name, where, setting] = [256.0, 257.0]
        found["left", name, where, "off"] = [0.5, 0.52]
    return found


def test_goals_of_the_slow_disk_are_what_zstd_leaves() -> None:
    found = disk.measures("hpl", disk_samples("hpl") | disk_samples("random"))
    commit = found["commit_hpl_slow_ratio"]
    assert commit.samples == (0.5, 0.8)
    assert (commit.goal, found["restore_hpl_slow_ratio"].goal) == pytest.approx((0.57, 0.61))
    assert (found["commit_hpl_own_ratio"].goal, found["restore_hpl_own_ratio"].goal) == (1.05, None)
    assert (found["memory_hpl"].runs, found["left_hpl"].runs, found["left_hpl"].value) == (8, 4, 0.51)
    assert {measure.group for measure in found.values()} == {"HPL"}
    assert disk.measures("numpy", disk_samples("numpy"))["commit_numpy_slow_ratio"].goal == 0.55


def test_what_zstd_leaves(tmp_path: Path) -> None:
    pages = bytes(3 << 20) + bytes(range(256)) * 100
    (tmp_path / "pages-1.img").write_bytes(pages)
    (tmp_path / "core-1.img").write_bytes(b"x" * 100)
    packer = zstandard.ZstdCompressor(level=1)
    frames = [pages[start : start + disk.FRAME] for start in range(0, len(pages), disk.FRAME)]
    assert disk.left_by_zstd(tmp_path) == sum(len(packer.compress(frame)) for frame in frames) / len(pages)


@pytest.mark.parametrize("words", [["nothing"], ["disk", "--program", "nothing"], ["disk", "--runs", "many"]])
def test_what_is_not_known_is_refused_before_a_cluster_starts(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)


def test_processes() -> None:
    assert parse("7 alice 2048 0\n8 root 1024 1\n") == [
        Process("7", "alice", 2.0, is_ours=False),
        Process("8", "root", 1.0, is_ours=True),
    ]


def test_programs_have_their_scripts_and_packages() -> None:
    scripts = [application.program.script for application in APPLICATIONS.values()]
    for script in (*scripts, *(figure.script for figure in steady.FIGURES.values())):
        assert (SCRIPTS / f"{script}.sh").exists()
    assert {"hpcc", "lammps"} <= set(PACKAGES)


@pytest.mark.parametrize(
    ("name", "said", "wanted"),
    [
        ("hpl", "WR11C2L4        3000    80     1     1        1.04              1.730e+01\n", ["1.730e+01"]),
        ("lammps", "Performance: 6593.8 tau/day, 15.263 timesteps/s, 488.431 katom-step/s\n", ["15.263"]),
    ],
)
def test_figures_are_found(name: str, said: str, wanted: list[str]) -> None:
    assert re.findall(steady.FIGURES[name].pattern, f"before\n{said}after\n", re.MULTILINE) == wanted


def test_a_migration_is_compared_with_the_requeue_run_by_run() -> None:
    samples = {("total", "random", 64, "off"): [4.0, 10.0, 8.0], ("total", "random", 64, "migrate"): [2.0, 4.0, 5.0]}
    samples |= {("total", "random", 64, "wide"): [1.0], ("sent", "random", 64, "wide"): [0.9]}
    found = migrate.measures(samples)
    assert found["total_random_64_migrate_ratio"].samples == (0.5, 0.4, 0.625)
    assert found["total_random_64_migrate_ratio"].verdict() == "met"
    assert (found["total_random_64_wide_ratio"].samples, found["total_random_64_wide_ratio"].goal) == ((0.25,), None)
    assert found["sent_random_64_wide"].unit == "ratio"
    assert "total_random_64_off_ratio" not in found
