"""What this program tells its users to type: it can be typed as it is printed."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import oci_criu_shim
from oci_criu_shim.cli import parse
from oci_criu_shim.cli.invocation import Invocation
from oci_criu_shim.cli.option import Group, Verb
from oci_criu_shim.cli.verbs import PROGRAM
from oci_criu_shim.errors import USAGE, ShimError

SOURCES = Path(oci_criu_shim.__file__).parent
COMMAND = re.compile(r"`([^`]*\boci-criu-shim [^`]*)`")
NAMES = "|".join(PROGRAM.table())
# A command that stands alone, as one does that a terminal would wrap: between backticks it can be told from the text.
BARE = re.compile(rf"\boci-criu-shim (?:--\S+ )*(?:{NAMES}|--)\b")
# What may stand for parts of commands; for any other part, 12.
SAMPLES = {
    "example": "--step=0 --task=0",
    "name": "job",
    "name.removesuffix(words[0])": "ckpt ",
    "shlex.join(words)": "status 12",
    "words": "job status 12",
}


def texts() -> Iterator[tuple[str, str]]:
    """Every text in the sources but docstrings, with something in place of what is put in: (where, text)."""
    for path in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(path.read_text())
        left_out: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                left_out.add(id(node.value))
            if isinstance(node, ast.JoinedStr):
                left_out.update(id(inner) for inner in ast.walk(node) if inner is not node)
        for node in ast.walk(tree):
            if id(node) not in left_out and (text := text_of(node)):
                yield f"{path.relative_to(SOURCES)}:{getattr(node, 'lineno', 0)}", text


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(sample(part) for part in node.values)
    return ""


def sample(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    return SAMPLES.get(ast.unparse(part.value), "12")


TEXTS = dict(texts())
COMMANDS = [(where, command) for where, text in TEXTS.items() for command in COMMAND.findall(text)]


def test_there_are_some() -> None:
    assert len(COMMANDS) > 15


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=[f"{where} {command}" for where, command in COMMANDS])
def test_a_command_that_is_told(where: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is one that the command line takes: no operand is left for the reader to think of."""
    words = shlex.split(command.format(12))
    assert "…" not in command and "..." not in command
    parsed = parse._parse(words[words.index("oci-criu-shim") + 1 :])
    assert parsed == 0 or isinstance(parsed, tuple)


def test_a_command_stands_between_backticks() -> None:
    """From there it can be copied, and be told from the words around it."""
    bare = {where: text for where, text in TEXTS.items() if BARE.search(COMMAND.sub("", text))}
    assert not {where: text for where, text in bare.items() if not text.startswith("usage: ")}


def refused(*words: str) -> str:
    try:
        assert parse.main(words) in (1, USAGE)
    except ShimError as error:
        return error.line()
    return ""


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["logs", "94"], "`oci-criu-shim job logs 94`"),
        (["show", "8:3", "--json"], "`oci-criu-shim ckpt show 8:3 --json`"),
        (["status"], "`oci-criu-shim job status`"),
        (["ckpt", "status", "8"], "`oci-criu-shim job status 8`"),
        (["inspect", "94"], "`oci-criu-shim --help` lists them"),
        (["job", "inspect", "94"], "`oci-criu-shim job --help` lists them"),
    ],
)
def test_a_command_of_another_group(words: list[str], hint: str) -> None:
    assert refused(*words).endswith(f"(hint: {hint})")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["checkpoint", "94"], "oci-criu-shim job checkpoint 94"),
        (["checkpoint", "--leave-running", "94_3"], "oci-criu-shim job checkpoint 94_3"),
        (["exec", "-t", "94", "sh"], "oci-criu-shim job exec 94"),
        (["ps", "94"], "oci-criu-shim job exec 94 ps"),
        (["state", "94+1"], "oci-criu-shim job status 94+1"),
        (["kill", "94", "KILL"], "scancel 94"),
        (["delete", "94"], "scancel 94"),
    ],
)
def test_a_job_in_place_of_a_container(
    words: list[str], hint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert parse.main(["--root", str(tmp_path), *words]) == 1
    assert capfd.readouterr().err.endswith(f" does not exist (hint: if it is a job of Slurm's: `{hint}`)\n")


@pytest.mark.parametrize("words", [["state", "c94"], ["state", "94.0"], ["events", "94"]])
def test_what_is_no_job(words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert parse.main(["--root", str(tmp_path), *words]) == 1
    assert f"`oci-criu-shim --root {tmp_path} list`)" in capfd.readouterr().err


def test_no_list_is_shown_as_python_has_it() -> None:
    """Wherever operands are named, of all commands."""
    entries: list[tuple[str, Verb]] = []
    for name, entry in PROGRAM.table().items():
        table = entry.table() if isinstance(entry, Group) else {"": entry}
        entries += [(f"{name} {verb}".strip(), found) for verb, found in table.items() if isinstance(found, Verb)]
    for name, verb in entries:
        for operands in ([], ["a", "b c"] * 5):
            if len(operands) < verb.least or (verb.most is not None and len(operands) > verb.most):
                said = refused(*name.split(), *operands)
                assert name in said and "['" not in said and "[]" not in said


def test_what_a_call_is_made_of() -> None:
    """Root is shown the whole command, as the user types it."""
    call = Invocation("job status", {"debug": "true"}, {"json": []}, ["12"])
    assert call.words("json") == ["--json"]
