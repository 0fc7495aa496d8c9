"""A container on the terminal of whoever started it: another's than its own, and another one after a restore."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.engines.support import ECHO, Engine
from tests.harness.cluster import wait_for
from tests.node.support import SHIM, Site

HERE = "/root/shell-job"
IMAGES = ("--image-path", f"{HERE}/images")


@pytest.fixture
def shim(site: Site) -> Iterator[Engine]:
    """Ours as root; HERE is a bundle whose container has no terminal of its own."""
    spec = site.spec("root")
    spec["process"]["args"] = list(ECHO)
    site.exec(["mkdir", HERE])
    site.cluster.exec(site.node, ["tee", f"{HERE}/config.json"], "root", input=json.dumps(spec))
    engine = Engine(site.cluster, (SHIM, "--root", f"{HERE}/run"))
    yield engine
    engine("delete", "--force", "one")
    site.exec(["rm", "-r", HERE])


def test_from_terminal_to_terminal(shim: Engine) -> None:
    with shim.terminal("run", "--detach", "--bundle", HERE, "one") as terminal:
        terminal.type("first\n")
        terminal.wait_for("<first on")
        refused = shim("checkpoint", *IMAGES, "one", check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "it uses the terminal that it was started on" in refused.stderr
        terminal.type("still\n")
        terminal.wait_for("<still on")
        shim("checkpoint", "--shell-job", *IMAGES, "one")
    with shim.terminal("restore", "--detach", "--shell-job", "--bundle", HERE, *IMAGES, "one") as terminal:
        terminal.type("second\n")
        terminal.wait_for("<second on")
        shim("checkpoint", "--shell-job", *IMAGES, "one")
    words = ("--bundle", HERE, *IMAGES, "one")
    assert "it was checkpointed with --shell-job" in shim("restore", *words, check=False).stderr
    assert "needs a terminal to give" in shim("restore", "--shell-job", *words, check=False).stderr
    with shim.terminal("restore", "--shell-job", *words) as terminal:
        terminal.type("third\n")
        terminal.wait_for("<third on")
        terminal.type("\x04")
        wait_for(lambda: not shim("list", "--quiet").stdout, 10, "its end")
