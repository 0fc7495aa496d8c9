"""A job's checkpoints after the first have only what has changed, and nothing is lost by it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster import wait_for
from tests.system.support import Life, Site, home

USERS = pytest.mark.parametrize("user", ["alice", "root"])
KEEP = ["python3", "-I", "/src/tests/programs/keep.py"]
CONFIG = "/etc/oci-criu-shim/config.toml"
TAKEN = re.compile(r"\(signal\) to \S+/(\d+) \(([\d.]+) MiB( more than \d+)? in .*\); it runs on")


@contextmanager
def remembering(site: Site, user: str, *words: str) -> Iterator[Life]:
    """A job's container whose program remembers sums of its memory."""
    spec = site.spec(user)
    life = site.container(user, spec)
    site.exec(["sh", "-c", "echo 8 >/proc/sys/vm/nr_hugepages"])
    spec["process"]["args"] = ["python3", "-I", "/remember.py", *words]
    environment = ["SLURM_JOB_ID=1", "SLURM_STEP_ID=0", "SLURM_CHECKPOINT=signal:USR1"]
    spec["process"]["env"] = ["PATH=/usr/bin:/bin", *environment, f"SLURM_CHECKPOINT_DIR={home(user)}/jobs"]
    life.write()
    site.exec(["mkdir", "-p", f"{home(user)}/jobs"], user)
    try:
        with site.lending(user):
            life.run()
            yield life
    finally:
        life.stop()
        site.exec(["rm", "-rf", f"{home(user)}/jobs/1"], user)


def tell(life: Life, line: str = "change") -> dict[str, int]:
    """What it says its memory is then; it was what it should be before."""
    assert life.process and life.process.stdin and life.process.stdout
    life.process.stdin.write(line + "\n")
    life.process.stdin.flush()
    answer = life.process.stdout.readline()
    assert answer, f"nothing was answered: {life.said()}"
    found = json.loads(answer)
    assert found["wrong"] == [], life.said()
    sums: dict[str, int] = found["sums"]
    return sums


def taken(life: Life) -> tuple[int, float, str]:
    """Have its supervisor take a checkpoint: its number, how many MiB were written, and what they are more than."""
    count = len(TAKEN.findall(life.said()))
    supervisor = life.site.exec(["cat", f"{home(life.user)}/run/{life.name}/pid"]).stdout.strip()
    life.site.exec(["kill", "-USR1", supervisor])

    def done() -> bool:
        assert "could not be checkpointed" not in life.said(), life.said()
        return len(TAKEN.findall(life.said())) > count

    wait_for(done, 300, "a checkpoint")
    number, size, parent = TAKEN.findall(life.said())[-1]
    return int(number), float(size), parent


def go_on(life: Life) -> None:
    """Its node fails, and the job's next run begins."""
    supervisor = life.site.exec(["cat", f"{home(life.user)}/run/{life.name}/pid"]).stdout.strip()
    pid = life.state()["pid"]
    life.site.exec(["kill", "-KILL", supervisor])
    life.site.exec(["kill", "-KILL", str(pid)], check=False)
    life.stop()
    begin_again(life)


def begin_again(life: Life) -> None:
    restarts = sum(entry.startswith("SLURM_RESTART_COUNT") for entry in life.spec["process"]["env"]) + 1
    life.spec["process"]["env"].append(f"SLURM_RESTART_COUNT={restarts}")
    life.write()
    life.run()


def store(life: Life) -> str:
    return f"{home(life.user)}/jobs/1/0.0"


@USERS
def test_all_memory_comes_back(site: Site, user: str) -> None:
    with remembering(site, user) as life:
        tell(life)
        number, whole, parent = taken(life)
        assert (number, parent) == (1, "")
        for number in range(2, 7):
            sums = tell(life)
            found, size, parent = taken(life)
            assert (found, parent) == (number, f" more than {number - 1}")
            assert size < whole * 3 / 4
        tell(life)
        go_on(life)
        assert tell(life, "look") == sums
        assert f"restored job 1 step 0 task 0 from {store(life)}/6 " in life.said()
        # A chain of its own, whose parent is gone; the last of it ends the container.
        assert taken(life)[2] == ""
        tell(life)
        assert taken(life)[2] == " more than 7"
        site.exec(["/usr/bin/oci-criu-shim", "ckpt", "rm", "--force", f"{store(life)}/7"], user)
        sums = tell(life)
        helper = "" if user == "root" else f"{home(user)}/run/helper.0.sock"
        site.exec([*KEEP, f"{home(user)}/run", life.name, store(life), helper, "no"], user)
        life.stop()
        shown = site.exec(["/usr/bin/oci-criu-shim", "ckpt", "show", f"{store(life)}/9"], user).stdout
        assert "more than 8" in shown
        begin_again(life)
        assert tell(life, "look") == sums
        assert life.end() == 0


def test_tables_that_were_moved(site: Site) -> None:
    with remembering(site, "root", "move") as life:
        tell(life)
        taken(life)
        sums = tell(life, "move")
        assert taken(life)[2] == ""
        assert "the checkpoint of job 1 step 0 task 0 is a whole one: memory of process" in life.said()
        go_on(life)
        assert tell(life, "look") == sums
        assert life.end() == 0


def test_compressed(site: Site) -> None:
    site.cluster.exec(site.node, ["tee", CONFIG], "root", input='compress = "zstd"\n')
    try:
        with remembering(site, "root") as life:
            for number in range(1, 4):
                sums = tell(life)
                assert taken(life)[0] == number
                wait_for(lambda: "compressed" in manifest(life, number), 300, "its compression")  # noqa: B023
            names = manifest(life, 3)["compressed"]
            assert {name.count("parent/") for name in names} == {0, 1, 2}
            go_on(life)
            assert tell(life, "look") == sums
            verified = site.exec(["/usr/bin/oci-criu-shim", "ckpt", "verify", f"{store(life)}/3"], "root").stdout
            assert verified == f"{store(life)}/3: ok\n"
            assert life.end() == 0
    finally:
        site.cluster.exec(site.node, ["tee", CONFIG], "root", input="")


def manifest(life: Life, number: int) -> dict[str, dict[str, object]]:
    text = life.site.exec(["cat", f"{store(life)}/{number}/manifest.json"], life.user).stdout
    found: dict[str, dict[str, object]] = json.loads(text)
    return found
