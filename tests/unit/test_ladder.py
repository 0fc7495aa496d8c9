"""Which checkpoint a task goes on from, what is said of the others, and when it is sent to another node."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config
from oci_criu_shim.checkpoints import document
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import Misfit, NotRestored, ShimError
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import Signals
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.rundir import REQUEUED
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.supervisor.launch import Launch
from oci_criu_shim.task import history, ladder, pointers, requeue
from oci_criu_shim.task.ladder import Ladder
from tests.unit.test_slurm import seen
from tests.unit.test_store import commit

KEY = "7/batch.0"
LIFE = 42


class Dry(Launch):
    """Starts nothing: a restore fails by the site's errors."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.created = None
        self.signals = object.__new__(Signals)
        self.signals.read = lambda: bytes([15])  # type: ignore[method-assign]

    def _restore(self, checkpoint: Checkpoint, *_: object) -> tuple[int, Any]:
        self.site.begun.append(checkpoint.path)
        if error := self.site.errors.get(checkpoint.seq):
            Path(self.site.container.path("restore.log")).write_text("CRIU's words\n")
            raise error
        return 0, None

    def _supervise(self, *_: object) -> int:
        return LIFE

    def _create(self) -> int:
        return 0


class Site:
    """A task that was restarted, and Slurm."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(str(path), KEY)
        self.store.prepare()
        self.settings = config.Settings(dict(config.DEFAULTS))
        self.container = Container(str(path / "run"), "c")
        self.container.reserve()
        self.environment = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1", "SLURMD_NODENAME": "n1"}
        self.errors: dict[int, ShimError | OSError] = {}
        """What a restore of a checkpoint fails by."""
        self.launch = Dry(self)
        self.begun: list[str] = []
        self.comments: list[str] = []
        self.requeued: list[int] = []
        self.other_nodes = True

    def ladder(self) -> Ladder:
        """That of a restart: nothing is remembered but what is in the store."""
        task = Task(self.environment)
        log = history.History(Log(), str(self.path), task)
        return Ladder(self.container, task, self.store, self.settings, log)

    def climb(self) -> int:
        return self.launch._climb(self.ladder())

    def commit(self, count: int) -> None:
        for _ in range(count):
            commit(self.store)

    def log_of(self, seq: int) -> str:
        return Path(self.of(seq, "restore.log")).read_text()

    def of(self, seq: int, *names: str) -> str:
        return os.path.join(self.store.path, str(seq), *names)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    monkeypatch.setattr(process, "fork", lambda work: work())
    monkeypatch.setattr(controller, "remark", lambda job, mark, text: made.comments.append(f"{job} {mark}{text}"))
    monkeypatch.setattr(requeue, "has_another_node", lambda task: made.other_nodes)
    monkeypatch.setattr(controller, "job", lambda _, soon: seen())
    monkeypatch.setattr(controller, "requeue", lambda job: made.requeued.append(job))
    return made


def test_newest(site: Site) -> None:
    site.commit(2)
    assert site.climb() == LIFE
    assert site.begun == [site.of(2)]
    assert site.comments == ["7 oci-criu-shim: restored from 2"]


def test_not_all_tasks_tell(site: Site) -> None:
    site.environment["SLURM_PROCID"] = "3"
    site.commit(1)
    assert site.climb() == LIFE
    assert site.comments == []


def test_older(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.commit(3)
    os.remove(site.of(3, "manifest.json"))
    site.errors[2] = NotRestored("CRIU could not restore c: Error", "a hint")
    assert site.climb() == LIFE
    assert site.begun == [site.of(2), site.of(1)]
    said = capfd.readouterr().err
    assert f"error: job 7 step batch task 0: {site.of(3)}/manifest.json cannot be read" in said
    kept = f"{site.path}/history/7/batch.0.1.restore-2.log"
    assert f"CRIU could not restore c: Error (hint: a hint) (see {kept})" in said
    assert " n1: CRIU could not restore c: Error (hint: a hint)\nCRIU's words\n" in site.log_of(2)
    assert "CRIU's" not in site.log_of(3)
    site.store.clear()  # the job has completed
    assert Path(kept).read_text().endswith("(hint: a hint)\nCRIU's words\n")
    assert [event["log"] for event in history.read(str(site.path), 7)["batch.0"]] == ["", kept]
    assert site.comments[0].startswith("7 oci-criu-shim: restored from 1: 3: manifest.json cannot be read")
    assert site.comments[0].endswith("; 2: CRIU could not restore c: Error")


def test_what_a_system_call_refuses(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.commit(2)
    site.errors[2] = OSError(28, "No space left on device", "/run/x/stage")
    assert site.climb() == LIFE
    assert site.begun == [site.of(2), site.of(1)]
    assert f"{site.of(2)} could not be restored: /run/x/stage: No space left on device" in capfd.readouterr().err
    site.errors[1] = site.errors[2]
    assert site.climb() == 1
    assert site.requeued == [7]


def test_a_try_that_can_not_be_counted(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(122, "Disk quota exceeded")

    site.commit(1)
    monkeypatch.setattr("oci_criu_shim.files.write_json", full)
    assert site.climb() == LIFE
    assert "this try of job 7 step batch task 0 is not counted: Disk quota exceeded\n" in capfd.readouterr().err


def test_others_restore_the_same_checkpoint(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: site.errors.clear())
    site.commit(1)
    site.errors[1] = NotRestored("CRIU could not restore c: Error: Can't create ghost regfile: File exists")
    assert site.climb() == LIFE
    assert site.begun == [site.of(1)] * 2
    assert not Path(site.of(1, "restore.log")).exists()


def test_others_restore_the_same_checkpoint_for_long(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then an older one will do."""
    monkeypatch.setattr(ladder, "PAUSES", (0, 0))
    site.commit(2)
    site.errors[2] = NotRestored("CRIU could not restore c: Error: Can't create ghost regfile: File exists")
    assert site.climb() == LIFE
    assert site.begun == [site.of(2)] * 3 + [site.of(1)]
    assert site.log_of(2).endswith("File exists\nCRIU's words\n")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (NotRestored("Can't create ghost regfile"), 3),
        (NotRestored("Error (soccr/soccr.c:819): Can't restore 2 queue data (-1), want (0:32768:8388608:8192)"), 3),
        (OSError(17, "File exists", "/x/ghost-1"), 3),
        (NotRestored("Can't create ghost regfile: Permission denied"), 1),
        (NotRestored("Can't open file"), 1),
        (NotRestored("Error: Can't create ghost regfile: Permission denied"), 1),
        (OSError(13, "Permission denied", "/x/ghost-1"), 1),
        (ShimError("ghost"), 1),
        (Misfit("ghost"), 1),
    ],
)
def test_only_what_passes_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: ShimError | OSError, again: int
) -> None:
    monkeypatch.setattr(ladder, "PAUSES", (0, 0))
    site.commit(2)
    site.other_nodes = False
    made, tried = site.ladder(), []
    for path in made.rungs():
        tried.append(path)
        assert not made.note_failure(path, error)
    assert tried == [site.of(2)] * again + [site.of(1)] * again
    assert len(made.reasons) == 2


def test_one_that_may_be_restored_elsewhere(site: Site) -> None:
    """It is asked for once, after all."""
    site.commit(1)
    made = site.ladder()
    assert not made.try_elsewhere()
    (path,) = made.rungs()
    assert not made.note_failure(path, NotRestored("no"))
    assert site.requeued == []
    assert made.try_elsewhere()
    assert site.requeued == [7]


def test_a_comment_is_short(site: Site) -> None:
    site.commit(1)
    site.errors[1] = ShimError("why? " * 100)
    with pytest.raises(ShimError):
        site.climb()
    assert len(site.comments[0]) == len("7 oci-criu-shim: ") + 300
    assert site.comments[0].endswith("…")


def test_what_failed_is_kept_and_does_not_count(site: Site) -> None:
    site.commit(3)
    site.errors = {3: NotRestored("no"), 2: ShimError("damaged")}
    site.climb()
    site.commit(1)
    site.store.keep(2)
    assert site.store.numbers() == [1, 3, 4]


def test_a_log_of_another_nodes_goes(site: Site) -> None:
    site.commit(1)
    Path(site.of(1, "restore.log")).write_text("failed on n2")
    assert site.climb() == LIFE
    assert not Path(site.of(1, "restore.log")).exists()


def test_nothing_to_go_on_from(site: Site) -> None:
    site.commit(1)
    site.errors[1] = ShimError("it is damaged")
    with pytest.raises(ShimError, match=f"could not be restored from any checkpoint in {site.store.path}"):
        site.climb()
    assert site.comments == ["7 oci-criu-shim: failed: no checkpoint could be restored: 1: it is damaged"]
    assert site.requeued == []


def test_fresh_start(site: Site) -> None:
    site.settings.fresh_start = True
    assert site.climb() == 0
    assert site.comments == ["7 oci-criu-shim: started from its beginning"]


def test_a_misfit_goes_elsewhere_at_once(site: Site) -> None:
    site.commit(2)
    site.errors[2] = Misfit("no avx2")
    assert site.climb() == 1
    assert (site.begun, site.requeued) == ([site.of(2)], [7])
    assert Path(site.container.root, REQUEUED).read_text() == "JobId=7\nExcNodeList=n1\n"
    assert site.comments == ["7 oci-criu-shim: requeued from n1: 2: no avx2"]
    assert not Path(site.of(2, "restore.log")).exists()


def test_a_failed_restore_goes_elsewhere_when_no_older_one_will_do(site: Site) -> None:
    site.commit(2)
    site.errors = {2: NotRestored("no"), 1: ShimError("it is damaged")}
    assert site.climb() == 1
    assert (site.begun, site.requeued) == ([site.of(2), site.of(1)], [7])


def test_slurm_does_not_requeue(site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(_: int) -> None:
        raise ShimError("scontrol requeue 7: Access denied")

    monkeypatch.setattr(controller, "requeue", refuse)
    site.commit(2)
    site.errors[2] = Misfit("no avx2")
    assert site.climb() == LIFE
    said = "job 7 could not be requeued to another node: scontrol requeue 7: Access denied (hint: `scontrol requeue 7`"
    assert said in capfd.readouterr().err


def test_no_other_node(site: Site) -> None:
    site.commit(2)
    site.other_nodes = False
    site.errors[2] = Misfit("no avx2")
    assert site.climb() == LIFE
    assert site.begun == [site.of(2), site.of(1)]
    assert site.comments == ["7 oci-criu-shim: restored from 1: 2: no avx2"]


@pytest.mark.parametrize("limit", [1, 3])
def test_the_same_checkpoint_so_often(site: Site, limit: int) -> None:
    site.settings.max_restarts = limit
    site.commit(1)
    for _ in range(limit):
        assert site.climb() == LIFE
    with pytest.raises(ShimError, match=rf"was tried {limit} times from checkpoint 1 and got no further") as raised:
        site.climb()
    assert f"rm {site.store.path}/tries.json; scontrol requeue 7" in raised.value.hint
    site.commit(1)
    assert site.climb() == LIFE


def test_no_limit(site: Site) -> None:
    site.settings.max_restarts = 0
    site.commit(1)
    assert [site.climb() for _ in range(9)] == [LIFE] * 9


def test_the_limit_bounds_other_nodes(site: Site) -> None:
    site.settings.max_restarts = 2
    site.commit(1)
    site.errors[1] = Misfit("no avx2")
    assert site.climb() == 1
    with pytest.raises(ShimError, match="could not be restored"):
        site.climb()
    assert site.requeued == [7]


def on(site: Site, node: str) -> None:
    """The job's next run is on that node."""
    site.environment["SLURMD_NODENAME"] = node


def test_what_only_one_node_has(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job waits for it, and that is no failed try."""
    monkeypatch.setattr(requeue, "can_wait_for", lambda task, node: True)
    monkeypatch.setattr(controller, "waiting_for", lambda job, node: [f"ReqNodeList={node}"])
    site.settings.max_restarts = 2
    site.commit(1)
    site.errors[1] = Misfit("it listens on 10.0.0.9:80, an address that this node does not have", home="n9")
    for node in ("n1", "n2", "n3"):
        on(site, node)
        assert site.climb() == 1
        assert Path(site.container.root, REQUEUED).read_text() == "JobId=7\nelsewhere\nReqNodeList=n9\n"
    assert site.comments[-1].startswith("7 oci-criu-shim: waits for n9: 1: it listens on 10.0.0.9:80")
    site.errors.clear()
    on(site, "n9")
    assert site.climb() == LIFE
    assert json.loads(Path(site.store.path, "tries.json").read_text())["tries"] == 1


def test_slurm_sends_it_to_the_wrong_node_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is not for ever."""
    monkeypatch.setattr(requeue, "can_wait_for", lambda task, node: True)
    site.settings.max_restarts = 2
    site.commit(1)
    site.errors[1] = Misfit("an address that this node does not have", home="n9")
    assert [site.climb() for _ in range(3)] == [1, 1, 1]
    with pytest.raises(ShimError, match="was tried 2 times"):
        site.climb()


def test_what_no_node_has(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of many nodes, or one whose node is not there any more."""
    monkeypatch.setattr(requeue, "can_wait_for", lambda task, node: False)
    site.commit(1)
    site.errors[1] = Misfit("an address that this node does not have", home="n9")
    assert site.climb() == 1
    assert Path(site.container.root, REQUEUED).read_text() == "JobId=7\nExcNodeList=n1\n"


def test_what_fails_alike(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """It would on every node: it is tried on two."""
    site.commit(1)
    site.errors[1] = NotRestored("CRIU could not restore c: Error: Can't open file")
    assert site.climb() == 1
    on(site, "n2")
    with pytest.raises(ShimError, match="could not be restored"):
        site.climb()
    assert site.requeued == [7]
    assert "failed alike on n1: another node would do no better" in capfd.readouterr().err


def test_what_nodes_refuse_alike(site: Site) -> None:
    """A third one may have the room."""
    site.commit(1)
    site.errors[1] = OSError(28, "No space left on device", "/run/x/stage")
    for node in ("n1", "n2"):
        on(site, node)
        assert site.climb() == 1
    assert site.requeued == [7, 7]


def test_what_fails_otherwise(site: Site) -> None:
    site.commit(1)
    for node in ("n1", "n2"):
        on(site, node)
        site.errors[1] = NotRestored(f"CRIU could not restore c: {node} is full")
        assert site.climb() == 1
    assert site.requeued == [7, 7]


@pytest.mark.parametrize(("made", "again"), [("n1", 1), ("n2", 1), ("n9", 2)])
def test_nodes_that_fit_alike_little(site: Site, made: str, again: int) -> None:
    """A third one may fit, unless the checkpoint was made on one of the two."""
    site.commit(1)
    path = Path(site.of(1, "manifest.json"))
    path.write_text(json.dumps(document.sealed({**json.loads(path.read_text()), "node": made})))
    site.errors[1] = Misfit("the container's mount /data has no source here: /data")
    assert site.climb() == 1
    on(site, "n2")
    if again == 1:
        with pytest.raises(ShimError, match="could not be restored"):
            site.climb()
    else:
        assert site.climb() == 1
    assert site.requeued == [7] * again


@pytest.mark.parametrize("text", ["", "{", "[]", '{"newest": 1}', '{"newest": 1, "tries": []}'])
def test_what_is_no_count(site: Site, text: str) -> None:
    site.commit(1)
    Path(site.store.path, "tries.json").write_text(text)
    assert site.climb() == LIFE
    assert json.loads(Path(site.store.path, "tries.json").read_text()) == {"newest": 1, "tries": 1}


@pytest.fixture
def source(site: Site) -> Store:
    """Another job's checkpoints."""
    made = Store(str(site.path), "5/batch.0")
    made.prepare()
    commit(made)
    commit(made)
    return made


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        *(("5", [2, 1]), ("5:1", [1]), ("4_3", [2, 1]), ("4_3:1", [1])),
        *(("{path}", [2, 1]), ("{path}/", [2, 1]), ("{path}/1", [1]), ("{job}", [2, 1])),
    ],
)
def test_restart_dir(site: Site, source: Store, value: str, wanted: list[int]) -> None:
    array = {"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "4", "SLURM_ARRAY_TASK_ID": "3"}
    history.History(Log(), str(site.path), Task(array)).note("started")
    value = value.format(path=source.path, job=os.path.dirname(source.path))
    found = ladder.sources(value, Task(site.environment), str(site.path))
    assert found == [os.path.join(source.path, str(seq)) for seq in wanted]


def test_restart_dir_where_the_job_has_noted(site: Site, tmp_path: Path) -> None:
    """A number is enough: the other job may have had a directory of its own."""
    other = Store(str(tmp_path / "other"), "9/batch.0")
    (tmp_path / "other").mkdir()
    other.prepare()
    commit(other)
    array = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "3"}
    pointers.note(Task(array), str(tmp_path / "other"), Log())
    pointers.note(Task({**array, "SLURM_CLUSTER_NAME": "else"}), str(tmp_path), Log())
    for value in ("9", "9:1", "8_3"):
        assert ladder.sources(value, Task(site.environment), str(site.path)) == [f"{tmp_path}/other/9/batch.0/1"]


@pytest.mark.parametrize("value", ["5", "5:1", "5:9"])
def test_what_the_other_job_has_instead(site: Site, source: Store, value: str) -> None:
    task = Task({**site.environment, "SLURM_STEP_ID": "0"})
    with pytest.raises(
        ShimError, match=f"^--restart-dir={value}: {site.path}/5 has none of step 0 task 0; it has batch.0$"
    ) as raised:
        ladder.sources(value, task, str(site.path))
    assert raised.value.hint == f"--restart-dir={source.path} names that one"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("6", "--restart-dir=6: there is no checkpoint in {}/6/batch.0"),
        ("5:9", "--restart-dir=5:9: {}/5/batch.0 has no checkpoint 9; it has 1, 2"),
        ("6:1", "--restart-dir=6:1: there is no checkpoint in {}/6/batch.0/1"),
        ("/no/where", "--restart-dir=/no/where: there is no checkpoint in /no/where"),
        ("/closed", "--restart-dir=/closed: /closed: Permission denied"),
        ("{}/file", "--restart-dir={0}/file: {0}/file: Not a directory"),
        ("4_3", "--restart-dir: job 4_3 has no history in {}"),
        ("4_", "--restart-dir=4_ is neither JOBID"),
        ("5:", "--restart-dir=5: is neither JOBID, nor JOBID:SEQ, nor an absolute path"),
        ("here", "--restart-dir=here is neither"),
        ("", "--restart-dir= is neither"),
    ],
)
def test_bad_restart_dir(site: Site, source: Store, monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    def closed(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    (site.path / "file").touch()
    if said.endswith("Permission denied"):  # which root never gets
        monkeypatch.setattr("oci_criu_shim.checkpoints.store.os.listdir", closed)
    with pytest.raises(ShimError) as raised:
        ladder.sources(value.format(site.path), Task(site.environment), str(site.path))
    assert str(raised.value).startswith(said.format(site.path))
    assert raised.value.hint


def test_restart_dir_of_somebody_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", closed)
    with pytest.raises(ShimError, match=r"--restart-dir=/home/bob/5: /home/bob/5: Permission denied") as raised:
        ladder.sources("/home/bob/5", Task(site.environment), str(site.path))
    assert raised.value.hint == "a checkpoint is for its owner alone"


def test_another_jobs_checkpoint_until_there_is_one(site: Site, source: Store) -> None:
    site.environment |= {"SLURM_RESTART_DIR": "5", "SLURM_RESTART_COUNT": "0"}
    before = sorted(Path(source.path).rglob("*"))
    site.errors[2] = NotRestored("no")
    assert site.climb() == LIFE
    assert site.begun == [os.path.join(source.path, seq) for seq in "21"]
    assert site.comments == [f"7 oci-criu-shim: restored from {source.path}/1: 2: no"]
    assert sorted(Path(source.path).rglob("*")) == before
    assert "CRIU's words" in (site.path / "history/7/batch.0.0.restore-2.log").read_text()
    site.commit(1)
    assert site.climb() == LIFE
    assert site.begun[-1] == site.of(1)


def test_another_jobs_checkpoints_are_none(site: Site, source: Store) -> None:
    site.environment |= {"SLURM_RESTART_DIR": "5", "SLURM_RESTART_COUNT": "0"}
    site.errors = {1: ShimError("damaged"), 2: ShimError("damaged")}
    with pytest.raises(ShimError, match="batch task 0 has nothing else in --restart-dir=5 to begin with"):
        site.climb()


def test_the_mark_asks_for_the_sites_feature(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.settings.feature = "alike"
    monkeypatch.setattr(config, "load", lambda: site.settings)
    requeue.mark(site.container.root, Task(site.environment), Log(), "n1")
    assert Path(site.container.root, REQUEUED).read_text() == "JobId=7\nExcNodeList=n1\nFeatures=alike\n"


def test_the_mark_of_a_job_that_is_expedited(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "job", lambda _, soon: seen(expedited=True))
    requeue.mark(site.container.root, Task(site.environment), Log(), "n1")
    assert Path(site.container.root, REQUEUED).read_text() == "JobId=7\nexpedited\nExcNodeList=n1\n"


def test_the_mark_of_another_task_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "job", lambda _, soon: seen())
    for exclude in ("n1", ""):
        requeue.mark(site.container.root, Task(site.environment), Log(), exclude)
    assert "ExcNodeList=n1\n" in (Path(site.container.root) / REQUEUED).read_text()


def test_the_mark_is_left_where_slurm_does_not_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> Any:
        raise ShimError("Unable to contact slurm controller")

    monkeypatch.setattr(controller, "job", silent)
    requeue.mark(site.container.root, Task(site.environment), Log(), "n1")
    assert Path(site.container.root, REQUEUED).read_text() == "JobId=7\n"


def test_a_mark_that_finds_no_room(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("oci_criu_shim.files.write_atomically", full)
    requeue.mark(site.container.root, Task(site.environment), Log())
    assert f"{site.container.root}/requeued can't be written: No space left on device" in capfd.readouterr().err
