"""Completion of the command line: what the table says, and what bash makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oci_criu_shim.cli import completion, directories, parse
from oci_criu_shim.cli.verbs import GLOBAL, GROUPS, PROGRAM, VERBS

BASH = shutil.which("bash")
# What readline does: it splits the line, and calls the function with the program, the word and the one before.
READLINE = """
{script}
compopt() {{ :; }}
COMP_WORDS=({words}) COMP_CWORD={last}
_oci_criu_shim {program} {word} before
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def answer(*words: str) -> list[str]:
    return completion.answer(words, PROGRAM, GLOBAL).splitlines()


def test_commands() -> None:
    assert answer("") == answer("st") == answer("--debug", "--log", "run", "") == [*VERBS, *GROUPS]
    assert answer("ckpt", "") == [*GROUPS["ckpt"].table()]
    assert answer("fly", "") == answer("ckpt", "fly", "") == answer("ckpt", "fly", "-") == []


def test_options() -> None:
    assert answer("-") == [f"--{option.key}" for option in GLOBAL]
    assert answer("delete", "--fo") == answer("delete", "id", "-f", "-") == ["--force", "--regex"]
    assert "--older-than" in answer("ckpt", "prune", "--")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--log-format", ""), ["text", "json"]),
        (("--log-format", "="), ["text", "json"]),
        (("--log-format", "=", "js"), ["text", "json"]),
        (("--log", ""), ["FILE"]),
        (("--root", "=", "/r", "--log", "=", "/va"), ["FILE"]),
        (("run", "-b", ""), ["DIR"]),
        (("list", "--format", ""), ["table", "json"]),
        (("state", ""), ["ID"]),
        (("--root", "/r", "state", "x"), ["ID", "--root=/r"]),
        (("--root", "=", "/r", "state", "x"), ["ID", "--root=/r"]),
        (("state", "x", ""), []),
        (("kill", "x", ""), []),
        (("exec", "--tty", ""), ["ID"]),
        (("exec", "x", "ls", "-"), []),
        (("ckpt", "list", ""), ["DIR"]),
        (("ckpt", "rm", "1", "2", ""), ["DIR"]),
        (("ckpt", "export", "1", ""), ["FILE"]),
        (("ckpt", "import", "1", ""), ["DIR"]),
        (("completion", ""), ["bash"]),
        (("completion", "bash", ""), []),
    ],
)
def test_values_and_operands(words: tuple[str, ...], wanted: list[str]) -> None:
    assert answer(*words) == wanted


def test_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with a history, wherever it is."""
    monkeypatch.setattr(directories, "all_of", lambda _: [str(tmp_path / "a"), str(tmp_path / "b")])
    assert answer("job", "status", "") == []
    for path in ("a/history/12", "b/history/7", "b/history/x"):
        (tmp_path / path).mkdir(parents=True)
    for verb in ("status", "checkpoint", "logs", "exec"):
        assert answer("job", verb, "") == ["12", "7"]
    assert answer("job", "exec", "12", "") == answer("job", "status", "12", "") == []


def test_by_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse.main(["completion", "bash", "--root", "=", "/r", "kill", ""]) == 0
    assert capsys.readouterr().out == "ID\n--root=/r\n"
    assert parse.main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == completion.SCRIPT + "\n"


def completed(directory: Path, *words: str, ids: str = "") -> list[str]:
    """What bash has for the last of `words`, in `directory`; `ids`: a program that has none but these to list."""
    program = directory / "program"
    listing = f"for word; do [ \"$word\" != list ] || {{ printf '%s\\n' '{ids}'; exit; }}; done\n" if ids else ""
    program.write_text(f'#!/bin/sh\n{listing}exec {sys.executable} -m oci_criu_shim "$@"\n')
    program.chmod(0o755)
    line = ["oci-criu-shim", *words]
    quoted = " ".join(f"'{word}'" for word in line)
    word = words[-1].removeprefix("=") or "''"
    text = READLINE.format(script=completion.SCRIPT, words=quoted, last=len(words), program=program, word=word)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [BASH or "bash", "-c", text], cwd=directory, env=environment, check=True, capture_output=True, text=True
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not BASH, reason="no bash")
def test_in_bash(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "image.tar").touch()
    for name in ("one", "other"):
        (tmp_path / f"root/{name}").mkdir(parents=True)
        (tmp_path / f"root/{name}/state.json").write_text("{}")
    assert completed(tmp_path, "st") == ["start", "state"]
    assert completed(tmp_path, "ckpt", "") == [*GROUPS["ckpt"].table()]
    assert completed(tmp_path, "--log-format", "=") == ["text", "json"]
    assert completed(tmp_path, "--log-format", "=", "j") == ["json"]
    assert completed(tmp_path, "restore", "--image-path", "im") == ["images"]
    assert sorted(completed(tmp_path, "ckpt", "export", "1", "im")) == ["image.tar", "images"]
    assert completed(tmp_path, "--root", "=", f"{tmp_path}/root", "kill", "o") == ["one", "other"]


@pytest.mark.skipif(not BASH, reason="no bash")
def test_bash_expands_no_id(tmp_path: Path) -> None:
    """Root may complete ids of a directory that is a user's, who then decides what they are."""
    ids = "one\n$(touch led)\n`touch led`\n${PWD}\n*\ntwo;id\n-x"
    assert completed(tmp_path, "kill", "", ids=ids) == ["one", "-x"]
    assert not (tmp_path / "led").exists()
