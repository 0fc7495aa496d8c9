"""A job's checkpoints after the first have only what has changed, and nothing is lost by it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.cluster import wait_for
from tests.node.in_a_job import go_on, in_a_job, keep, store, supervisor
from tests.node.support import Life, Site

USER = "alice"
CONFIG = "/etc/oci-criu-shim/config.toml"
TAKEN = re.compile(r"\(signal\) to \S+/(\d+) \(([\d.]+) MiB( more than \d+)? in .*\); it runs on")


@contextmanager
def remembering(site: Site) -> Iterator[Life]:
    """A job's container whose program remembers sums of its memory."""
    site.exec(["sh", "-c", "echo 8 >/proc/sys/vm/nr_hugepages"])
    life = site.container(USER, site.spec(USER))
    life.spec["process"]["args"] = ["python3", "-I", "/remember.py"]
    with in_a_job(life, "signal:USR1"):
        yield life


def tell(life: Life, line: str = "change") -> dict[str, int]:
    """What it says its memory is then; it was what it should be before."""
    life.send(line + "\n")
    assert life.process and life.process.stdout
    answer = life.process.stdout.readline()
    assert answer, f"nothing was answered: {life.said()}"
    found = json.loads(answer)
    assert found["wrong"] == [], life.said()
    sums: dict[str, int] = found["sums"]
    return sums


def taken(life: Life) -> tuple[int, float, str]:
    """Have its supervisor take a checkpoint: its number, how many MiB were written, and what they are more than."""
    count = len(TAKEN.findall(life.said()))
    life.site.exec(["kill", "-USR1", supervisor(life)])

    def done() -> bool:
        assert "could not be checkpointed" not in life.said(), life.said()
        return len(TAKEN.findall(life.said())) > count

    wait_for(done, 300, "a checkpoint")
    number, size, parent = TAKEN.findall(life.said())[-1]
    return int(number), float(size), parent


@pytest.fixture
def compressing(site: Site) -> Iterator[None]:
    """Large images are compressed once they are committed."""
    site.cluster.exec(site.node, ["tee", CONFIG], "root", input='compress = "zstd"\n')
    yield
    site.cluster.exec(site.node, ["tee", CONFIG], "root", input="")


def test_all_memory_comes_back(site: Site, compressing: None) -> None:
    with remembering(site) as life:
        tell(life)
        assert taken(life)[::2] == (1, "")
        tell(life, "move")
        number, whole, parent = taken(life)
        assert (number, parent) == (2, "")
        assert "the checkpoint of job 1 step 0 task 0 is a whole one: memory of process" in life.said()
        wait_for(lambda: depths(life, 2) == {0}, 60, "its compression")
        tell(life)
        number, size, parent = taken(life)
        assert (number, parent) == (3, " more than 2")
        assert size < whole * 3 / 4
        wait_for(lambda: depths(life, 3) == {0, 1}, 60, "its compression")
        sums = tell(life)
        keep(life, runs_on=False)
        life.stop()
        assert ckpt(life, "rm", "--force", f"{store(life)}/2", f"{store(life)}/3") == ""
        assert ckpt(life, "verify", f"{store(life)}/4") == f"{store(life)}/4: ok\n"
        assert "more than 3" in ckpt(life, "show", f"{store(life)}/4")
        ckpt(life, "export", f"{store(life)}/4", f"{store(life)}/4.tar")
        ckpt(life, "import", f"{store(life)}/4.tar", f"{store(life)}/again")
        assert ckpt(life, "verify", f"{store(life)}/again/1") == f"{store(life)}/again/1: ok\n"
        go_on(life)
        assert tell(life, "look") == sums
        assert f"restored job 1 step 0 task 0 from {store(life)}/4 " in life.said()
        assert life.end() == 0


def ckpt(life: Life, *words: str) -> str:
    return life.site.exec(["/usr/bin/oci-criu-shim", "ckpt", *words], USER).stdout


def depths(life: Life, number: int) -> set[int]:
    """Below how many parents there are files of that checkpoint's that are compressed."""
    text = life.site.exec(["cat", f"{store(life)}/{number}/manifest.json"], USER).stdout
    return {name.count("parent/") for name in json.loads(text).get("compressed", {})}
