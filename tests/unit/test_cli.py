"""The command line: what is understood, and what is refused with status 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_criu_shim.cli import invocation, parse
from oci_criu_shim.cli.invocation import Invocation
from oci_criu_shim.cli.verbs import VERBS
from oci_criu_shim.errors import USAGE, ShimError

Calls = list[Invocation]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the verbs are called with, instead of their being carried out."""
    seen: Calls = []

    def note(call: Invocation) -> int:
        seen.append(call)
        return 0

    for verb in VERBS.values():
        monkeypatch.setattr(verb, "call", note)
    return seen


def test_slurms_command_line(calls: Calls) -> None:
    assert parse.main(["--root=/run/x/7", "run", "--bundle", "/b", "n1.alice.7.0.0"]) == 0
    assert (calls[0].root, calls[0].container, calls[0].value("bundle")) == ("/run/x/7", "n1.alice.7.0.0", "/b")


@pytest.mark.parametrize("words", [["--force"], ["-f"], ["-force"], ["--force=true"], ["--force=1"]])
def test_flag_forms(calls: Calls, words: list[str]) -> None:
    parse.main(["delete", *words, "id"])
    assert calls[0].flag("force")


@pytest.mark.parametrize("words", [["-f", "json", "-q"], ["-fjson", "-q"], ["-qfjson"], ["-qf", "json"]])
def test_short_options_together(calls: Calls, words: list[str]) -> None:
    parse.main(["list", *words])
    assert (calls[0].flag("quiet"), calls[0].value("format")) == (True, "json")


@pytest.mark.parametrize("word", ["--force=false", "--force=0"])
def test_flag_denied(calls: Calls, word: str) -> None:
    parse.main(["delete", word, "id"])
    assert not calls[0].flag("force")


@pytest.mark.parametrize("words", [["-b", "/b"], ["--bundle=/b"], ["--bundle", "/b"], ["-bundle", "/b"]])
def test_value_forms(calls: Calls, words: list[str]) -> None:
    parse.main(["run", *words, "id"])
    assert calls[0].value("bundle") == "/b"


def test_options_after_the_operand(calls: Calls) -> None:
    parse.main(["kill", "id", "-a", "KILL"])
    assert (calls[0].flag("all"), calls[0].operand(1)) == (True, "KILL")


def test_double_dash_ends_options(calls: Calls) -> None:
    parse.main(["kill", "--", "-odd-id"])
    assert calls[0].container == "-odd-id"


def test_options_of_others_are_accepted(calls: Calls) -> None:
    words = ["--systemd-cgroup", "--rootless", "true", "--cgroup-manager=cgroupfs", "--log-format", "json"]
    assert parse.main([*words, "--criu=/usr/sbin/criu", "--log-level", "debug", "state", "id"]) == 0
    assert (calls[0].container, calls[0].log.verbose) == ("id", True)


@pytest.mark.parametrize("form", ["{}", "file:{}"])
def test_log(calls: Calls, tmp_path: Path, form: str) -> None:
    """crun makes the file, too."""
    parse.main(["--log", form.format(tmp_path / "log"), "state", "id"])
    assert calls[0].globals["log"] == calls[0].log.path == str(tmp_path / "log")
    assert (tmp_path / "log").read_text() == ""


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ShimError, match="cannot write the log /dev/null/log: Not a directory"):
        parse.main(["--log=/dev/null/log", "state", "id"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fly", "id"], "unknown command 'fly'"),
        (["--nonsense", "state", "id"], "unknown option '--nonsense'"),
        (["state", "--nonsense", "id"], "unknown option '--nonsense'"),
        (["state", "--force", "id"], "unknown option '--force'"),
        (["run", "--bundle"], "flag needs an argument: --bundle DIR"),
        (["run", "-db"], "flag needs an argument: -b DIR"),
        (["run", "-dz", "id"], "unknown option '-z'"),
        (["delete", "--force=maybe", "id"], "--force is true or false, not 'maybe'"),
        (["--log=syslog:id", "state", "id"], "--log is a file"),
        (["--log-level=loud", "state", "id"], "--log-level is error, warning or debug"),
        (["--log-format=xml", "state", "id"], "--log-format is text or json"),
        (["state"], "state needs ID"),
        (["state", "a", "b"], "state takes ID, not a b"),
        (["kill", "a", "TERM", "b"], r"kill takes ID \[SIGNAL\]"),
        (["list", "--format=xml"], "--format is table or json, not 'xml'"),
        (["completion", "fish"], "completion takes bash, not 'fish'"),
    ],
)
def test_refused(calls: Calls, words: list[str], said: str) -> None:
    with pytest.raises(ShimError, match=said) as caught:
        parse.main(words)
    assert caught.value.status == USAGE
    assert not calls


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.operands.startswith("ID")])
def test_hostile_ids(verb: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("../x", "", "x" * 300, "a\nb", "a b", ".", "/", "ü"):
        status = parse.main(["--root", str(tmp_path / "root"), verb, "--", name])
        said = capfd.readouterr().err
        assert (status, said.count("\n"), "invalid container id" in said) == (1, 1, True), name
    assert not list(tmp_path.iterdir())


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for words in ([verb, "--help"], [verb, "-?"], ["help", verb]):
        assert parse.main(words) == 0
        texts.append(capsys.readouterr().out)
    assert f"oci-criu-shim [GLOBAL OPTIONS] {verb}" in texts[0]
    assert len(set(texts)) == 1


@pytest.mark.parametrize("words", [["help", "ckpt"], ["ckpt", "--help"], ["ckpt", "help"]])
def test_help_of_a_group(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parse.main(words) == 0
    assert "ckpt COMMAND [OPTIONS]" in capsys.readouterr().out


def test_help_of_a_verb_of_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["help", "ckpt", "list"], ["ckpt", "help", "list"], ["ckpt", "list", "--help"]):
        assert parse.main(words) == 0
        assert "[GLOBAL OPTIONS] ckpt list" in capsys.readouterr().out


def test_nothing_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse.main([]) == USAGE
    assert "usage:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("oci-criu-shim version ")


def test_error_is_logged_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    status = parse.main(["--root", str(tmp_path), "--log", str(log), "--log-format", "json", "state", "none"])
    assert status == 1
    assert capfd.readouterr().err.count("does not exist") == 1
    assert log.read_text().count('"level": "error"') == 1


def test_a_regular_expression_that_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert parse.main(["--root", str(tmp_path), "delete", "--regex", "("]) == 1
    assert "'(' is no regular expression" in capfd.readouterr().err


def test_delete_force_of_nothing(tmp_path: Path) -> None:
    assert parse.main(["--root", str(tmp_path), "delete", "--force", "none"]) == 0


@pytest.mark.parametrize(
    ("user", "runtime", "inside", "root"),
    [
        (0, None, False, "/run/oci-criu-shim/root"),
        (0, "/run/user/0", False, "/run/oci-criu-shim/root"),
        (0, None, True, "/run/oci-criu-shim/root"),
        (0, "/run/user/7", True, "/run/user/7/oci-criu-shim"),
        (7, "/tmp/7", False, "/tmp/7/oci-criu-shim"),
        (7, None, False, "/run/user/7/oci-criu-shim"),
    ],
)
def test_default_root(monkeypatch: pytest.MonkeyPatch, user: int, runtime: str | None, inside: bool, root: str) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setattr("oci_criu_shim.host.process.in_a_user_namespace", lambda: inside)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert invocation.default_root() == root
