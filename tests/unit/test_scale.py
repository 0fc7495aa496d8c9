"""The simulation of many jobs, by what can be computed without one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import scale
from bench.crowd import Crowd, Disk, Dump
from bench.report import Progress
from bench.scale import Node

SIZE, BANDWIDTH = 100.0, 10.0
WIDE = Disk(BANDWIDTH, math.inf)
"""A file system of which one node can use all."""


def due(*begins: float, size: float = SIZE, end: float = math.inf, delay: float = 0, cost: float = 10) -> list[Dump]:
    return [Dump(begin, end, size, delay, cost) for begin in begins]


def times(crowd: Crowd) -> Sequence[float]:
    return [crowd.committed[number] for number in sorted(crowd.committed)]


def test_all_at_once_all_end_at_last() -> None:
    assert times(Crowd(due(*[0] * 20, delay=3), WIDE)) == pytest.approx([3 + 20 * SIZE / BANDWIDTH] * 20)


def test_one_after_the_other() -> None:
    paced = times(Crowd(due(*[0] * 20), WIDE, files=1, pause=None, is_patient=True))
    assert paced == pytest.approx([number * SIZE / BANDWIDTH for number in range(1, 21)])


def test_some_at_a_time() -> None:
    """As many as the file system needs take as long as their nodes do."""
    disk = Disk(BANDWIDTH, BANDWIDTH / 4)
    paced = times(Crowd(due(*[0] * 8), disk, files=4, pause=None, is_patient=True))
    assert paced == pytest.approx([40.0] * 4 + [80.0] * 4)
    assert times(Crowd(due(*[0] * 3), disk)) == pytest.approx([40.0] * 3)


def test_shares_of_unequal_ones() -> None:
    dumps = [*due(0, size=SIZE), *due(0, size=2 * SIZE)]
    assert times(Crowd(dumps, WIDE)) == pytest.approx([20.0, 30.0])


def test_one_that_comes_later() -> None:
    """Half of the first is written by then, and half of the second when the first is done."""
    assert times(Crowd(due(0, 5), WIDE)) == pytest.approx([15.0, 20.0])


def test_killed_ones_have_written_in_vain() -> None:
    crowd = Crowd(due(*[0] * 20, end=50), WIDE)
    assert not crowd.committed and crowd.vain == pytest.approx(50 * BANDWIDTH)
    paced = Crowd(due(*[0] * 20, end=55), WIDE, files=1, pause=None, is_patient=True)
    assert times(paced) == pytest.approx([10, 20, 30, 40, 50])
    assert paced.vain == pytest.approx(5 * BANDWIDTH)


def test_one_that_is_killed_lets_the_next_one_write() -> None:
    dumps = [*due(0, size=1000, end=5), *due(1)]
    assert Crowd(dumps, WIDE, files=1, pause=None, is_patient=True).committed == {1: pytest.approx(15.0)}


def test_by_random_tries() -> None:
    """No more write than there are files, and hardly any time passes before one that is free is found."""
    crowd = Crowd(due(*[0] * 100), WIDE, files=4, pause=lambda _: 0.1, is_patient=True)
    assert crowd.most == 4 and len(crowd.committed) == 100
    assert 1000 <= max(times(crowd)) < 1010
    assert crowd.tries > 1000


def test_nobody_waits_for_ever() -> None:
    """The second gives up after some times its cost, or before the end."""
    long = Dump(0, math.inf, 1e6, 0, 1e6)
    for end, begins in ((math.inf, 50.0), (62.0, 62 - 15 - 5.0)):
        crowd = Crowd([long, *due(0, size=1, end=end)], WIDE, files=1, pause=lambda _: 1)
        assert crowd.committed[1] == pytest.approx(begins + 2 / BANDWIDTH)


def test_a_crowd_costs_efficiency() -> None:
    disk = Disk(BANDWIDTH, math.inf, crowd=4)
    assert [disk.rate(writers) * writers for writers in (1, 4, 64)] == pytest.approx([10, 10, 5])


def test_what_is_staged_is_safe_before_it_is_there() -> None:
    taken = [*due(0, 0, end=12, cost=10), *due(0, end=12, cost=13)]
    found = scale.outcome(taken, Disk(BANDWIDTH, BANDWIDTH), 0, is_staged=True)
    assert found.safe == {0, 1} and not found.vain
    assert [found.mean, found.last] == pytest.approx([30, 30])


def test_what_other_benchmarks_have_found(tmp_path: Path) -> None:
    assert scale.measured(str(tmp_path)) == Node()
    values = {"commit_64_mib": 0.5, "commit_1024_mib": 1.46, "frozen_64_mib": 0.1}
    packed = {"raw_bytes": 4e8, "zstd:1_compress": 2.0, "zstd:1_ratio": 0.5}
    for name, found in (("preempt", values), ("store", packed)):
        measures = {key: {"value": value} for key, value in found.items()}
        (tmp_path / f"{name}.json").write_text(json.dumps({"measures": measures, "machine": {"cpus": 2}}))
    node = scale.measured(str(tmp_path))
    assert [node.freezes, node.writes] == pytest.approx([0.4, 1000 << 20])
    assert (node.packs, node.shrinks, node.rate(True)) == (1e8, 0.5, 4e8)


def test_the_result_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "JOBS", 30)
    monkeypatch.setattr(scale, "measured", Node)
    one, two = scale.measure(Progress("scale")), scale.measure(Progress("scale"))
    assert one == two
    assert one.measures["steady_raw_direct_paced_safe"].value == 100
    assert {"crowded_packed_120_s_paced_by_16_safe", "steady_raw_staged_unpaced_last"} <= one.measures.keys()


def test_memory_is_drawn() -> None:
    mixed = scale.memories(True)
    assert len(mixed) == scale.JOBS and min(mixed) >= scale.LEAST and max(mixed) <= scale.MOST
    assert sorted(mixed)[500] == pytest.approx(scale.MEDIAN, rel=0.1)
    assert set(scale.memories(False)) == {scale.MEDIAN}
