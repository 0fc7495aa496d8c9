"""The command line: what is understood, and what is refused with status 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_criu_shim import cli
from oci_criu_shim.errors import USAGE, ShimError
from oci_criu_shim.verbs import VERBS

Calls = list[cli.Invocation]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the verbs are called with, instead of their being carried out."""
    seen: Calls = []

    def note(call: cli.Invocation) -> int:
        seen.append(call)
        return 0

    for verb in VERBS.values():
        monkeypatch.setattr(verb, "call", note)
    return seen


def test_slurms_command_line(calls: Calls) -> None:
    assert cli.main(["--root=/run/x/7", "run", "--bundle", "/b", "n1.alice.7.0.0"]) == 0
    assert (calls[0].root, calls[0].container, calls[0].value("bundle")) == ("/run/x/7", "n1.alice.7.0.0", "/b")


@pytest.mark.parametrize("words", [["--force"], ["-f"], ["-force"], ["--force=true"], ["--force=1"]])
def test_flag_forms(calls: Calls, words: list[str]) -> None:
    cli.main(["delete", *words, "id"])
    assert calls[0].flag("force")


@pytest.mark.parametrize("word", ["--force=false", "--force=0"])
def test_flag_denied(calls: Calls, word: str) -> None:
    cli.main(["delete", word, "id"])
    assert not calls[0].flag("force")


@pytest.mark.parametrize("words", [["-b", "/b"], ["--bundle=/b"], ["--bundle", "/b"], ["-bundle", "/b"]])
def test_value_forms(calls: Calls, words: list[str]) -> None:
    cli.main(["run", *words, "id"])
    assert calls[0].value("bundle") == "/b"


def test_options_after_the_operand(calls: Calls) -> None:
    cli.main(["kill", "id", "-a", "KILL"])
    assert (calls[0].flag("all"), calls[0].optional) == (True, "KILL")


def test_double_dash_ends_options(calls: Calls) -> None:
    cli.main(["kill", "--", "-odd-id"])
    assert calls[0].container == "-odd-id"


def test_options_of_others_are_accepted(calls: Calls) -> None:
    words = ["--systemd-cgroup", "--rootless", "true", "--cgroup-manager=cgroupfs", "--log-format", "json"]
    assert cli.main([*words, "state", "id"]) == 0
    assert calls[0].container == "id"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fly", "id"], "unknown command 'fly'"),
        (["--nonsense", "state", "id"], "unknown option '--nonsense'"),
        (["state", "--nonsense", "id"], "unknown option '--nonsense'"),
        (["state", "--force", "id"], "unknown option '--force'"),
        (["run", "--bundle"], "option --bundle needs a value"),
        (["--log-format=xml", "state", "id"], "--log-format is text or json"),
        (["state"], "state takes ID"),
        (["state", "a", "b"], "state takes ID"),
        (["kill", "a", "TERM", "b"], r"kill takes ID \[SIGNAL\]"),
    ],
)
def test_refused(calls: Calls, words: list[str], said: str) -> None:
    with pytest.raises(ShimError, match=said) as caught:
        cli.main(words)
    assert caught.value.status == USAGE
    assert not calls


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    assert f"oci-criu-shim [GLOBAL OPTIONS] {verb}" in capsys.readouterr().out


def test_nothing_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == USAGE
    assert "usage:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("oci-criu-shim version ")


def test_error_is_logged_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    status = cli.main(["--root", str(tmp_path), "--log", str(log), "--log-format", "json", "state", "none"])
    assert status == 1
    assert capfd.readouterr().err.count("does not exist") == 1
    assert log.read_text().count('"level": "error"') == 1


def test_delete_force_of_nothing(tmp_path: Path) -> None:
    assert cli.main(["--root", str(tmp_path), "delete", "--force", "none"]) == 0
