"""Tasks without a container: what they see is as it was after a checkpoint and a restore."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.node import bare
from tests.node.support import PROGRAMS, Life, Site


@pytest.fixture
def task(site: Site) -> Iterator[Life]:
    life = bare.task(site, "alice", "python3", "-I", f"/src/{PROGRAMS.relative_to(PROGRAMS.parents[2])}/bare.py")
    with site.lending("alice"):
        yield life
        life.stop()


def test_comes_back(task: Life) -> None:
    """Its ids, its place, what it has in /tmp and /dev/shm, open or not, and in System V memory."""
    task.run()
    before = task.look()
    assert (before["ids"], before["pid"], before["cwd"]) == ([1000, 1000], 2, "/home/alice")
    assert before["processes"] == ["1", "2"]
    task.checkpoint()
    task.restore()
    assert task.look() == {**before, "looks": 2}
    task.checkpoint()
    task.restore()
    assert task.look() == {**before, "looks": 3}
    assert task.end() == 7
