"""What users are told of errors: words, and no Python."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_criu_shim.errors import ShimError, cause_of, line_of
from oci_criu_shim.slurm import tasks

SOURCE = Path(__file__).parents[2] / "src"
OF_THE_SYSTEM = {"OSError", "FileNotFoundError", "PermissionError", "BlockingIOError"}


def test_a_cause() -> None:
    missing = FileNotFoundError(2, "No such file or directory", "/x")
    assert (cause_of(missing), line_of(missing)) == ("No such file or directory", "/x: No such file or directory")
    assert cause_of(OSError("torn")) == "torn"
    assert cause_of(ValueError("3 is odd")) == "3 is odd"
    assert cause_of(ShimError("it is full", "make room")) == "it is full"


def test_a_variable_that_is_no_number() -> None:
    with pytest.raises(ShimError, match=r"^the environment names no Slurm task: SLURM_PROCID is a number, not 'x'$"):
        tasks.of({"SLURM_JOB_ID": "12", "SLURM_PROCID": "x"})


def caught(tree: ast.AST) -> Iterator[ast.ExceptHandler]:
    """Yield what is done about errors of the system."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name and node.type:
            names = {inner.id for inner in ast.walk(node.type) if isinstance(inner, ast.Name)}
            if names & OF_THE_SYSTEM:
                yield node


def as_python_has_it(handler: ast.ExceptHandler) -> Iterator[int]:
    """Yield the lines in which the error's own text is used, as `[Errno 2] …: '/x'`, other than for --debug."""
    debug = [node for node in ast.walk(handler) if isinstance(node, ast.Call) and _name(node.func) == "debug"]
    hidden = {id(inner) for node in debug for inner in ast.walk(node)}
    for node in ast.walk(handler):
        formatted = isinstance(node, ast.FormattedValue) and _name(node.value) == handler.name
        text = isinstance(node, ast.Call) and _name(node.func) == "str" and _name(node.args[0]) == handler.name
        if (formatted or text) and id(node) not in hidden:
            yield node.lineno  # type: ignore[attr-defined]


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_error_of_the_system_is_told_as_python_has_it(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert [line for handler in caught(tree) for line in as_python_has_it(handler)] == []
