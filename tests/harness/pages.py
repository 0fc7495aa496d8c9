"""The code blocks of the documentation, for tests that do what it says."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from tests.harness.cluster.settings import REPOSITORY

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
TROUBLE = DOCS / "troubleshooting.md"
PACE = "/shared/oci-criu-shim-pace"
"""The directory of docs/pacing.md."""
OTHERS = "Lines that are Slurm's or crun's"
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
BLOCK = re.compile(r"(?:^ {4}.*\n+)+", re.MULTILINE)


def section(page: Path, heading: str) -> str:
    """Return what is below a heading, up to the next one of any level. Raise KeyError if there is no such heading."""
    parts = HEADING.split(page.read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))[heading]


def blocks(page: Path, heading: str) -> list[str]:
    """Return the code blocks below a heading, each without its indentation."""
    return [textwrap.dedent(block).strip() + "\n" for block in BLOCK.findall(section(page, heading))]


def block(page: Path, heading: str, word: str) -> str:
    """Return the only block below a heading that has this word in it. Raise ValueError if it is not the only one."""
    [found] = [text for text in blocks(page, heading) if word in text]
    return found


def messages(heading: str) -> list[str]:
    """Return the messages that docs/troubleshooting.md explains below a heading of the second level."""
    parts = re.split(r"^## (.*)$", TROUBLE.read_text(), flags=re.MULTILINE)
    return re.findall(r"^### `(.*)`$", dict(zip(parts[1::2], parts[2::2], strict=True))[heading], re.MULTILINE)


def matching(message: str) -> re.Pattern[str]:
    """Return what finds a message, in which `…` is at least one character."""
    return re.compile(".+".join(map(re.escape, message.strip("… ").split("…"))), re.DOTALL)
