"""Checkpoints on a node's own disk: when they go there, and that they count for nothing until they are copied."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config, files
from oci_criu_shim.checkpoints import integrity, scratch
from oci_criu_shim.checkpoints.codec import Codec
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.compression import Compression
from oci_criu_shim.checkpoints.store import STARTED, Store
from oci_criu_shim.cli.ckpt import change
from oci_criu_shim.cli.doctor import local as doctor
from oci_criu_shim.cli.doctor import settings
from oci_criu_shim.cli.doctor.verdicts import Skipped
from oci_criu_shim.cli.invocation import Invocation
from oci_criu_shim.cli.job.story import Story
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import mounts
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.task import history, schedule
from oci_criu_shim.task.departure import Departure
from oci_criu_shim.task.history import History
from oci_criu_shim.task.policy import TAKEN
from oci_criu_shim.task.preempt import Preemption
from oci_criu_shim.task.take import Taker
from oci_criu_shim.transfer import holding, local
from oci_criu_shim.transfer.local import Local
from tests.unit.test_policy import Make, make
from tests.unit.test_slurm import seen
from tests.unit.test_store import commit, fill

__all__ = ["make"]
Capture = pytest.CaptureFixture[str]
KEY = "7/batch.0"
PAGES = b"memory " * 200_000


@pytest.fixture(autouse=True)
def on_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "own", lambda _: "xfs")
    monkeypatch.setattr(config, "load", lambda: config.Settings(dict(config.DEFAULTS)))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The site's directory on the node's disk."""
    made = tmp_path / "disk"
    made.mkdir()
    made.chmod(0o1777)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "ckpt").mkdir()
    made = Store(str(tmp_path / "ckpt"), KEY)
    made.prepare()
    return made


class Told:
    """What is told of a checkpoint."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.committed: list[tuple[str, str]] = []

    def commit(self, path: str, checkpoint: Checkpoint) -> None:
        self.committed.append((path, checkpoint.path))


def write(place: Path, store: Store, told: Told | None = None) -> str:
    """Write a checkpoint with pages to the disk; the directory that holds it."""
    told = told or Told()
    with Local(str(place), store, 0, told.made.append, told.commit).stage() as stage:
        Path(stage.images, "pages-1.img").write_bytes(PAGES)
        stage.commit(fill(stage) | {"left_running": False, "restarts": 2})
    return told.made[0]


def test_it_counts_for_nothing_there(place: Path, store: Store) -> None:
    commit(store)
    told = Told()
    base = write(place, store, told)
    assert store.numbers() == [1]
    assert os.path.dirname(base) == str(place)
    assert told.committed == [(f"{store.path}/2", f"{base}/2")]
    assert sorted(os.listdir(base)) == ["2", "store"]
    assert stat.S_IMODE(os.stat(base).st_mode) == 0o700
    assert integrity.checksums(holding.read(base))


@pytest.mark.parametrize("compresses", [True, False])
def test_it_is_copied(place: Path, store: Store, compresses: bool) -> None:
    base = write(place, store)
    compression = Compression(Codec("zstd", 1), lambda: 0.0, print, always=False) if compresses else None
    kept = local.drain(base, compression)
    assert (kept.path, store.numbers(), os.listdir(place)) == (f"{store.path}/1", [1], [])
    assert os.path.exists(f"{kept.images}/pages-1.img.zst") is compresses
    integrity.Verification(kept).require()
    assert integrity.checksums(kept)
    assert os.listdir(store.path) == ["1"]


def test_damage_on_the_disk_is_found(place: Path, store: Store) -> None:
    base = write(place, store)
    Path(base, "1/checkpoint/pages-1.img").write_bytes(PAGES.replace(b"m", b"n", 1))
    with pytest.raises(ShimError, match=r"pages-1\.img is damaged"):
        local.drain(base, None)
    assert (store.numbers(), os.listdir(store.path)) == ([], [])
    assert holding.read(base)


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_a_job_that_goes_on_without_it(place: Path, store: Store, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Slurm has taken the node for dead: the job runs elsewhere, from an older checkpoint."""
    base = write(place, store)
    started = Path(store.path, STARTED)
    if moment == "before":
        started.write_text("3")
    else:
        keep = holding.keep
        monkeypatch.setattr(holding, "keep", lambda *given: (keep(*given), started.write_text("3"))[0])
    with pytest.raises(ShimError, match="went on without"):
        local.drain(base, None)
    assert store.numbers() == []


def test_a_newer_one(place: Path, store: Store) -> None:
    base = write(place, store)
    commit(store)
    with pytest.raises(ShimError, match=r"checkpoint 1 is newer|there already"):
        local.drain(base, None)
    assert store.numbers() == [1]


def test_a_dump_that_fails(place: Path, store: Store) -> None:
    told = Told()
    with pytest.raises(OSError, match="no"), Local(str(place), store, 0, told.made.append, told.commit).stage():
        raise OSError("no")
    assert told.made
    assert os.listdir(place) == []


def test_nobody_can_be_told(place: Path, store: Store) -> None:
    """The epilog would not know of it, or the supervisor not that it is there."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for told in ((full, lambda *_: None), (lambda _: None, full)):
        with pytest.raises(OSError, match="No space"), Local(str(place), store, 0, *told).stage() as stage:
            stage.commit(fill(stage))
        assert os.listdir(place) == []


def test_a_quota_has_no_room_for_the_copy(place: Path, store: Store) -> None:
    store.quota = 2
    with pytest.raises(ShimError, match="quota"):
        write(place, store)
    assert os.listdir(place) == []


@pytest.mark.parametrize(
    ("mode", "kind", "size", "said"),
    [
        (0o777, "xfs", 0, "lets others remove"),
        (0o1777, "tmpfs", 0, "is in memory"),
        (0o1777, "", 0, "is not on a disk of the node's own"),
        (0o1777, "xfs", 1 << 60, "has room for"),
    ],
)
def test_what_is_not_fit(
    place: Path, store: Store, monkeypatch: pytest.MonkeyPatch, mode: int, kind: str, size: int, said: str
) -> None:
    place.chmod(mode)
    monkeypatch.setattr(mounts, "own", lambda _: kind)
    with pytest.raises(ShimError, match=said):
        Local(str(place), store, size, lambda _: None, lambda *_: None)


def test_what_doctor_says(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = config.Settings({**config.DEFAULTS, "local-dir": str(place)})
    monkeypatch.setattr(settings, "usable", lambda: (known, {}))
    assert doctor.check() == str(place)
    place.chmod(0o777)
    with pytest.raises(ShimError, match="lets others remove") as raised:
        doctor.check()
    assert raised.value.hint == f"chmod 1777 {place}"
    place.rmdir()
    with pytest.raises(ShimError, match="No such file") as raised:
        doctor.check()
    assert raised.value.hint == f"mkdir -m 1777 {place}"
    known.local_dir = ""
    with pytest.raises(Skipped):
        doctor.check()


def test_a_directory_of_the_jobs_own(place: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"30 22 8:1 /var/nodes/n1/7/.7/_disk {place} rw - xfs /dev/sda rw"
    monkeypatch.setattr(mounts, "read", lambda *_: [mounts.Mount(line)])
    with pytest.raises(ShimError, match="is job 7's own"):
        Local(str(place), store, 0, lambda _: None, lambda *_: None)


def test_what_is_swept(place: Path, store: Store, tmp_path: Path) -> None:
    base = write(place, store)
    fresh = Path(holding.make(str(place), store.directory, KEY))
    old = Path(holding.make(str(place), store.directory, KEY))
    os.utime(old, (1, 1))
    (place / "another").mkdir()
    local.sweep(str(place))
    assert sorted(os.listdir(place)) == sorted(["another", fresh.name, os.path.basename(base)])
    commit(store)  # a newer one
    local.sweep(str(place))
    assert sorted(os.listdir(place)) == sorted(["another", fresh.name])


@pytest.fixture
def choose(make: Make, place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], Preemption]:
    """A preemption of a job with so many seconds left, whose checkpoint takes so many."""

    def choose(left: float, takes: float) -> Preemption:
        made = make("preempt", **{"local-dir": str(place)})
        made.log = History(made.log, made.store.directory, made.task)
        monkeypatch.setattr(made.estimate, "seconds", lambda: takes)
        monkeypatch.setattr(made.estimate, "used", lambda: 0)
        monkeypatch.setattr(Taker, "connect_early", lambda _: None)
        monkeypatch.setattr(controller, "job", lambda *_, **__: seen(job_id=7))
        found = Preemption(made)
        found.departure.end = time.time() + left
        return found

    return choose


@pytest.mark.parametrize(("left", "takes", "is_local"), [(30, 20, False), (30, 29, True), (30, 60, True)])
def test_when_it_goes_there(choose: Callable[..., Preemption], left: float, takes: float, is_local: bool) -> None:
    assert (choose(left, takes)._local() is not None) is is_local


def test_a_disk_that_is_full(
    choose: Callable[..., Preemption], monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    found = choose(30, 60)
    monkeypatch.setattr(found.policy.estimate, "used", lambda: 1 << 60)
    assert found._local() is None
    assert "is not checkpointed to this node's own disk: " in capfd.readouterr().err


def test_what_is_said_and_noted(
    choose: Callable[..., Preemption], place: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """Before the copy and after it."""
    found = choose(30, 60)
    store, policy = found.store, found.policy
    commit(store)
    monkeypatch.setattr(Preemption, "_why", lambda *_: schedule.PREEMPT)
    monkeypatch.setattr(Departure, "mark", lambda *_: None)
    bases: list[str] = []

    def dump(taker: Taker, reason: str, _: object, chosen: Local) -> str:
        with chosen.stage() as stage:
            taken = stage.commit(fill(stage) | {"left_running": False, "restarts": 0, "reason": reason})
        bases.append(os.path.dirname(taken.path))
        facts: dict[str, Any] = {"bytes": 3, "reason": reason, "seconds": 1.0, "frozen": 0.5, "at": time.time()}
        policy.log.note("started")
        policy.log.note("checkpointed", **facts, waited=0.0, runs_on=False, **chosen.facts(taken))
        return "there"

    monkeypatch.setattr(Taker, "dump", dump)
    assert found.go(schedule.PREEMPT) == TAKEN
    node = os.uname().nodename
    said = capfd.readouterr().err
    assert f"is on {node} alone until the job's epilog has copied it to {store.path}; if {node} fails before" in said
    assert "the job goes on from checkpoint 1" in said
    links = [path for path in Path(policy.container.root).iterdir() if path.name.startswith("local.")]
    assert [os.readlink(link) for link in links] == bases
    ended = policy.ended_by()
    assert ended and ended.path == f"{store.path}/2"

    def checkpoint() -> dict[str, Any]:
        story = Story(7, history.read(store.directory, 7), alive=True).describe()
        return dict(story["tasks"][0]["checkpoints"][-1])

    assert (checkpoint()["removed"], checkpoint()["local"]) == (True, f"{bases[0]}/2")
    assert drain(bases[0]) == 0
    assert f"{store.path}/2 (" in capfd.readouterr().out
    assert (checkpoint()["removed"], checkpoint()["local"]) == (False, "")
    assert os.listdir(place) == []


def drain(base: str, *flags: str) -> int:
    return change.drain(Invocation("ckpt drain", {}, {flag: [] for flag in flags}, [base]))


def test_the_command_says_what_is_in_its_way(place: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write(place, store)
    History(Log(), store.directory, Task({"SLURM_JOB_ID": "7"})).note("started")
    monkeypatch.setattr(files, "sync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ShimError, match=rf"is on {os.uname().nodename} alone, in {base}: .*No space") as raised:
        drain(base)
    assert raised.value.hint == f"`oci-criu-shim ckpt drain {base}` there tries once more"
    events = history.read(store.directory, 7)["batch.0"]
    assert [event["event"] for event in events] == ["started", "not-copied"]
    monkeypatch.undo()
    monkeypatch.setattr(config, "load", lambda: config.Settings(dict(config.DEFAULTS)))
    assert drain(base, "json") == 0


def test_the_command_says_that_the_job_went_on_without_it(place: Path, store: Store) -> None:
    base = write(place, store)
    Path(store.path, STARTED).write_text("3")
    with pytest.raises(ShimError, match="went on without") as raised:
        drain(base)
    assert raised.value.hint == f"rm -r {base}/1"


def test_the_command_prints_json(place: Path, store: Store, capsys: Capture) -> None:
    base = write(place, store)
    assert drain(base, "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("seconds") > 0
    assert found == {"checkpoint": f"{store.path}/1", "source": base, "bytes": found["bytes"]}


def test_what_was_killed_before_it_had_written_it(place: Path, store: Store) -> None:
    base = Path(holding.make(str(place), store.directory, KEY))
    (base / scratch.name()).mkdir()
    with pytest.raises(ShimError, match="there is no checkpoint in"):
        drain(str(base))
    assert os.listdir(place) == []


def test_another_directory(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    with pytest.raises(ShimError, match="was not made to hold a checkpoint"):
        drain(str(tmp_path / "precious"))
    assert (tmp_path / "precious").exists()


def test_the_epilog_can_be_told_of_it(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path))
    (tmp_path / "base").mkdir()
    directory.note_local(str(tmp_path / "base"))
    with pytest.raises(FileExistsError):
        directory.note_local(str(tmp_path / "base"))
