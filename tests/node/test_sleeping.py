"""Programs that wait in a system call do not notice a checkpoint, or a restore."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.cluster import wait_for
from tests.node.support import Life, Site

SMALL = "/tmp/small"  # a file system that no checkpoint fits into
WOKEN = ("poll", "poll without a limit", "ppoll", "select", "epoll_wait", "epoll_pwait", "recv", "recv without a limit")


@pytest.fixture(params=["root", "alice"])
def sleeping(site: Site, request: pytest.FixtureRequest) -> Iterator[Life]:
    user = request.param
    spec = site.spec(user)
    spec["process"]["args"] = ["python3", "-I", "/sleeping.py"]
    life = site.container(user, spec)
    site.exec(["sh", "-c", f"mkdir {SMALL} && mount -t tmpfs -o size=256k,mode=777 small {SMALL}"])
    try:
        with site.lending(user):
            life.run()
            yield life
    finally:
        life.stop()
        site.exec(["sh", "-c", f"umount {SMALL} && rmdir {SMALL}"])


def wait_until_asleep(life: Life) -> None:
    """Until no process or thread of it runs; since Python 3.14, threads have names with parentheses."""
    states = ["sh", "-c", f"sed 's/.*) //; s/ .*//' /proc/{life.state()['pid']}/task/*/stat | sort -u"]
    wait_for(lambda: life.site.exec(states).stdout == "S\n", 20, "sleep")


def asked(life: Life, word: str = "look") -> dict[str, Any]:
    """{call: [result, error]} of the calls that have ended."""
    assert life.process and life.process.stdin
    if word != "look":
        life.process.stdin.write(word + "\n")
        life.process.stdin.flush()
        assert life.process.stdout
        life.process.stdout.readline()
    return life.look()


def test_no_call_ends(sleeping: Life) -> None:
    """By a checkpoint that runs on, by one that fails half-way, or by a restore."""
    life = sleeping
    assert asked(life) == {}
    wait_until_asleep(life)
    life.checkpoint("--leave-running")
    assert asked(life) == {}
    life.site.exec(["rm", "-r", life.images], life.user)
    argv = life.argv("checkpoint", "--image-path", f"{SMALL}/images", life.name)
    assert life.site.exec(argv, life.user, check=False).returncode
    assert asked(life) == {}
    wait_until_asleep(life)
    life.checkpoint()
    life.restore()
    assert asked(life) == {}
    asked(life, "wake")
    woken = {f"{name}{whose}" for name in WOKEN for whose in ("", " of a child")}
    wait_for(lambda: set(asked(life)) == woken, 20, "the calls that wait for a byte")
    assert {tuple(result) for result in asked(life).values()} == {(1, "")}
    assert life.end() == 0
