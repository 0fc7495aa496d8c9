"""`job logs`, by its command line: a job's output, and CRIU's logs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config
from oci_criu_shim.cli import directories, parse
from oci_criu_shim.container import ownership
from oci_criu_shim.errors import ShimError
from oci_criu_shim.log import Log
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.task.history import History

Capture = pytest.CaptureFixture[str]
CRIU = "2026-11-30T00:00:00Z n1: it is damaged\n(0.1) pie: 1: done\n(0.2) Error (criu/pie.c:7): no \x1b such thing\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings = config.load(str(tmp_path / "none"))
    settings.checkpoint_dir = str(tmp_path)
    monkeypatch.setattr(config, "load", lambda: settings)
    monkeypatch.setattr(ownership, "is_root", lambda: False)
    submitted(monkeypatch, None)
    (tmp_path / "12.out").write_text("tick\noci-criu-shim: checkpointed job 12\ntock oci-criu-shim: no\n")
    return tmp_path


def submitted(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any] | None) -> None:
    if found:
        found |= {"directory": "/", "line": "sbatch job.sh"}
    monkeypatch.setattr(directories, "_submission", lambda _: found)


def ran(capfd: Capture, *words: str) -> str:
    assert parse.main(["job", "logs", *words]) == 0
    printed = capfd.readouterr()
    assert not printed.err
    return printed.out


def kept(site: Path) -> str:
    history = History(Log(), str(site), Task({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "1"}))
    history.note("started")
    return history.keep("restore-3.log", CRIU.encode())


def test_of_a_job_that_slurm_knows(site: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    output = f"{site}/12.out"
    submitted(monkeypatch, {"job": 12, "uid": os.geteuid(), "output": output, "error": "/nonexistent/12.err"})
    said = f"output: {output}\n  oci-criu-shim: checkpointed job 12\n"
    said += "output: /nonexistent/12.err (can't be read on this host)\n"
    assert ran(capfd, "12") == said
    log = kept(site)
    criu = "  2026-11-30T00:00:00Z n1: it is damaged\n  (0.2) Error (criu/pie.c:7): no ? such thing\n"
    assert ran(capfd, "12") == f"{said}CRIU's log of a checkpoint that was refused: {log}\n{criu}"
    found = json.loads(ran(capfd, "12", "--json"))
    assert found["output"][0] == {"path": output, "lines": ["oci-criu-shim: checkpointed job 12"]}
    assert (found["job"], found["output"][1]["lines"], found["logs"][0]["path"]) == (12, None, log)


def test_of_one_that_slurm_has_forgotten(site: Path, capfd: Capture) -> None:
    """Its history tells where its output is, if that is a file."""
    reader, writer = os.pipe()
    kept_error = os.dup(2)
    try:
        os.dup2(os.open(site / "12.out", os.O_WRONLY | os.O_APPEND), 2)
        kept(site)
        os.dup2(writer, 2)
        kept(site)
    finally:
        os.dup2(kept_error, 2)
    os.close(reader)
    assert ran(capfd, "12").startswith(f"output: {site}/12.out\n  oci-criu-shim: checkpointed job 12\n")


def test_of_one_that_is_not_known(site: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse.main(["job", "logs", "13"]) == 1
    assert "job 13 has no history in " in capfd.readouterr().err
    submitted(monkeypatch, {"job": 13, "uid": os.geteuid() + 1, "output": "/etc/shadow", "error": ""})
    assert parse.main(["job", "logs", "13"]) == 1
    assert "job 13 belongs to user " in capfd.readouterr().err
    with pytest.raises(ShimError, match="job logs needs JOBID"):
        parse.main(["job", "logs"])


def test_another_users(site: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in there, and wherever it leads: root may have been shown it."""
    kept(site)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert parse.main(["job", "logs", "--checkpoint-dir", str(site), "12"]) == 1
    printed = capfd.readouterr()
    assert not printed.out and "the history of job 12 belongs to user " in printed.err


@pytest.mark.parametrize("path", ["/dev/zero", "/proc", ""])
def test_what_is_no_file(site: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    submitted(monkeypatch, {"job": 12, "uid": os.geteuid(), "output": path, "error": ""})
    unreadable = f"output: {path} (can't be read on this host)\n"
    assert ran(capfd, "12") == (unreadable if path else "where its output is, is not known any more\n")
