"""The documentation: links lead to something, the index is complete, and lines fit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.pages import block

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
WIDTH = 100
UNBROKEN = ("|", "    ", "[", "http")  # tables, code, and lines that begin with a link
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^    .*$|`[^`]+`", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^]]+\]:\s*(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """Return a page without its fenced code."""
    return FENCE.sub("", page.read_text())


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield (file, anchor) of each relative link; the anchor is empty if there is none."""
    for inline, defined in LINK.findall(CODE.sub("", prose(page))):
        path, _, anchor = (inline or defined).partition("#")
        if ":" not in path:
            yield (page.parent / path if path else page).resolve(), anchor


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them; a second one of the same text gets `-1`."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(prose(page)):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
    return {f"{anchor}-{number}" if number else anchor for anchor, most in found.items() for number in range(most + 1)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(target), f"{name_of(target)} has no heading #{anchor}"


def test_the_index_names_every_page() -> None:
    named = {target for target, _ in links(INDEX)}
    assert {page for page in DOCS.iterdir() if page != INDEX} <= named


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_fit(page: Path) -> None:
    lines = prose(page).splitlines()
    assert [line for line in lines if len(line) > WIDTH and not line.startswith(UNBROKEN)] == []


def test_only_devices_are_left_out_of_a_bundle(tmp_path: Path) -> None:
    """Another directory of that name stays."""
    image = tmp_path / "image"
    for name in ("dev/null", "usr/lib/dev/file"):
        (image / name).parent.mkdir(parents=True)
        (image / name).touch()
    tar = shutil.which("tar") or "tar"
    subprocess.run([tar, "-C", image, "-cf", tmp_path / "image.tar", "dev", "usr"], check=True)
    lines = [
        line for line in block(ROOT / "README.md", "Use", "podman").splitlines() if line.startswith(("mkdir", "tar"))
    ]
    environment = {"HOME": str(tmp_path), "PATH": os.defpath}
    subprocess.run(["/bin/sh", "-ec", "\n".join(lines)], cwd=tmp_path, env=environment, check=True)
    root = tmp_path / "bundle/rootfs"
    assert sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file()) == [Path("usr/lib/dev/file")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("# One\n## `ckpt`, and more\n", {"one", "ckpt-and-more"}),
        ("# A\n# A\n", {"a", "a-1"}),
        ("```\n# no heading\n```\n## [Link](x.md) / last_one\n", {"link--last_one"}),
    ],
)
def test_anchors(tmp_path: Path, text: str, wanted: set[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert anchors(page) == wanted
