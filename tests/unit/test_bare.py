"""Tasks without a container: which are taken over, and how they are described."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config, schema
from oci_criu_shim.bundles import task as entry
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container import bare, batch_script, io_uring
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import mounts, process
from oci_criu_shim.restore import bare as checked
from oci_criu_shim.slurm import tasks
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.task import own_steps
from tests.unit.test_schema import full_manifest

ENVIRONMENT = {"SLURM_JOB_ID": "12", "SLURM_CHECKPOINT": "preempt", "SLURMD_NODENAME": "n1", "PATH": "/usr/bin:/bin"}


def task_of(**more: str) -> Task:
    found = tasks.of({**ENVIRONMENT, **more})
    assert found
    return found


def described(**more: Any) -> Bundle:
    given: dict[str, Any] = {"words": ["/bin/true"], "environment": ENVIRONMENT, "cwd": "/", "places": ["/tmp"], **more}
    return Bundle("/made", bare.document(**given))


def test_a_bundle() -> None:
    """One that any reader of bundles takes, and that says what it stands for."""
    bundle = described(is_script=True)
    assert schema.faults(bundle.config, "config") == []
    assert (bundle.is_bare, bundle.own_places, bundle.rootfs) == (True, ["/tmp"], "/")
    assert bundle.source("/home") == "/home"
    assert batch_script.point(bundle) == "/bin/true"
    assert batch_script.point(described()) == ""
    assert described(places=[]).own_places == []
    assert not Bundle("/other", {"root": {"path": "/"}}).is_bare
    # An image may bring any annotations, and must not get out of its container by them.
    assert not Bundle("/other", {**bundle.config, "root": {"path": "rootfs"}}).is_bare


@pytest.mark.parametrize(
    ("words", "cwd", "kept"),
    [
        ([], "/", []),
        (["/tmp/there"], "/", ["/tmp"]),
        (["/tmp/missing", "/tmp", "x/tmp/there"], "/", []),
        ([], "/var/tmp/there", ["/var/tmp"]),
        (["/tmp/there", "/dev/shm/there"], "/", ["/dev/shm", "/tmp"]),
    ],
)
def test_places(monkeypatch: pytest.MonkeyPatch, words: list[str], cwd: str, kept: list[str]) -> None:
    """What the task needs there is no longer seen if the place is its own."""
    monkeypatch.setattr(os.path, "lexists", lambda path: path.endswith("/there"))
    monkeypatch.setattr(os.path, "isdir", lambda path: True)
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    monkeypatch.setattr(mounts, "read", list)
    found, said = bare.places(words, {}, cwd, 12)
    assert set(found) == set(bare.PLACES) - set(kept)
    assert [line.partition(" stays")[0] for line in said] == kept
    assert "/tmp" not in bare.places([], {"KRB5CCNAME": "FILE:/tmp/there"}, "/", 12)[0]
    assert "/tmp" in bare.places([], {"TMPDIR": "/tmp/there", "OLDPWD": "/tmp/there"}, "/", 12)[0]
    for script, kept_by in (
        ("cp in /var/tmp/x", {"/tmp", "/var/tmp"}),
        ("cd $TMPDIR", {"/tmp"}),
        ("x=$(mktemp)", {"/tmp"}),
        ("ls", set()),
    ):
        assert set(bare.places([], {}, "/", 12, script)[0]) == set(bare.PLACES) - kept_by


def test_places_of_slurms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """job_container/tmpfs has made them for this job."""
    line = "30 20 0:40 /base/{0}/.{0}/_tmp /tmp rw - ext4 /dev/sda rw"
    for job, is_own in (("12", False), ("13", True)):
        monkeypatch.setattr(mounts, "read", lambda job=job: mounts.parse(line.format(job)))
        assert ("/tmp" in bare.places([], {}, "/", 12)[0]) == is_own


def test_an_init(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find", lambda name: f"/x/{name}" if name == "catatonit" else None)
    assert bare.init() == ["/x/catatonit", "--"]
    monkeypatch.setattr(process, "find", lambda name: None)
    with pytest.raises(Misfit, match="no init"):
        bare.init()


def test_the_filter() -> None:
    """It refuses one system call, of both forms that x86-64 has."""
    assert io_uring.filter_program(described().config) == b""
    program = io_uring.filter_program(io_uring.hidden(described().config))
    rows = [struct.unpack_from("=HBBI", program, offset) for offset in range(0, len(program), 8)]
    assert [row[0] for row in rows] == [0x20, 0x54, 0x15, 0x06, 0x06]
    for number, refused in ((425, True), (425 | 1 << 30, True), (424, False), (1, False)):
        step = rows[2][1] if number & rows[1][3] == rows[2][3] else rows[2][2]
        assert (rows[3 + step][3] == 0x50026) == refused


def test_a_directory_for_temporary_files(tmp_path: Path) -> None:
    """It is made in a place that is the task's own, where there is nothing yet."""
    path = tmp_path / "own/deep"
    bare.make_directories(described(environment={"TMPDIR": str(path)}, places=["/elsewhere"]))
    assert not path.exists()
    bare.make_directories(described(environment={"TMPDIR": str(path)}, places=[str(tmp_path)]))
    assert path.is_dir()


def test_finding_a_program(tmp_path: Path) -> None:
    """As slurmstepd does."""
    (tmp_path / "program").touch(0o755)
    (tmp_path / "text").touch(0o644)
    path = {"PATH": f"/nowhere:{tmp_path}"}
    for name, found in (
        ("/bin/x", "/bin/x"),
        ("./x", f"{os.getcwd()}/./x"),
        ("program", f"{tmp_path}/program"),
        ("text", "text"),
        ("/tmp/", "/tmp/slurm_bcast_12.0_n1"),
    ):
        assert entry.find(name, path, task_of(SLURM_STEP_ID="0")) == found


@pytest.mark.parametrize(
    ("script", "stays", "said"),
    [
        ("#!/bin/sh\n./program\n", False, ""),
        ("#!/bin/sh\n# srun here\necho srunner resrun\n", False, ""),
        ("#!/bin/sh\n/usr/bin/srun ./program\n", True, ""),
        ("x=$(srun hostname)\n", True, ""),
        ("podman run image\n", True, "has `podman`, which makes containers"),
        ("podman --runtime /usr/bin/scrun run image\n", True, ""),
    ],
)
def test_scripts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    script: str,
    stays: bool,
    said: str,
) -> None:
    """One that starts steps or containers is left as it is."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    path = tmp_path / "script"
    path.write_text(script)
    path.chmod(0o755)
    assert entry.stays_as_it_is(task_of(), str(path)) == stays
    assert said in capfd.readouterr().err if said else not capfd.readouterr().err
    assert not entry.stays_as_it_is(task_of(SLURM_STEP_ID="0"), str(path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert entry.stays_as_it_is(task_of(SLURM_STEP_ID="0"), str(path))


def test_what_gives_no_rights(tmp_path: Path) -> None:
    path = tmp_path / "ping"
    path.write_text("sudo make; /usr/bin/ping host; sum\n")
    path.chmod(0o755)
    assert entry.without_rights(task_of(), str(path)) == {"sudo", "ping"}
    assert entry.without_rights(task_of(SLURM_STEP_ID="0"), str(path)) == set()
    path.chmod(0o4755)
    assert entry.without_rights(task_of(SLURM_STEP_ID="0"), str(path)) == {"ping"}


@pytest.mark.parametrize(
    ("value", "allowed"),
    [("all", True), ("none", False), ("alice", True), ("bob, carol", False), ("@staff", True), ("bob @other", False)],
)
def test_whom_a_site_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, allowed: bool) -> None:
    import grp

    groups = [grp.struct_group((name, "", number, [])) for name, number in (("staff", 50), ("other", 60))]
    monkeypatch.setattr(grp, "getgrall", lambda: groups)
    monkeypatch.setattr(os, "getgroups", lambda: [50])
    monkeypatch.setattr(process, "user_name", lambda _: "alice")
    (tmp_path / "config.toml").write_text(f'bare-jobs = "{value}"\n')
    assert entry.allows(config.load(str(tmp_path / "config.toml"))) == allowed


@pytest.mark.parametrize("value", ["", "all, alice", "@", "none none"])
def test_bad_names(tmp_path: Path, value: str) -> None:
    (tmp_path / "config.toml").write_text(f'bare-jobs = "{value}"\n')
    with pytest.raises(ShimError, match="bare-jobs is all, none, or names"):
        config.load(str(tmp_path / "config.toml"))


def test_what_is_no_task(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "own_environment", dict)
    assert entry.main([]) == 1
    assert "for Slurm's tasks alone" in capfd.readouterr().err


def test_another_kind_of_checkpoint() -> None:
    checked.check(True, full_manifest(own_places=[]))
    plain = full_manifest()
    plain.pop("own_places", None)
    checked.check(False, plain)
    with pytest.raises(ShimError, match="of a task with a container, and this task is not"):
        checked.check(True, plain)
    with pytest.raises(ShimError, match="of a task without a container"):
        checked.check(False, full_manifest(own_places=["/tmp"]))


def test_what_criu_is_told_of() -> None:
    """All mounts but two, those that cover others once."""
    lines = ("1 0 8:1 / / rw - ext4 a rw", "2 1 0:2 / /proc rw - proc p rw", "3 1 0:3 / /tmp rw - tmpfs t rw")
    again = ("4 1 0:4 / /tmp rw - tmpfs t rw", "5 2 0:5 / /proc rw - proc p rw", "6 2 0:6 / /proc/x rw - autofs x rw")
    found = mounts.of_bare_task(mounts.parse("\n".join((*lines, *again))))
    assert [(row["key"], row["kind"]) for row in found] == [("/tmp", "bind"), ("/proc/x", "bind")]


def test_a_script_moves(tmp_path: Path) -> None:
    """To the job's own, if that is the same; else to a copy."""
    (tmp_path / "startup").write_text("script")
    (tmp_path / "spec.dump").write_text('{"annotations": {"oci-criu-shim.script": "/spool/12"}}')
    own, made = tmp_path / "own", tmp_path / "made"
    made.mkdir()
    found = Checkpoint(str(tmp_path), full_manifest(files={"startup": 6}))
    for text, place in (("script", own), ("another", made / "startup"), ("another", made / "startup")):
        own.write_text(text)
        bundle = described(words=[str(own)], is_script=True)
        assert batch_script.move(found, bundle, str(made)) == ("/spool/12", str(place))
        assert batch_script.point(bundle) == str(place)
    assert (made / "startup").read_text() == "script"
    assert batch_script.move(Checkpoint(str(tmp_path), full_manifest(files={})), described(), "") == ("", "")


def test_steps(tmp_path: Path) -> None:
    """A script that has started one leaves checkpoints to it."""
    container = Container(str(tmp_path / "root"), "one")
    container.reserve()
    store = Store(str(tmp_path / "ckpt"), "12/batch.0")
    os.makedirs(store.path)
    for bundle, is_one in ((described(), True), (Bundle("/b", {"root": {"path": "rootfs"}}), False)):
        container.save({"bundle": bundle.path, "config": bundle.config})
        assert not own_steps.are_there(container, task_of(), store)
        (tmp_path / "ckpt/12/0.0").mkdir()
        assert own_steps.are_there(container, task_of(), store) == is_one
        assert not own_steps.are_there(container, task_of(SLURM_STEP_ID="0"), store)
        (tmp_path / "ckpt/12/0.0").rmdir()
