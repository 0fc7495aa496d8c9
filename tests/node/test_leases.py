"""File leases (fcntl(2)): they come back, and a program is told once that one is broken."""

from __future__ import annotations

import pytest

from tests.node.support import Site
from tests.node.test_sockets import ANSWER, look, running, see

LEASES = """
import fcntl, json, os, signal, sys, tempfile
directory = tempfile.mkdtemp()
told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
for name, mode, lease in (("kept", os.O_RDONLY, fcntl.F_RDLCK), ("broken", os.O_RDWR, fcntl.F_WRLCK)):
    file = os.open(f"{directory}/{name}", mode | os.O_CREAT, 0o600)
    fcntl.fcntl(file, fcntl.F_SETLEASE, lease)
    fcntl.fcntl(file, 10, signal.SIGUSR1)
    if name == "broken":
        try:
            os.open(f"{directory}/broken", os.O_RDONLY | os.O_NONBLOCK)
        except BlockingIOError:
            pass
    else:
        kept = file

def look():
    return [len(told), fcntl.fcntl(kept, fcntl.F_GETLEASE), fcntl.fcntl(file, fcntl.F_GETLEASE)]
"""


@pytest.mark.parametrize("user", ["root", "alice"])
def test_leases(site: Site, user: str) -> None:
    spec = site.spec(user)
    spec["process"]["args"] = ["python3", "-I", "-c", LEASES + ANSWER]
    with running(site, user, spec) as (life, before):
        assert before == [1, 0, 0]
        assert see(life) == before
        assert look(life) == before
        assert life.end() == 0
