"""crun itself restores what ours dumped, and ours what crun dumped: where control groups are of version 1, its restore
stops the whole node (crun 1.21)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.support import Life, Site

Seen = dict[str, Any]
KEPT = ("process", "limits", "held", "uname")


class Crun(Life):
    """A container of plain crun's."""

    def argv(self, *words: str) -> list[str]:
        return ["crun", "--root", "/run/plain-crun", *words]

    def said(self) -> str:
        errors = ["grep", "-h", "Error", f"{self.images}/restore.log"]
        return super().said() + self.site.exec(errors, check=False).stdout


@pytest.fixture
def ours(site: Site) -> Iterator[Life]:
    life = site.container("root", site.spec("root"))
    yield life
    life.stop()


@pytest.fixture
def cruns(site: Site, ours: Life) -> Iterator[Life]:
    """With the same bundle and the same images."""
    life = Crun(site, "root", ours.name, ours.bundle, ours.spec)
    yield life
    life.stop()


@pytest.mark.parametrize("first", ["ours", "cruns"])
def test_moved(ours: Life, cruns: Life, first: str) -> None:
    """From one to the other and back."""
    one, other = (ours, cruns) if first == "ours" else (cruns, ours)
    one.run()
    before = one.look()
    for source, target in ((one, other), (other, one)):
        source.checkpoint()
        target.restore()
        assert same(target.look()) == same(before)
    assert one.end() == 0


def same(seen: Seen) -> Seen:
    return {name: value for name, value in seen.items() if name in KEPT}
