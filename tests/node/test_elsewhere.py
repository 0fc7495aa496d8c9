"""Memory that goes to a page server instead of files, and memory that is handed out once it is needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.cluster import wait_for
from tests.harness.cluster.waiting import patient
from tests.node.support import SHIM, Life, Site

# 32 MiB of which every page is another, and their checksum each time that it is asked for.
PROGRAM = """
import hashlib, sys
memory = bytearray(b"".join(n.to_bytes(4096, "little") for n in range(8192)))
for _ in sys.stdin:
    print(hashlib.sha256(memory).hexdigest(), flush=True)
"""


@pytest.fixture
def life(site: Site) -> Iterator[Life]:
    spec = site.spec("root")
    spec["process"]["args"] = ["python3", "-I", "-c", PROGRAM]
    life = site.container("root", spec)
    try:
        life.run()
        yield life
    finally:
        life.stop()


def checksum(life: Life) -> str:
    life.send("\n")
    assert life.process and life.process.stdout
    return life.process.stdout.readline()


def in_background(site: Site, script: str) -> None:
    site.exec(["sh", "-c", f"({script}) >/dev/null 2>&1 </dev/null &"])


def may_have_large_pipes(site: Site) -> bool:
    """Tell whether root has CAP_SYS_RESOURCE: that of a virtual machine or a container can be without."""
    code = f"import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETPIPE_SZ, {1 << 22})"
    return not site.exec(["python3", "-I", "-c", code], check=False).returncode


def test_page_server(site: Site, life: Life) -> None:
    before = checksum(life)
    site.exec(["mkdir", life.images])
    in_background(site, f"exec criu page-server --images-dir {life.images} --address 127.0.0.1 --port 4711")
    wait_for(lambda: ":4711" in site.exec(["ss", "-Hltn"]).stdout, 10, "the page server")
    life.checkpoint("--page-server=127.0.0.1:4711")
    life.restore()
    assert checksum(life) == before
    assert "not verified" in life.said()
    assert life.end() == 0


def test_no_page_server(site: Site, life: Life) -> None:
    before = checksum(life)
    done = life.checkpoint("--page-server=127.0.0.1:4712", check=False)
    assert done.returncode == 1
    assert "no page server answers at 127.0.0.1:4712" in done.stderr
    assert checksum(life) == before


def test_lazily(site: Site, life: Life) -> None:
    """It is restored elsewhere while its memory is still with the container that it was."""
    before = checksum(life)
    if not may_have_large_pipes(site):
        done = life.checkpoint("--lazy-pages", "--page-server=127.0.0.1:4713", check=False)
        assert (done.returncode, life.end()) == (1, 0)
        assert "--lazy-pages needs pipes of 4 MiB, which this root may not make" in done.stderr
        return
    work = f"{life.bundle}/work"
    site.exec(["mkdir", work])
    options = f"--image-path {life.images} --lazy-pages --page-server 127.0.0.1:4713 --status-fd 7"
    in_background(site, f"exec {SHIM} --root /root/run checkpoint {options} {life.name} 7>{work}/ready")
    wait_for(lambda: site.exec(["stat", "-c", "%s", f"{work}/ready"], check=False).stdout == "1\n", 20, "its memory")
    assert site.exec(["du", "-sk", life.images]).stdout.split()[0] < "4096"
    fetch = "exec criu lazy-pages --page-server --address 127.0.0.1 --port 4713"
    in_background(site, f"cd {work}; {fetch} --images-dir {life.images} --work-dir {work}")
    wait_for(lambda: not site.exec(["test", "-S", f"{work}/lazy-pages.socket"], check=False).returncode, 10, "CRIU")
    assert life.process
    first = life.process
    there = site.container("root", life.spec)
    try:
        words = ("--image-path", life.images, "--work-path", work, "--lazy-pages", "--bundle", there.bundle)
        there._start("restore", *words, there.name)
        assert checksum(there) == before
        assert there.end() == 0
        assert first.wait(patient(20)) != 0
    finally:
        there.stop()
