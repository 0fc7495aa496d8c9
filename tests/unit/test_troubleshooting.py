"""docs/troubleshooting.md: its headings are messages that the program has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.harness.cluster.settings import REPOSITORY
from tests.harness.pages import OTHERS, TROUBLE, matching, messages

C_TEXT = re.compile(r'(?:"(?:[^"\\]|\\.)*"\s*(?:RUN_DIR\s*|PRIu(?:32|64)\s*)?)+')
GAP = "\0"
"""Stands for what is put into a message."""


def python_texts(source: str) -> Iterator[str]:
    """Yield all string literals but docstrings, with GAP for each replacement field."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def c_texts(source: str) -> Iterator[str]:
    """Yield all string literals, adjacent ones joined, with GAP for each conversion and macro."""
    for literal in C_TEXT.findall(source):
        joined = re.sub(r'%"\s*PRIu\d+\s*"', GAP, literal)
        joined = re.sub(r'"\s*RUN_DIR\s*"|RUN_DIR\s*"', GAP, joined)
        yield re.sub(r"%[sdu]", GAP, re.sub(r'"\s*"', "", joined).strip().strip('"'))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    found = [
        text for path in (REPOSITORY / "src/oci_criu_shim").rglob("*.py") for text in python_texts(path.read_text())
    ]
    return found + [text for path in (REPOSITORY / "spank").glob("*.c") for text in c_texts(path.read_text())]


SECTIONS = re.findall(r"^## (.*)$", TROUBLE.read_text(), re.MULTILINE)
OURS = [message for section in SECTIONS if section != OTHERS for message in messages(section)]


@pytest.mark.parametrize("heading", OURS)
def test_headings_are_messages(texts: list[str], heading: str) -> None:
    found = [text for text in texts if matching(heading).search(text)]
    assert found, "no program prints this any more"


def test_all_headings_are_looked_at() -> None:
    assert len(OURS) + len(messages(OTHERS)) == TROUBLE.read_text().count("\n### ")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ('f"job {number} is not " f"requeued ({why})"', f"job {GAP} is not requeued ({GAP})"),
        ('say("a " "b")', "a b"),
    ],
)
def test_python_texts(source: str, wanted: str) -> None:
    assert wanted in list(python_texts(source))


def test_docstrings_are_no_messages() -> None:
    assert list(python_texts('def f():\n    """Say so."""\n')) == []


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ('slurm_error("x: %s of job %" PRIu32 ": %s", a);', f"x: {GAP} of job {GAP}: {GAP}"),
        ('slurm_error("one "\n\t"two", b);', "one two"),
    ],
)
def test_c_texts(source: str, wanted: str) -> None:
    assert wanted in list(c_texts(source))
