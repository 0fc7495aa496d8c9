"""Seccomp filters of a program's own, and strict mode, come back without privilege; else the checkpoint is refused."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.jobs import SETTINGS
from tests.harness.programs.filtered import CASES
from tests.node import configured
from tests.node.support import Life, Site
from tests.node.test_configured import make_mapped

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere CRIU sets all that it can")


def container(site: Site, user: str, case: str) -> Life:
    spec = site.spec(user)
    spec["process"]["args"] = ["python3", "-I", "/filtered.py", case]
    if case.startswith("privileged"):
        spec["process"]["noNewPrivileges"] = False
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")
    return site.container(user, spec)


@contextmanager
def settings(site: Site, case: str) -> Iterator[None]:
    """Nobody with a filter may enter strict mode."""
    text = "hide-io-uring = false\n" if case == "strict" else ""
    site.cluster.exec(site.node, ["tee", SETTINGS], "root", input=text)
    try:
        yield
    finally:
        site.cluster.exec(site.node, ["tee", SETTINGS], "root", input="")


@pytest.mark.parametrize("case", CASES)
def test_kept(site: Site, case: str) -> None:
    life = container(site, "alice", case)
    try:
        with site.lending("alice"), settings(site, case):
            life.run()
            before = life.look()
            for _ in range(2):
                life.checkpoint()
                life.restore()
                assert life.look() == before
        assert life.end() == 0
    finally:
        life.stop()


@pytest.mark.parametrize("user", ["bob", "root"])
def test_kept_with_ranges_of_ids(site: Site, user: str) -> None:
    """In root's container, too, CRIU has no privilege on the node."""
    if user == "root":
        make_mapped(site)
    life = container(site, user, "thread, twice")
    (configured.with_mapped_root if user == "root" else configured.with_ranges)(life.spec)
    life.write()
    try:
        with site.lending(user):
            life.run()
            before = life.look()
            life.checkpoint()
            life.restore()
            assert life.look() == before
    finally:
        life.stop()


def test_refused(site: Site) -> None:
    """Without no_new_privs, nobody may set the filter after the capabilities are gone."""
    life = container(site, "alice", "privileged before")
    try:
        with site.lending("alice"):
            life.run()
            before = life.look()
            done = life.checkpoint(check=False)
            assert done.returncode == 1
            assert "of the container has a seccomp filter that refuses what a restore has to do in it" in done.stderr
            assert life.look() == before
    finally:
        life.stop()
