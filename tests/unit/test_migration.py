"""A container that is sent to another node: what each end does when it goes well, and what is left when it does not."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim import config
from oci_criu_shim.checkpoints import committed, document
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container import node_fit
from oci_criu_shim.container.record import ANSWER, DONE, MIGRATION, SENT, STAGE_LINK
from oci_criu_shim.dump import client
from oci_criu_shim.dump.known import Known
from oci_criu_shim.errors import Misfit, NotRestored, ShimError
from oci_criu_shim.host import criu, process
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import controller, grace, rundir
from oci_criu_shim.slurm.rundir import REQUEUED, RunDirectory
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.task import history, migration, requeue, take
from oci_criu_shim.task.history import History
from oci_criu_shim.task.migration import Migration
from oci_criu_shim.task.policy import FAILED, NO_REASON, TAKEN, Policy
from oci_criu_shim.task.schedule import MIGRATE
from oci_criu_shim.task.take import Taker
from oci_criu_shim.transfer import holding, received
from tests.unit.test_ladder import KEY, LIFE, Site, site
from tests.unit.test_policy import Make, make
from tests.unit.test_schema import full_manifest
from tests.unit.test_slurm import seen
from tests.unit.test_store import commit

__all__ = ["make", "site"]
Capture = pytest.CaptureFixture[str]
PLACE = {"node": "n2", "addresses": ["10.0.0.2"], "port": 4711, "token": "t", "precopy": False}
SAID = "job 7 step batch task 0"


@pytest.fixture(autouse=True)
def in_this_process(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else would run in a child runs here."""
    monkeypatch.setattr(os, "nice", lambda _: 0)


class Link:
    """A sender that is told what a dump has come to."""

    def __init__(self, place: dict[str, Any], hello: dict[str, Any]) -> None:
        assert {**place, "precopy": False} == PLACE
        self.hello = hello
        self.told: list[str] = []
        links.append(self)

    def give_up(self, why: str) -> None:
        self.told.append(f"given up: {why}")

    def close(self) -> None:
        self.told.append("closed")


links: list[Link] = []


@pytest.fixture
def init() -> Iterator[subprocess.Popen[bytes]]:
    program = subprocess.Popen(["sleep", "60"])
    yield program
    program.kill()
    program.wait()


@pytest.fixture
def policy(make: Make, init: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> Policy:
    """That of a batch script of job 7, whose user wants it on n2; Slurm requeues it when it is told to."""
    made = make("preempt")
    made.container.save(made.container.load() | {"init": process.identity(init.pid)})
    Path(made.container.path(MIGRATION)).write_text(json.dumps(PLACE))
    made.log = History(made.log, made.store.directory, made.task)
    made.task.node = "n1"
    links.clear()

    def no_helper(_: object) -> None:
        raise ShimError("there is none")

    monkeypatch.setattr(client, "connect", no_helper)
    monkeypatch.setattr(migration, "Sender", Link)
    monkeypatch.setattr(node_fit, "needs", lambda *_: {"cpu": []})
    monkeypatch.setattr(criu, "version", lambda _: (4, 1))
    monkeypatch.setattr(controller, "job", lambda number, soon=False: seen(job_id=7))
    monkeypatch.setattr(controller, "run", lambda *_: "")
    monkeypatch.setattr(controller, "waiting_for", lambda _, node: [f"ReqNodeList={node}"])
    monkeypatch.setattr(grace, "fate", lambda _: grace.Fate())
    monkeypatch.setattr(config, "load", lambda: config.Settings(dict(config.DEFAULTS)))
    return made


def end(init: subprocess.Popen[bytes]) -> None:
    init.kill()
    init.wait()


def sent() -> Checkpoint:
    """What the other node has."""
    return Checkpoint("/dev/shm/x/1", full_manifest(left_running=False, restarts=0, reason=MIGRATE))


def dumps(
    monkeypatch: pytest.MonkeyPatch,
    init: subprocess.Popen[bytes] | None,
    delivers: bool = True,
    error: Exception | None = None,
) -> None:
    """Have the dump end `init`, if that is given, once it is delivered; it may fail by `error` then."""

    def dump(_: Taker, reason: str, __: object, peer: Any) -> str:
        assert reason == MIGRATE
        if delivers:
            peer.delivered(sent())
        if init:
            end(init)
        if error:
            raise error
        return "there"

    monkeypatch.setattr(Taker, "dump", dump)


def answer(policy: Policy) -> str:
    return Path(policy.container.path(ANSWER)).read_text().partition("\n")[0]


def noted(policy: Policy) -> list[str]:
    """What the epilog is told."""
    path = Path(policy.container.root, REQUEUED)
    return path.read_text().splitlines() if path.exists() else []


def events(policy: Policy, kind: str) -> list[Any]:
    return [event for event in history.read(policy.store.directory, 7).get("batch.0", []) if event["event"] == kind]


def test_it_goes_there(policy: Policy, init: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    requeued: list[int] = []
    monkeypatch.setattr(controller, "requeue", lambda number, fate: requeued.append(number))
    dumps(monkeypatch, init)
    assert Migration(policy).go() == TAKEN
    assert answer(policy) == f"0 sent {SAID} to n2's memory: there"
    assert requeued == [7]
    assert noted(policy) == ["JobId=7", "elsewhere", "ReqNodeList=n2"]
    assert Path(policy.container.path(DONE)).read_text() == "taken"
    assert RunDirectory(policy.container.root).time_is_up
    assert [(event["to"], event["required"]) for event in events(policy, "migrated")] == [("n2", "")]
    assert links[0].told == ["closed"]


def test_what_is_said_of_it_first(policy: Policy, init: subprocess.Popen[bytes], monkeypatch: Any) -> None:
    """A node that it does not fit refuses it by that, before anything is frozen."""
    Path(policy.store.path, "4").mkdir(parents=True)
    dumps(monkeypatch, init)
    monkeypatch.setattr(process, "memory", lambda _: 1 << 30)
    Migration(policy).go()
    said = links[0].hello
    assert said["bytes"] == 1 << 30
    assert (said["task"], said["seq"], said["criu"]) == (KEY, 5, "4.1")
    assert (said["needs"], said["directory"]) == ({"cpu": []}, policy.store.directory)


@pytest.mark.parametrize("sizes", [[], [5 << 20, 1 << 20]], ids=["not worth it", "two rounds"])
def test_memory_is_sent_first(
    policy: Policy, init: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, capfd: Capture, sizes: list[int]
) -> None:
    """If whoever migrates it says so; what is needed for it can be found by the job's epilog."""
    known = Known(lambda _: []) if sizes else None
    begun: list[int] = []
    link = policy.container.path(f"{STAGE_LINK}{os.getpid()}")

    class Rounds(SimpleNamespace):
        def run(self) -> Known | None:
            for _ in sizes:
                self.made("/dev/shm/.stage.x")
                assert os.readlink(link) == "/dev/shm/.stage.x"
            return known

    def precopy(pid: int, _: object, made: Callable[[str], None], urgent: int) -> Rounds:
        assert urgent == policy.urgent
        begun.append(pid)
        return Rounds(sent=sizes, made=made)

    taken: list[object] = []
    Path(policy.container.path(MIGRATION)).write_text(json.dumps({**PLACE, "precopy": True}))
    monkeypatch.setattr(migration, "Precopy", precopy)
    dumps(monkeypatch, init)
    faked = Taker.dump

    def dump(taker: Taker, *words: Any) -> str:
        taken.append(taker.known)
        return faked(taker, *words)

    monkeypatch.setattr(Taker, "dump", dump)
    assert Migration(policy).go() == TAKEN
    assert begun == [init.pid]
    assert taken == [known]
    assert not os.path.lexists(link)
    said = capfd.readouterr().err
    assert (f"sent memory of {SAID} while it ran: 5.0 MiB and then 1.0 MiB" in said) == bool(sizes)


def stays(policy: Policy) -> None:
    """Raise AssertionError if anything is left that has the job go now, or have to go there when it goes later."""
    assert RunDirectory(policy.container.root).destination == ""
    assert not RunDirectory(policy.container.root).time_is_up
    assert not Path(policy.container.path(SENT)).exists()
    assert not Path(policy.container.path(DONE)).exists()
    assert noted(policy) == []
    policy.done(MIGRATE, FAILED)
    assert not Path(policy.container.path(MIGRATION)).exists()


def test_the_dump_fails(policy: Policy, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    """Whoever receives it is told why."""
    dumps(monkeypatch, None, delivers=False, error=ShimError("CRIU could not dump one", "a hint"))
    assert Migration(policy).go() == FAILED
    why = "CRIU could not dump one (hint: a hint)"
    assert links[0].told == [f"given up: {why}", "closed"]
    assert answer(policy) == f"{FAILED} {SAID} could not be checkpointed and runs on: {why}"
    assert f"runs on: {why}" in capfd.readouterr().err
    assert [event["reason"] for event in events(policy, "checkpoint-failed")] == [why]
    stays(policy)


def refuses(*_: object) -> Any:
    raise ShimError("n2: no processor for that")


def silent(*_: object, **__: object) -> Any:
    raise ShimError("Unable to contact slurm controller")


def no_room(*_: object) -> Any:
    raise OSError(28, "No space left on device", "/dev/shm/.stage")


@pytest.mark.parametrize(
    ("where", "what", "why"),
    [
        ((migration, "Sender"), refuses, "n2: no processor for that"),
        ((controller, "job"), silent, "Unable to contact slurm controller"),
        ((Taker, "_take"), no_room, "/dev/shm/.stage: No space left on device"),
        ((node_fit, "needs"), no_room, "No space left on device"),
    ],
)
def test_what_fails_before_the_dump(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str], what: Callable[..., Any], why: str
) -> None:
    monkeypatch.setattr(*where, what)
    assert Migration(policy).go() == FAILED
    assert answer(policy).startswith(f"{FAILED} {SAID} could not be checkpointed and runs on: ")
    assert why in answer(policy)
    stays(policy)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_place_that_is_none(policy: Policy, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(migration, "Sender", refuses)
    Path(policy.container.path(MIGRATION)).write_text(text)
    assert Migration(policy).go() == FAILED
    assert answer(policy).startswith(f"{FAILED} ")
    stays(policy)


def test_it_runs_on_although_all_had_arrived(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when CRIU is lost before it ends what it dumped."""
    dumps(monkeypatch, None, error=ShimError("no answer"))
    assert Migration(policy).go() == FAILED
    stays(policy)


def test_it_ends_by_itself_meanwhile(
    policy: Policy, init: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take, "ENDING_MS", 60_000)
    dumps(monkeypatch, init, delivers=False, error=ShimError("it has ended"))
    assert Migration(policy).go() == NO_REASON
    assert answer(policy) == f"{NO_REASON} {SAID} ended while it was checkpointed"
    assert noted(policy) == []


def test_a_child_that_is_killed_when_all_has_arrived(
    policy: Policy, init: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one has the job go there all the same."""
    requeued: list[int] = []
    monkeypatch.setattr(controller, "requeue", lambda number, fate: requeued.append(number))

    class Killed(BaseException):
        pass

    dumps(monkeypatch, init, error=Killed())  # type: ignore[arg-type]
    with pytest.raises(Killed):
        Migration(policy).go()
    assert noted(policy) == []
    found = policy.ended_by()
    assert found
    assert found.path == "/dev/shm/x/1"
    assert Migration(policy).go() == TAKEN
    assert requeued == [7]
    assert noted(policy) == ["JobId=7", "elsewhere", "ReqNodeList=n2"]
    assert answer(policy).startswith(f"0 checkpointed {SAID} to /dev/shm/x/1 (")


def test_one_that_goes_on_was_not_ended_by_it(policy: Policy) -> None:
    """What is left of an earlier run of the job counts no more."""
    Path(policy.container.path(SENT)).write_text(json.dumps({"path": "/x", "manifest": full_manifest(restarts=9)}))
    assert policy.ended_by() is None


def moved(directory: str, to: str, required: str) -> None:
    task = Task({"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"})
    History(Log(), directory, task).note("migrated", to=to, required=required)


@pytest.mark.parametrize(
    ("moves", "now", "wanted"),
    [
        ([], "", ""),
        ([], "n1", "n1"),  # as its user has said
        ([("n2", "")], "n2", ""),
        ([("n2", "n[1-2]")], "n2", "n[1-2]"),
        ([("n2", "")], "n3", "n3"),  # as its user has said since
        ([("n2", ""), ("n3", "")], "n3", ""),
        ([("n2", "")], "", ""),
    ],
)
def test_the_nodes_that_a_user_requires(tmp_path: Path, moves: list[tuple[str, str]], now: str, wanted: str) -> None:
    for to, required in moves:
        moved(str(tmp_path), to, required)
    assert requeue.required(str(tmp_path), seen(job_id=7, required_nodes=now)) == wanted


def test_it_migrates_twice(policy: Policy, init: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it came from is no node that its user requires."""
    moved(policy.store.directory, "n1", "")
    monkeypatch.setattr(controller, "job", lambda number, soon=False: seen(job_id=7, required_nodes="n1"))
    monkeypatch.setattr(controller, "requeue", lambda *_: None)
    dumps(monkeypatch, init)
    assert Migration(policy).go() == TAKEN
    assert [(event["to"], event["required"]) for event in events(policy, "migrated")] == [("n1", ""), ("n2", "")]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """Job 7 on n2, to which it has migrated."""
    monkeypatch.setattr(controller, "job", lambda number, soon=False: seen(job_id=7, required_nodes="n2"))
    monkeypatch.setattr(controller, "run", lambda *_: "n1\nn2\nn3\n")
    monkeypatch.setattr(config, "load", lambda: config.Settings(dict(config.DEFAULTS)))
    directory = str(tmp_path / "checkpoints")
    moved(directory, "n2", "")
    return Task({"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n2", "SLURM_CHECKPOINT_DIR": directory})


def test_it_may_go_anywhere_after_that(task: Task, tmp_path: Path) -> None:
    assert requeue.has_another_node(task)
    assert requeue.can_wait_for(task, "n1")
    requeue.mark(str(tmp_path), task, Log())
    assert Path(tmp_path, REQUEUED).read_text() == "JobId=7\nReqNodeList=\n"


def test_it_must_stay_where_its_user_wants_it(task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(controller, "job", lambda number, soon=False: seen(job_id=7, required_nodes="n3"))
    monkeypatch.setattr(controller, "run", lambda *_: "n3\n")
    assert not requeue.has_another_node(task)
    assert not requeue.can_wait_for(task, "n1")
    assert requeue.can_wait_for(task, "n3")
    requeue.mark(str(tmp_path), task, Log())
    assert Path(tmp_path, REQUEUED).read_text() == "JobId=7\n"


@pytest.mark.parametrize(
    ("destination", "change", "wanted"),
    [
        ("n3", {}, ["elsewhere", "ReqNodeList=n3"]),
        ("n3", {"expedited": True}, ["expedited", "ReqNodeList=n3"]),
        ("n2", {}, ["ReqNodeList=n2"]),  # a launch there might be mistaken for this one
        ("n3", {"excluded_nodes": "n3"}, ["elsewhere", "ExcNodeList=", "ReqNodeList=n3"]),
    ],
)
def test_the_mark_of_a_job_that_migrates(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, destination: str, change: dict[str, Any], wanted: Any
) -> None:
    monkeypatch.setattr(controller, "job", lambda number, soon=False: seen(job_id=7, **change))
    monkeypatch.setattr(controller, "run", lambda *argv: f"{argv[-1]}\n")
    RunDirectory(str(tmp_path)).note_destination(destination)
    requeue.mark(str(tmp_path), task, Log())
    assert Path(tmp_path, REQUEUED).read_text().splitlines() == ["JobId=7", *wanted]


def test_where_a_job_is_to_go_on(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path))
    assert directory.destination == ""
    for node in ("n2", "n3"):
        directory.note_destination(node)
        assert directory.destination == node
    directory.forget_destination()
    directory.forget_destination()
    assert directory.destination == ""


def test_what_was_received_goes_soon_after_the_job(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path))
    (tmp_path / "memory").mkdir()
    for _ in range(2):
        directory.note_received(str(tmp_path / "memory"))
    directory.note_received(str(tmp_path / "none"))
    (link,) = tmp_path.glob(f"{rundir.RECEIVED}*")
    assert os.readlink(link) == str(tmp_path / "memory")
    assert link.name.removeprefix(rundir.RECEIVED).isdecimal()


def arrive(seq: int, text: str = "memory") -> str:
    """A checkpoint of job 7 that was received here; its path."""
    path = received.make("/c", KEY, seq)
    Path(path, "checkpoint/core-1.img").write_text(text)
    manifest: Any = full_manifest(files={"checkpoint/core-1.img": len(text)})
    Path(path, committed.MANIFEST).write_text(json.dumps(document.sealed({**manifest, "sha256": {}})))
    return path


def kept(site: Site) -> list[tuple[int, str]]:
    """The checkpoints in the store, and what is in them."""
    return [(seq, Path(site.of(seq, "checkpoint/core-1.img")).read_text()) for seq in site.store.numbers()]


def left(site: Site, memory: Path) -> list[str]:
    """What is in memory, and what the epilog knows of it."""
    return [*os.listdir(memory), *(str(path) for path in Path(site.container.directory).glob("stage.*"))]


def test_it_goes_on_from_memory(site: Site, memory: Path) -> None:
    site.commit(1)
    path = arrive(2)
    assert site.climb() == LIFE
    assert [os.path.basename(one) for one in site.begun] == ["2"]
    assert os.path.dirname(os.path.dirname(site.begun[0])) == str(memory)
    assert not received.is_waiting(path)
    assert site.comments == [f"7 oci-criu-shim: restored from {site.begun[0]}"]
    assert kept(site) == [(1, "img"), (2, "memory")]
    assert left(site, memory) == []


def test_the_epilog_knows_of_it_until_it_is_kept(site: Site, memory: Path) -> None:
    arrive(1)
    arrival = site.ladder().arrival
    assert arrival
    assert os.path.realpath(arrival.link) == os.path.dirname(arrival.path)
    assert os.path.dirname(arrival.link) == site.container.root  # which stays until then
    assert Path(arrival.path).parent.name.startswith(".stage.")
    assert len(left(site, memory)) == 1
    arrival.keep()
    assert not os.path.lexists(arrival.link)


@pytest.mark.parametrize("error", [NotRestored("no"), ShimError("it is damaged"), OSError(2, "No such file")])
def test_one_that_can_not_be_restored_is_kept(site: Site, memory: Path, error: ShimError | OSError) -> None:
    """An older one does, but that one was the newest."""
    site.commit(1)
    arrive(2)
    site.errors[2] = error
    assert site.climb() == LIFE
    assert [os.path.basename(path) for path in site.begun] == ["2", "1"]
    assert kept(site) == [(1, "img"), (2, "memory")]
    assert left(site, memory) == []


def test_one_that_does_not_fit_is_kept_for_the_node_that_it_fits(site: Site, memory: Path) -> None:
    arrive(1)
    site.errors[1] = Misfit("no avx2")
    assert site.climb() == 1
    assert site.requeued == [7]
    assert kept(site) == [(1, "memory")]
    assert left(site, memory) == []


def test_an_older_one_than_the_stores_is_dropped(site: Site, memory: Path) -> None:
    site.commit(3)
    arrive(3)
    assert site.climb() == LIFE
    assert site.begun == [site.of(3)]
    assert left(site, memory) == []


def test_a_newer_one_that_is_taken_while_it_is_copied(
    site: Site, memory: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not come to be the newest after all."""
    arrive(1)
    work: list[Callable[[], int]] = []
    monkeypatch.setattr(process, "fork", work.append)
    assert site.climb() == LIFE
    commit(site.store, "new")
    for each in work:
        each()
    assert kept(site) == [(1, "new")]
    assert "by which c has migrated is not kept: checkpoint 1 is newer than 1\n" in capfd.readouterr().err
    assert left(site, memory) == []


def test_no_room_to_keep_it(site: Site, memory: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    arrive(1)
    monkeypatch.setattr("shutil.copyfile", no_room)
    assert site.climb() == LIFE
    said = "error: the checkpoint by which c has migrated is not kept: /dev/shm/.stage: No space left on device\n"
    assert said in capfd.readouterr().err
    assert kept(site) == []
    assert left(site, memory) == []
    assert [name for name in os.listdir(site.store.path) if name.startswith(".stage")] == []


def test_half_a_checkpoint_counts_for_nothing(site: Site, memory: Path) -> None:
    site.commit(1)
    os.remove(Path(arrive(2), committed.MANIFEST))
    received.make("/c", KEY, 3)
    assert site.climb() == LIFE
    assert site.begun == [site.of(1)]
    assert os.listdir(memory) == []


def test_one_that_goes_while_it_is_looked_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epilog removes it."""
    site.commit(1)
    arrive(2)
    lstat = os.lstat

    def gone(path: Any, **words: Any) -> os.stat_result:
        if "oci-criu-shim.7" in str(path):
            raise FileNotFoundError(2, "No such file or directory")
        return lstat(path, **words)

    monkeypatch.setattr(os, "lstat", gone)
    assert site.climb() == LIFE
    assert site.begun == [site.of(1)]


def test_migrations_are_no_tries_of_the_checkpoint_before(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.settings.max_restarts = 1
    site.commit(1)
    assert site.climb() == LIFE
    for seq in (2, 3):
        arrive(seq)
        assert site.climb() == LIFE
    assert [seq for seq, _ in kept(site)] == [1, 2, 3]


def test_a_copy_keeps_its_number(tmp_path: Path) -> None:
    store = Store(str(tmp_path), KEY)
    store.prepare()
    arrive(5)
    found = received.take_over(KEY)
    assert found
    assert holding.keep(found, store).seq == 5
    with pytest.raises(ShimError, match="checkpoint 5 is newer than 5"):
        holding.keep(found, store)
    assert store.numbers() == [5]
