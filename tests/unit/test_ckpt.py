"""`oci-criu-shim ckpt`, by its command line, over a directory with a few checkpoints."""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config, files
from oci_criu_shim.checkpoints import committed, owner
from oci_criu_shim.checkpoints.quota import CUT
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.cli import parse, report
from oci_criu_shim.cli.ckpt import change, images, look, place
from oci_criu_shim.container import ownership
from oci_criu_shim.errors import ShimError
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.task import pointers
from tests.unit.test_schema import full_manifest
from tests.unit.test_slurm import seen

Capture = pytest.CaptureFixture[str]
NOW = "--older-than=0s"  # what has ended goes at once
NAME = pwd.getpwuid(os.geteuid()).pw_name


def made(directory: Path, key: str, env: tuple[str, ...] = (), created: str = "", **fields: object) -> str:
    """A checkpoint, whose manifest has `fields`; its path."""
    task = Store(str(directory), key)
    task.prepare()
    with task.stage() as stage:
        Path(stage.images, "core-1.img").write_text("core")
        stage.describe({"process": {"env": env}, "root": {"path": "/rootfs"}}, {"name": "c"}, [])
        manifest = full_manifest(files=stage.sizes(), created=created or files.timestamp(), **fields)
        return stage.commit(manifest).path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two checkpoints of job 7 in the site's directory, one of job 12; Slurm knows job 12 and others."""
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    settings = config.load(str(tmp_path / "none"))
    settings.checkpoint_dir = str(directory)
    monkeypatch.setattr(config, "load", lambda: settings)
    monkeypatch.setattr(controller, "known_jobs", lambda: {12, 13})
    monkeypatch.setattr(images, "describe", lambda path: DESCRIBED[path.split("/")[-2]])
    for key in ("7/batch.0", "7/batch.0", "12/3.1"):
        made(directory, key)
    Path(directory, "7/batch.0/started").touch()
    return directory


def process(pid: int, command: str, memory: int, ppid: int = 0) -> dict[str, Any]:
    return {"pid": pid, "ppid": ppid, "threads": 1, "memory": memory, "command": command}


def file(fd: int, name: str, kind: str = "REG") -> dict[str, Any]:
    return {"pid": 1, "fd": fd, "kind": kind, "name": name}


MOUNT = {"mountpoint": "/", "source": "overlay", "root": "/"}
DESCRIBED = {
    "1": {
        "memory": 3072,
        "processes": [process(1, "sh", 1024), process(2, "old", 2048)],
        "files": [file(0, "/in"), file(1, "/a"), file(2, "pipe:[1]", "PIPE")],
        "sockets": [],
        "mounts": [MOUNT],
    },
    "2": {
        "memory": 4096,
        "processes": [process(1, "sh", 3072), process(2, "new", 1024)],
        "files": [file(0, "/in"), file(1, "/b"), file(2, "pipe:[2]", "PIPE")],
        "sockets": [{"pid": 1, "fd": 4, "kind": "INETSK", "name": "tcp 127.0.0.1:80 listening"}],
        "mounts": [],
    },
}


def ran(capfd: Capture, *words: object, status: int = 0) -> str:
    """What `ckpt …` prints."""
    assert parse.main(["ckpt", *map(str, words)]) == status
    printed = capfd.readouterr()
    assert status or not printed.err
    return printed.out


def refused(capfd: Capture, *words: object) -> str:
    """The one line that it refuses a command line with."""
    try:
        assert parse.main(["ckpt", *map(str, words)]) != 0
    except ShimError as error:
        return error.line()
    printed = capfd.readouterr()
    assert not printed.out and printed.err.count("\n") == 1
    return printed.err


def test_help(capfd: Capture) -> None:
    assert "export " in ran(capfd, "--help") and "prune " in ran(capfd, "help")
    assert "usage: oci-criu-shim [GLOBAL OPTIONS] ckpt COMMAND" in ran(capfd, status=2)
    assert "--older-than TIME" in ran(capfd, "prune", "--help")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fly"], "unknown command 'ckpt fly' (hint: `oci-criu-shim ckpt --help` lists them)"),
        (["show"], "ckpt show needs JOBID[:SEQ]|PATH (hint: usage: "),
        (["rm"], "ckpt rm needs JOBID[:SEQ]|PATH... (hint: usage: "),
        (["diff", "a"], "ckpt diff needs JOBID[:SEQ]|PATH JOBID[:SEQ]|PATH, not a (hint: "),
        (["list", "a", "b c"], "ckpt list takes [JOBID[:SEQ]|DIR], not a 'b c' (hint: "),
        (["list", "--yaml"], "unknown option '--yaml'"),
        (["list", "/nonexistent"], "/nonexistent is not a directory"),
        (["show", "nothing"], "nothing is no checkpoint"),
        (["show", "8"], "job 8 has no history in "),
        (["show", "7:3"], "there is no checkpoint 3 in "),
        (["verify", "7/batch.1"], "there is no checkpoint in "),
        (["list", "7:3"], "there is no checkpoint 3 in "),
        (["prune", "7:1"], "7:1 is not a directory"),
        (["prune", "--keep", "0"], "--keep is a number, at least 1, not '0'"),
        (["prune", "--keep=few"], "--keep is a number, at least 1, not 'few'"),
        (["prune", "--older-than=7x"], "--older-than is a time such as 12h or 7d, not '7x'"),
        (["export", "7/batch.0/2", "file.zip"], "file.zip is not named as an archive"),
        (["import", "none.tar", "new"], "none.tar: No such file or directory"),
    ],
)
def test_bad_input(home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    monkeypatch.chdir(home.parent)
    before = set(home.parent.rglob("*"))
    assert said in refused(capfd, *words)
    assert set(home.parent.rglob("*")) == before


def test_list(home: Path, capfd: Capture) -> None:
    lines = ran(capfd, "list").splitlines()
    assert lines[0].split() == " ".join(look.COLUMNS).split()
    assert [line.split()[:4] for line in lines[1:]] == [
        ["7", "batch", "0", "1"],
        ["7", "batch", "0", "2"],
        ["12", "3", "1", "1"],
    ]
    assert lines[3].endswith(f"n1    3 B   87 B     preempt  {home}/12/3.1/1")


def test_list_json(home: Path, capfd: Capture) -> None:
    os.unlink(home / "7/batch.0/1/manifest.json")
    damaged, whole = json.loads(ran(capfd, "list", home / "7", "--json"))
    assert damaged["damaged"] == f"{home}/7/batch.0/1/manifest.json cannot be read: No such file or directory"
    assert whole.pop("created") and whole.pop("age") < 1000
    assert whole == {
        **{"job": 7, "step": "batch", "task": 0, "seq": 2, "path": f"{home}/7/batch.0/2", "damaged": None},
        "owner": NAME,
        **{"node": "n1", "bytes": 3, "written": 87, "increment_of": None, "reason": "preempt"},
    }


def test_list_of_damaged_ones(home: Path, capfd: Capture) -> None:
    os.truncate(home / "12/3.1/1/checkpoint/core-1.img", 1)
    assert ran(capfd, "list", home / "12").splitlines()[1].split()[:10] == ["12", "3", "1", "1", *"-----", "damaged"]


def test_list_of_none(tmp_path: Path, capfd: Capture) -> None:
    assert ran(capfd, "list", tmp_path) == f"no checkpoints in {tmp_path}\n"
    assert json.loads(ran(capfd, "list", tmp_path, "--json")) == []


@pytest.mark.parametrize(("is_root", "way"), [(True, f"runuser --pty -u {NAME} -- oci-criu-shim"), (False, "")])
def test_others_are_not_damaged(
    home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch, is_root: bool, way: str
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    monkeypatch.setattr(ownership, "is_root", lambda: is_root)

    def hint(words: str) -> str:
        return f"{way} {words}`)\n" if way else f"(hint: {committed.OWNERS})\n"

    assert parse.main(["ckpt", "list", str(home)]) == 0
    printed = capfd.readouterr()
    assert [line.split()[9] for line in printed.out.splitlines()[1:]] == [f"{NAME}'s"] * 3
    assert f"checkpoints of {NAME} in {home} can't be read" in printed.err
    assert printed.err.endswith(hint(f"ckpt list {home}"))
    assert parse.main(["ckpt", "list", "--json", str(home)]) == 0
    assert [(row["owner"], row["damaged"]) for row in json.loads(capfd.readouterr().out)] == [(NAME, None)] * 3
    path = f"{home}/7/batch.0/1"
    assert parse.main(["ckpt", "verify", path]) == 1
    printed = capfd.readouterr()
    assert printed.out == f"{path}: not verified\n"
    for verb in ("verify", "show", "export"):
        words = [verb, path, *([f"{home}/file.tar"] if verb == "export" else [])]
        assert parse.main(["ckpt", *words]) == 1
        assert capfd.readouterr().err.endswith(hint(f"ckpt {' '.join(words)}"))


def test_list_of_what_may_not_be_looked_into(home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another user sees a directory of /shared."""
    look_into = os.listdir

    def listdir(path: str) -> list[str]:
        if path == f"{home}/7":
            raise PermissionError(path)
        return look_into(path)

    monkeypatch.setattr(os, "listdir", listdir)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    files.remove_tree(str(home / "12"))
    assert parse.main(["ckpt", "list", str(home)]) == 0
    printed = capfd.readouterr()
    assert not printed.out and f"checkpoints of {NAME} in {home} can't be read" in printed.err


def test_whose_it_is_elsewhere(tmp_path: Path) -> None:
    path = made(tmp_path, "mine", ("SLURM_JOB_ID=9", "SLURM_STEP_ID=2", "SLURM_PROCID=5"))
    assert place.label(path).fields() == {"job": 9, "step": "2", "task": 5}
    assert place.label(made(tmp_path, "others")).fields() == {"job": None, "step": None, "task": None}
    assert place.label("/nonexistent").job == 0
    (tmp_path / "waits").mkdir()
    os.mkfifo(tmp_path / "waits/spec.dump")
    assert place.label(str(tmp_path / "waits")).job == 0


def test_show(home: Path, capfd: Capture) -> None:
    text = ran(capfd, "show", "7/batch.0/2")
    assert "7, step batch, task 0" in text and "processes: 2\n" in text and "mounts: 0\n" in text
    assert "  1    0     1        3.0 KiB  sh\n" in text
    assert "  1    4   INETSK  tcp 127.0.0.1:80 listening\n" in text


def test_show_has_a_tree(home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = {1: 0, 5: 1, 9: 5, 7: 1, 20: 0}
    rows = [process(pid, f"p{pid}", 0, ppid) for pid, ppid in parents.items()]
    monkeypatch.setitem(DESCRIBED, "2", DESCRIBED["2"] | {"processes": rows})
    lines = ran(capfd, "show", "7/batch.0/2").partition("COMMAND\n")[2].splitlines()
    branches = [line.partition("0 B     ")[2] for line in lines[: len(rows)]]
    assert branches == ["p1", " \\_ p5", "     \\_ p9", " \\_ p7", "p20"]


def test_show_json(home: Path, capfd: Capture) -> None:
    found = json.loads(ran(capfd, "show", home / "7/batch.0/2", "--json"))
    assert {key: found[key] for key in DESCRIBED["2"]} == DESCRIBED["2"]
    assert (found["job"], found["criu"], found["path"]) == (7, "4.2.1", f"{home}/7/batch.0/2")


def test_damaged_images_are_not_shown(home: Path, capfd: Capture) -> None:
    Path(home, "7/batch.0/2/checkpoint/core-1.img").write_text("cope")
    assert "7/batch.0/2/checkpoint/core-1.img is damaged" in refused(capfd, "show", "7/batch.0/2")


def test_verify(home: Path, capfd: Capture) -> None:
    assert ran(capfd, "verify").splitlines() == [
        f"{home}/7/batch.0/1: ok",
        f"{home}/7/batch.0/2: ok",
        f"{home}/12/3.1/1: ok",
    ]


def test_verify_of_none(home: Path, capfd: Capture) -> None:
    for name in ("7", "12"):
        files.remove_tree(str(home / name))
    assert ran(capfd, "verify") == f"no checkpoints in {home}\n"


def test_verify_of_a_directory(home: Path, capfd: Capture) -> None:
    assert ran(capfd, "verify", home / "7").splitlines() == [f"{home}/7/batch.0/{seq}: ok" for seq in (1, 2)]


def test_verify_json(home: Path, capfd: Capture) -> None:
    Path(home, "7/batch.0/2/checkpoint/core-1.img").write_text("cope")
    assert parse.main(["ckpt", "verify", "--json", str(home / "7")]) == 1
    printed = capfd.readouterr()
    assert json.loads(printed.out) == [
        {"path": f"{home}/7/batch.0/1", "verified": True, "damaged": None},
        {"path": f"{home}/7/batch.0/2", "verified": False, "damaged": f"{home}/7/batch.0/2/checkpoint/core-1.img "
                                                                      "is damaged: its checksum is not what it was"},
    ]  # fmt: skip
    assert "core-1.img is damaged" in printed.err


def test_verify_without_checksums(home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oci_criu_shim.checkpoints.integrity.LARGE", 1)
    path = made(home, "8/0.0")
    os.unlink(f"{path}/checksums.json")
    assert ran(capfd, "verify", path) == f"{path}: not verified: it has no checksums of its memory\n"


def test_verify_without_xxhash(home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("oci_criu_shim.checkpoints.integrity.LARGE", 1)
    path = made(home, "8/0.0")
    why = "the checksums of its memory need python3-xxhash, which is missing here"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "xxhash", None)
        assert ran(capfd, "verify", path) == f"{path}: not verified: {why}\n"
        ran(capfd, "export", path, exported := tmp_path / "file.tar")
        imported = ran(capfd, "import", exported, tmp_path / "new").strip()
        assert ran(capfd, "verify", imported) == f"{imported}: not verified: {why}\n"
    assert ran(capfd, "verify", imported) == f"{imported}: ok\n"


def test_verify_finds_damage(home: Path, capfd: Capture) -> None:
    Path(home, "7/batch.0/1/checkpoint/core-1.img").write_text("cope")
    assert parse.main(["ckpt", "verify", "7/batch.0/1", "12/3.1/1"]) == 1
    printed = capfd.readouterr()
    assert printed.out == f"{home}/7/batch.0/1: damaged\n{home}/12/3.1/1: ok\n"
    said = f"{home}/7/batch.0/1/checkpoint/core-1.img is damaged: its checksum is not what it was"
    assert f"{said} (hint: `oci-criu-shim ckpt list` shows older ones)\n" in printed.err


def test_diff(home: Path, capfd: Capture) -> None:
    assert ran(capfd, "diff", "7/batch.0/1", "7/batch.0/2").splitlines() == [
        "bytes: 3 B to 3 B",
        "memory: 3.0 KiB to 4.0 KiB",
        "~ process 1 sh: 1.0 KiB to 3.0 KiB",
        "- process 2 old, 2.0 KiB",
        "+ process 2 new, 1.0 KiB",
        "- process 1 descriptor 1: REG /a",
        "+ process 1 descriptor 1: REG /b",
        "+ process 1 descriptor 4: INETSK tcp 127.0.0.1:80 listening",
        "- mount / of overlay /",
    ]


def test_diff_leaves_no_blanks(home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe has no name that lasts."""
    monkeypatch.setitem(DESCRIBED, "2", DESCRIBED["2"] | {"files": []})
    lines = ran(capfd, "diff", "7/batch.0/1", "7/batch.0/2").splitlines()
    assert "- process 1 descriptor 2: PIPE" in lines
    assert lines == [line.rstrip() for line in lines]


def test_diff_json(home: Path, capfd: Capture) -> None:
    same = json.loads(ran(capfd, "diff", "7/batch.0/2", "7/batch.0/2", "--json"))
    assert same["processes"] == {"gone": [], "new": [], "changed": []}
    assert same["memory"] == [4096, 4096]


def test_export_and_import(home: Path, capfd: Capture, tmp_path: Path) -> None:
    assert ran(capfd, "export", "7/batch.0/2", tmp_path / "file.tar") == f"{tmp_path}/file.tar\n"
    assert ran(capfd, "import", tmp_path / "file.tar", tmp_path / "new") == f"{tmp_path}/new/1\n"
    assert ran(capfd, "import", tmp_path / "file.tar", home / "7/batch.0") == f"{home}/7/batch.0/3\n"
    said = json.loads(ran(capfd, "export", "7/batch.0/2", tmp_path / "again.tar", "--json"))
    assert said == {
        **{"checkpoint": f"{home}/7/batch.0/2", "archive": f"{tmp_path}/again.tar"},
        "bytes": (tmp_path / "again.tar").stat().st_size,
    }
    said = json.loads(ran(capfd, "import", "--json", tmp_path / "again.tar", tmp_path / "new"))
    assert said == {"archive": f"{tmp_path}/again.tar", "checkpoint": f"{tmp_path}/new/2", "bytes": 3}
    assert committed.read(f"{tmp_path}/new/1").manifest == committed.read(f"{home}/7/batch.0/2").manifest


def test_what_is_damaged_is_not_exported(home: Path, capfd: Capture, tmp_path: Path) -> None:
    Path(home, "7/batch.0/2/checkpoint/core-1.img").write_text("cope")
    assert "core-1.img is damaged" in refused(capfd, "export", "7/batch.0/2", tmp_path / "file.tar")
    assert not (tmp_path / "file.tar").exists()


def test_rm(home: Path, capfd: Capture) -> None:
    assert not ran(capfd, "rm", "7/batch.0/1")
    assert sorted(os.listdir(home / "7/batch.0")) == ["2", "started"]
    assert json.loads(ran(capfd, "rm", "--json", "7/batch.0/2")) == {"removed": [f"{home}/7/batch.0/2"]}


def test_rm_of_a_job_that_may_need_it(home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Slurm still knows job 12" in refused(capfd, "rm", "7/batch.0/1", "12/3.1/1")
    monkeypatch.setattr(controller, "known_jobs", unreachable)
    assert "cannot tell which jobs have ended: no squeue" in refused(capfd, "rm", "7/batch.0/1")
    assert len(place.find(str(home))) == 3
    assert not ran(capfd, "rm", "--force", "7/batch.0/1", "12/3.1/1")
    assert place.find(str(home)) == [f"{home}/7/batch.0/2"]


def unreachable() -> set[int]:
    raise ShimError("no squeue")


def test_rm_of_others(home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert f"belongs to user {NAME}" in refused(capfd, "rm", "7/batch.0/1")
    assert len(place.find(str(home))) == 3


@pytest.mark.parametrize("words", [("rm", "--force", "7/batch.0/1"), ("prune",), ("import", "file.tar", "7/batch.0")])
def test_root_changes_nothing_where_others_could_lead_it(
    home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Between a look at a path and its removal, who owns a part of it can make it lead elsewhere."""
    asked = []

    def user_of(path: str) -> ownership.User | None:
        if not path.startswith(str(home)):
            return None
        asked.append(path)
        raise ShimError(f"{home} can be written by others")

    monkeypatch.setattr(ownership, "is_root", lambda: True)
    monkeypatch.setattr(ownership, "user_of", user_of)
    operands = [str(home / word) if word.startswith("7/") else word for word in words]
    assert f"{home} can be written by others" in refused(capfd, *operands)
    assert asked
    assert len(place.find(str(home))) == 3


def test_prune(home: Path, capfd: Capture) -> None:
    (home / "7/0.0").mkdir()
    planned = ran(capfd, "prune", "--dry-run", NOW)
    assert len(place.find(str(home))) == 3
    assert (home / "7/0.0").exists()
    lines = ran(capfd, "prune", NOW).splitlines()
    assert "\n".join(lines) == planned.replace("would remove", "removed").rstrip()
    assert [line.split()[0] for line in lines[:2]] == [f"{home}/7/batch.0/1", f"{home}/7/batch.0/2"]
    assert lines[2].startswith("removed ") and lines[2].endswith("; left alone 1 of jobs that Slurm still knows")
    assert sorted(path.name for path in home.iterdir()) == ["12"]


def test_prune_json(home: Path, capfd: Capture) -> None:
    planned = json.loads(ran(capfd, "prune", "--dry-run", "--json", NOW))
    said = json.loads(ran(capfd, "prune", "--json", NOW))
    assert (planned.pop("dry_run"), said.pop("dry_run")) == (True, False)
    assert planned == said
    assert [row["path"] for row in said["removed"]] == [f"{home}/7/batch.0/{seq}" for seq in (1, 2)]
    assert said["bytes"] == sum(row["bytes"] for row in said["removed"]) > 0
    assert (said["histories"], said["kept"], said["tasks_left"]) == ([], [], 1)


def test_prune_keeps_what_the_site_keeps(home: Path, capfd: Capture) -> None:
    """What has just ended, failed or cancelled, may be wanted yet; what a job that completed has left is not."""
    old = made(home, "7/0.0", created="2020-01-01T00:00:00Z")
    planned = json.loads(ran(capfd, "prune", "--dry-run", "--json"))
    assert [row["path"] for row in planned["removed"]] == [old]
    assert planned["kept"] == [f"{home}/7/batch.0/{seq}" for seq in (1, 2)]
    *_, said = ran(capfd, "prune").splitlines()
    assert "; kept 2 of jobs that have ended: younger than 7d (--older-than); left alone 1 of" in said
    *_, said = ran(capfd, "prune", NOW, "--keep=1").splitlines()
    assert "; kept 1 of jobs that have ended: the newest 1;" in said
    assert "removed " in ran(capfd, "prune", NOW)
    assert not (home / "7").exists()


def test_prune_of_completed_jobs(home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm knows both jobs; 12 was requeued."""
    monkeypatch.setattr(controller, "job", lambda number: seen(states=["COMPLETED" if number == 7 else "PENDING"]))
    (home / "7/0.0").mkdir()
    for directory in (home / "7", home / "12"):
        ran(capfd, "prune", "--completed", directory)
    assert sorted(path.name for path in home.iterdir()) == ["12"]
    cut = Path(made(home, "7/0.0")).parent / CUT / "1-ledger"
    cut.parent.mkdir()
    cut.write_text("cut off")
    ran(capfd, "prune", "--completed", home / "7")
    assert cut.exists() and not place.find(str(home / "7"))
    said = f"{cut.parent}  7 B\nwould remove 7 B; left alone 1 of jobs that Slurm still knows\n"
    assert ran(capfd, "prune", "--dry-run", NOW) == said
    assert cut.exists()
    assert "removed 7 B" in ran(capfd, "prune", NOW)
    assert not (home / "7").exists()


@pytest.mark.parametrize(("here", "left"), [("red", ["12"]), ("blue", ["12", "7"])])
def test_prune_of_another_cluster(
    home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch, here: str, left: list[str]
) -> None:
    """Slurm here does not know whether its job 7 still runs."""
    owner.claim(str(home / "7"), "red")
    monkeypatch.setattr(controller, "configuration", lambda: {"ClusterName": here})
    ran(capfd, "prune", NOW)
    assert sorted(path.name for path in home.iterdir()) == left


def test_prune_keeps(home: Path, capfd: Capture) -> None:
    ran(capfd, "prune", "--keep=1", NOW)
    assert place.find(str(home)) == [f"{home}/7/batch.0/2", f"{home}/12/3.1/1"]
    ran(capfd, "prune", home, "--keep=5", NOW)
    assert (home / "7/batch.0/started").exists()


def test_prune_by_age(home: Path, capfd: Capture) -> None:
    old = made(home, "8/0.0", created="2020-01-01T00:00:00Z")
    made(home, "8/0.0")
    torn = Path(made(home, "9/0.0"), "manifest.json")
    torn.unlink()
    assert old in ran(capfd, "prune", "--older-than=1d")
    assert place.find(str(home / "8")) == [f"{home}/8/0.0/2"]
    assert torn.parent.exists()
    os.utime(torn.parent, (1, 1))
    ran(capfd, "prune", "--older-than=1d")
    assert not (home / "9").exists()


def test_prune_without_slurm(home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "known_jobs", unreachable)
    assert "cannot tell which jobs have ended" in refused(capfd, "prune")
    assert len(place.find(str(home))) == 3


@pytest.mark.parametrize("inner", ["", "7", "7/batch.0"])
def test_prune_of_a_part(home: Path, capfd: Capture, inner: str) -> None:
    made(home.parent, "7/batch.0")
    ran(capfd, "prune", NOW, home / inner)
    assert place.find(str(home)) == [f"{home}/12/3.1/1"]
    assert place.find(str(home.parent / "7")) == [f"{home.parent}/7/batch.0/1"]


def test_a_job_by_its_number(home: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is found wherever the job has noted that its checkpoints are; a directory is taken as one."""
    own = home.parent / "own"
    own.mkdir()
    for key in ("8/0.0", "8/0.0", "8/0.1"):
        made(own, key)
    pointers.note(Task({"SLURM_JOB_ID": "8"}), str(own), Log())
    monkeypatch.chdir("/")

    def listed(*words: str) -> list[str]:
        return [row["path"].removeprefix(f"{own}/") for row in json.loads(ran(capfd, "list", "--json", *words))]

    assert listed("8") == ["8/0.0/1", "8/0.0/2", "8/0.1/1"]
    assert listed("8/0.1") == ["8/0.1/1"]
    assert listed("8:1") == ["8/0.0/1", "8/0.1/1"]
    assert len(listed()) == 6
    assert listed("--checkpoint-dir", str(own)) == listed("8")
    shown = json.loads(ran(capfd, "show", "8/0.0", "--json"))
    assert shown["path"] == f"{own}/8/0.0/2"
    assert ran(capfd, "show", "8/0.1").startswith(f"checkpoint  {own}/8/0.1/1\n")
    assert json.loads(ran(capfd, "show", "8:2", "--json"))["path"] == shown["path"]
    assert "8 may be of several tasks (hint: name one of them: 8/0.0, 8/0.1)" in refused(capfd, "show", "8")
    assert "8:1 may be of several tasks (hint: name one of them: 8/0.0/1, 8/0.1/1)" in refused(capfd, "show", "8:1")
    verified = [f"{own}/8/0.0/1", f"{own}/8/0.1/1", f"{home}/7/batch.0/1", f"{home}/7/batch.0/2"]
    assert ran(capfd, "verify", "8:1", "7") == "".join(f"{path}: ok\n" for path in verified)
    ran(capfd, "export", "8/0.1", tmp_path / "8.tar")
    assert ran(capfd, "diff", "8/0.0/1", "8:2").startswith("bytes: ")
    ran(capfd, "rm", "8:1")
    assert listed("8") == ["8/0.0/2"]
    (own / "history/8").mkdir(parents=True)
    ran(capfd, "prune", NOW, "8")
    assert ran(capfd, "list", "8") == f"no checkpoints in {own}/8\n"
    (own / "history/8").rmdir()
    ran(capfd, "prune", NOW)
    assert "job 8 has no history in " in refused(capfd, "list", "8")
    monkeypatch.chdir(home)
    made(home, "7/batch.0")
    ran(capfd, "rm", "7")
    assert place.find(str(home)) == [f"{home}/12/3.1/1"]
    monkeypatch.chdir(home / "12/3.1")
    assert refused(capfd, "rm", "1").endswith("(hint: add --force to remove them)\n")


def test_known_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\necho "$*" >$0.args; printf "7\\n12\\n"\n')
    squeue.chmod(0o755)
    monkeypatch.setattr("oci_criu_shim.host.process.PATH", str(tmp_path))
    assert controller.known_jobs() == {7, 12}
    assert {"--me", "--states=all", "--array"} <= set((tmp_path / "squeue.args").read_text().split())


def test_age() -> None:
    assert committed.age(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 100))) in (100, 101)
    assert committed.age("yesterday") == 0


def worked(capfd: Capture, line: report.ProgressLine, until: str) -> str:
    """What is printed until `until` stands in it, and then at the end."""
    printed = ""
    with line:
        line.tell(1024)
        while until not in printed:
            time.sleep(0.01)
            printed += capfd.readouterr().err
    return printed + capfd.readouterr().err


def test_progress_on_a_terminal(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: True)
    monkeypatch.setattr(report, "PATIENCE", 0.01)
    printed = worked(capfd, report.ProgressLine("verifying", 4096), "left")
    assert re.search(r"\rverifying: 1\.0 KiB of 4\.0 KiB, 25 %, \d+s left\x1b\[K", printed)
    assert printed.endswith("\r\x1b[K")


def test_progress_in_a_file(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "LINES", 0.01)
    printed = worked(capfd, report.ProgressLine("removing", 4096, shown=str), "left\n")
    assert re.search(r"^removing: 1024 of 4096, 25 %, \d+s left$", printed, re.MULTILINE)
    assert re.match(r"reading: \d+s\n", worked(capfd, report.ProgressLine("reading", done=int), "s\n"))


def test_no_progress_of_what_is_quick(capfd: Capture) -> None:
    with report.ProgressLine("verifying", 4096) as progress:
        progress.tell(1024)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("total", "done", "said"),
    [
        (100, 0, "0 B of 100 B, 0 %"),
        (100, 20, "20 B of 100 B, 20 %, 4m1s left"),
        (100, 100, "100 B of 100 B, 100 %"),
        (100, 120, "120 B of 100 B, 100 %"),
        (0, 20, "20 B in 1m"),
        (0, 0, "1m"),
    ],
)
def test_how_long_it_takes_yet(total: int, done: int, said: str) -> None:
    assert report.ProgressLine("reading", total, lambda: done).state(60) == said


def test_progress_of_an_import(home: Path, capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much of the archive is read is known of a compressed one, too."""
    seen_lines: list[report.ProgressLine] = []

    class Seen(report.ProgressLine):
        def __enter__(self) -> report.ProgressLine:
            seen_lines.append(self)
            return super().__enter__()

    for module in (change, look):
        monkeypatch.setattr(module, "ProgressLine", Seen)
    ran(capfd, "export", "7/batch.0/2", path := tmp_path / "file.tar.gz")
    ran(capfd, "import", path, tmp_path / "new")
    lines = {line.what: line for line in seen_lines}
    assert set(lines) == {"verifying", "unpacking", "writing", "reading", "comparing"}
    assert lines["reading"].total == lines["reading"].done() == path.stat().st_size
    assert lines["writing"].done() >= lines["writing"].total


def test_size_before_compression() -> None:
    assert look._compression(3 << 20, []) == ""
    assert look._compression(3 << 20, ["lz4", "zstd"]) == ", 3.0 MiB before lz4, zstd"
