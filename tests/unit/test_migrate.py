"""`job migrate` and `job receive`: what is refused, what they say to each other, and what becomes of what arrives."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim.checkpoints import committed, document
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.cli.invocation import Invocation
from oci_criu_shim.cli.job import checkpoint, migrate, receive
from oci_criu_shim.container import jobs, node_fit
from oci_criu_shim.container.record import ANSWER, MIGRATION, Container
from oci_criu_shim.errors import USAGE, Misfit, ShimError
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import CHECKPOINT
from oci_criu_shim.slurm import controller, srun
from oci_criu_shim.slurm.job import Job
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.task import own_steps
from oci_criu_shim.transfer import received
from oci_criu_shim.transfer.sender import Peer, Sender
from tests.unit.test_schema import full_manifest
from tests.unit.test_slurm import seen

Capture = pytest.CaptureFixture[str]
KEY = "12/batch.0"
PLACE = {"event": "listening", "node": "n2", "addresses": ["10.0.0.2"], "port": 4711, "token": "t"}
HERE = "job migrate --here 12"
LOOK = "job migrate --here --look 12"
RECEIVED = {"event": "received", "path": "/dev/shm/x/1", "bytes": 5 << 20}
TAKEN = {"taken": True, "said": "sent it"}


def lines(*documents: object) -> list[str]:
    return [each if isinstance(each, str) else json.dumps(each) for each in documents]


class Step:
    """A call of srun that says `lines`; it ends with `status`, once `over` is set."""

    def __init__(self, said: list[str], status: int = 0, over: threading.Event | None = None) -> None:
        self.said = said
        self.over = over
        self.pid = 1000 + status

    def listen(self, hear: Callable[[str], None]) -> int:
        for line in self.said:
            hear(line)
        if self.over:
            self.over.wait(30)
        return self.pid


class Cluster:
    """What Slurm says of job 12, which runs on n1, what its nodes do, and what they were told."""

    def __init__(self) -> None:
        self.part: dict[str, Any] = {"job": 12, "nodes": 1, "group": None}
        self.jobs = [seen()]
        self.plugin = ""
        self.waits = True
        self.steps: dict[str, Step] = {}
        self.over = threading.Event()
        self.receiver = Step(lines(PLACE), 0, self.over)
        self.given: list[str] = []
        self.allocated: list[str] = []
        self.killed: list[int] = []
        self.say(LOOK, {"bytes": 64 << 20, "required": ""})

    def say(self, words: str, *documents: object, status: int = 0) -> None:
        """Have a step of these words say so."""
        self.steps[words] = Step(lines(*documents), status)

    def job(self, number: int, soon: bool = False) -> Job:
        """The last look is what stays."""
        return self.jobs.pop(0) if self.jobs[1:] else self.jobs[0]

    def step(self, part: object, argv: list[str], given: str) -> Step:
        self.given.append(given)
        return self.steps[" ".join(argv[1:])]

    def allocate(self, words: list[str], argv: list[str]) -> Step:
        self.allocated += [*words, *argv[1:]]
        return self.receiver

    def kill(self, pid: int, number: int) -> None:
        assert number == signal.SIGTERM
        self.killed.append(pid)
        self.over.set()

    def migrates(self) -> None:
        """All goes well: the receiver has it, and the job runs there."""
        self.receiver.said += lines({"event": "receiving", "bytes": 1}, RECEIVED)
        self.over.set()
        self.say(HERE, TAKEN)
        self.jobs += [seen(states=["PENDING"], restarts=1), seen(restarts=1, batch_host="n2")]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster()
    monkeypatch.setattr(controller, "running", lambda _: [made.part])
    monkeypatch.setattr(controller, "job", made.job)
    monkeypatch.setattr(controller, "private_memory", lambda: made.plugin)
    monkeypatch.setattr(controller, "can_wait_for", lambda job, node, required: made.waits)
    monkeypatch.setattr(srun, "like", lambda name, memory: [f"--like={name}", f"--mem={memory >> 20}M"])
    monkeypatch.setattr(srun, "step", made.step)
    monkeypatch.setattr(srun, "allocate", made.allocate)
    monkeypatch.setattr(process, "wait", lambda pid: pid - 1000)
    monkeypatch.setattr(os, "kill", made.kill)
    monkeypatch.setattr(migrate, "PERIOD", 0.001)
    yield made
    made.over.set()
    for thread in threading.enumerate():
        if thread.name.endswith("(ask)"):
            thread.join(30)


def move(word: str = "12", *flags: str, **values: str) -> int:
    given = {**{flag: [] for flag in flags}, **{key: [value] for key, value in values.items()}}
    return migrate.migrate(Invocation("job migrate", {}, given, [word]))


def test_it_moves(cluster: Cluster, capsys: Capture) -> None:
    cluster.migrates()
    assert move("12", "json", to="n2") == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("seconds") >= found.pop("transfer") >= 0
    assert found == {"job": 12, "source": "n1", "to": "n2", "bytes": 64 << 20, "sent": 5 << 20}
    own = ["--immediate=60", "--job-name=migrate-12", "job", "receive", "12"]
    assert cluster.allocated == ["--like=12", "--mem=326M", "--nodelist=n2", *own]
    assert [json.loads(given) for given in cluster.given if given] == [{**PLACE, "precopy": False}]
    assert cluster.killed == []


@pytest.mark.parametrize(("precopy", "memory"), [("auto", "921M"), ("off", "819M")])
def test_much_memory_is_sent_while_it_runs(cluster: Cluster, precopy: str, memory: str) -> None:
    """And a little more of it, at most, than there is."""
    cluster.migrates()
    cluster.say(LOOK, {"bytes": 512 << 20, "required": ""})
    assert move("12", precopy=precopy) == 0
    assert f"--mem={memory}" in cluster.allocated
    assert [json.loads(given)["precopy"] for given in cluster.given if given] == [precopy == "auto"]


def test_a_precopy_that_is_none(cluster: Cluster) -> None:
    with pytest.raises(ShimError, match="--precopy is auto or off, not 'on'") as raised:
        move(precopy="on")
    assert raised.value.status == USAGE


def test_it_is_told_in_words(cluster: Cluster, capsys: Capture) -> None:
    cluster.migrates()
    assert move() == 0
    said = capsys.readouterr().out
    assert said.startswith("job 12 goes on on n2 (")
    assert " s for 5.0 MiB of 64.0 MiB memory, " in said


def test_one_that_ends_as_soon_as_it_is_there(cluster: Cluster) -> None:
    cluster.migrates()
    cluster.jobs[-1] = seen(states=["COMPLETED"], restarts=1)
    assert move() == 0


def test_any_node_but_those_that_the_job_leaves_out(cluster: Cluster) -> None:
    cluster.jobs = [seen(excluded_nodes="n[4-5]")]
    cluster.migrates()
    assert move() == 0
    assert "--exclude=n1,n[4-5]" in cluster.allocated


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": False}, "job 12 can't migrate: Slurm would not start it again, since it has no batch script"),
        ({"requeue": False}, "since it was submitted with --no-requeue, or the site requeues none"),
        ({"preempt_time": 9}, "job 12 is being preempted, and goes on elsewhere by itself"),
        ({"batch_host": "n2"}, "job 12 runs on n2 already"),
    ],
)
def test_jobs_that_are_refused(cluster: Cluster, change: dict[str, Any], said: str) -> None:
    cluster.jobs = [seen(**change)]
    with pytest.raises(ShimError, match=said):
        move(to="n2")
    assert (cluster.allocated, cluster.given) == ([], [])


def test_a_job_of_several_nodes(cluster: Cluster) -> None:
    cluster.part["nodes"] = 3
    with pytest.raises(ShimError, match="job 12 runs on 3 nodes; only a job on one node can migrate"):
        move()


def test_a_part_of_a_job(cluster: Cluster) -> None:
    cluster.part["group"] = 1
    with pytest.raises(ShimError, match="job 12 is a part of a heterogeneous job, and can't migrate by itself"):
        move()


def test_a_cluster_where_each_job_has_its_own_memory(cluster: Cluster) -> None:
    cluster.plugin = "namespace/tmpfs"
    with pytest.raises(ShimError, match=r"each job has a /dev/shm of its own on this cluster \(namespace/tmpfs\)") as e:
        move()
    assert e.value.hint.startswith("`oci-criu-shim job checkpoint 12`, then `scontrol requeue 12`")


def test_a_node_that_the_job_can_not_run_on(cluster: Cluster) -> None:
    cluster.waits = False
    with pytest.raises(ShimError, match="job 12 can't run on n9"):
        move(to="n9")
    assert cluster.allocated == []


def test_a_job_that_has_to_be_where_it_is(cluster: Cluster) -> None:
    cluster.say(LOOK, {"bytes": 1, "required": "n1"})
    with pytest.raises(ShimError, match="job 12 can't migrate: it was submitted to run on n1"):
        move()
    assert cluster.allocated == []


def test_a_wait_that_is_none(cluster: Cluster) -> None:
    with pytest.raises(ShimError, match="--wait is a time such as 60s or 5m, not 'soon'") as raised:
        move(wait="soon")
    assert raised.value.status == USAGE


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (["a prolog's", "oci-criu-shim: error: job 12 has no container", "srun: error: n1"], "job 12 has no container"),
        (["srun: error: Unable to create step"], "srun: error: Unable to create step"),
        ([], "srun failed, and does not say why"),
    ],
)
def test_the_job_has_no_container(cluster: Cluster, said: list[str], wanted: str) -> None:
    cluster.say(LOOK, *said, status=1)
    with pytest.raises(ShimError) as raised:
        move()
    assert str(raised.value) == wanted


def test_no_node_is_free(cluster: Cluster) -> None:
    cluster.receiver = Step(["srun: error: Unable to allocate resources: Immediate execution impossible"], 1)
    with pytest.raises(ShimError, match="no node for the job is free now: srun: error: Unable to allocate") as raised:
        move()
    assert raised.value.hint == "--wait=10m waits longer"
    assert cluster.killed == []


def test_the_receiver_refuses(cluster: Cluster) -> None:
    failed = {"event": "failed", "error": "this node's processor lacks avx2", "hint": "another node"}
    cluster.receiver.said += lines(failed)
    cluster.steps[HERE] = Step([], 0, cluster.over)
    with pytest.raises(ShimError, match="job 12 runs on: this node's processor lacks avx2") as raised:
        move()
    assert raised.value.hint == "another node"
    assert cluster.killed == [1000]


def test_the_receiver_dies(cluster: Cluster) -> None:
    cluster.receiver = Step(lines(PLACE, "slurmstepd: error: *** CANCELLED ***"), 1)
    cluster.steps[HERE] = Step([], 0, cluster.over)
    with pytest.raises(ShimError, match=r"job 12 runs on: what was to receive it has ended: .*CANCELLED"):
        move()
    cluster.over.set()


def test_the_dump_fails(cluster: Cluster) -> None:
    cluster.say(HERE, {"taken": False, "said": "it could not be checkpointed and runs on: no"}, status=1)
    with pytest.raises(ShimError, match="it could not be checkpointed and runs on: no"):
        move()
    assert cluster.killed == [1000]


def test_the_job_can_not_be_asked(cluster: Cluster) -> None:
    cluster.say(HERE, "oci-criu-shim: error: container c is migrating already", status=1)
    with pytest.raises(ShimError, match="job 12 runs on: container c is migrating already"):
        move()
    assert cluster.killed == [1000]


def test_it_runs_on_although_all_has_arrived(cluster: Cluster) -> None:
    """The answer was lost, say: the receiver holds its node for nothing."""
    cluster.receiver.said += lines(RECEIVED)
    cluster.say(HERE, {"taken": False, "said": "it runs on: the connection to n2 is broken"}, status=1)
    with pytest.raises(ShimError, match="it runs on: the connection to n2 is broken"):
        move()
    assert cluster.killed == [1000]


class Late(Step):
    """A receiver that says what has come no sooner than `over` is set."""

    def __init__(self, over: threading.Event) -> None:
        super().__init__(lines({"event": "receiving", "bytes": 1}, PLACE), 0, over)
        self.has_said = threading.Event()

    def listen(self, hear: Callable[[str], None]) -> int:
        pid = super().listen(hear)
        hear(json.dumps(RECEIVED))
        self.has_said.set()
        return pid


@pytest.mark.parametrize("answers", [[], [{"taken": None, "said": "container c has ended"}]])
def test_nobody_can_say_what_came_of_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, answers: list[object]
) -> None:
    """The job has gone, and what knew of it ended with it before it could say so: what has arrived tells."""
    cluster.migrates()
    cluster.say(HERE, *answers, status=1)
    cluster.over.clear()
    cluster.receiver = late = Late(cluster.over)

    def sleep(seconds: float) -> None:
        if seconds == migrate.LAG:
            cluster.over.set()
            late.has_said.wait(30)

    monkeypatch.setattr(time, "sleep", sleep)
    assert move() == 0
    assert cluster.killed == []


def test_it_has_ended_before_anything_was_sent(cluster: Cluster) -> None:
    cluster.say(HERE, {"taken": None, "said": "container c has ended"}, status=1)
    with pytest.raises(ShimError, match="job 12 runs on: container c has ended"):
        move()
    assert cluster.killed == [1000]


def test_it_does_not_begin_there(cluster: Cluster) -> None:
    """The receiver has its memory, and ends by itself."""
    cluster.migrates()
    cluster.jobs = [seen(), seen(states=["PENDING"], restarts=1)]
    with pytest.raises(ShimError, match="job 12 has left n1, and does not run on n2 yet") as raised:
        move(wait="0s")
    assert "squeue --job=12" in raised.value.hint
    assert cluster.killed == []


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    """That of job 12 on this node, which this process supervises."""
    made = Container(str(tmp_path / "run"), "c")
    made.reserve()
    environment = ["SLURM_JOB_ID=12", "SLURM_CHECKPOINT=preempt", f"SLURM_CHECKPOINT_DIR={tmp_path}"]
    about = {"bundle": "/b", "config": {"process": {"env": environment}}}
    made.save({**about, "supervisor": process.identity(os.getpid()), "init": process.identity(os.getpid())})  # type: ignore[typeddict-item]
    monkeypatch.setattr(migrate, "run_directory", lambda _: str(tmp_path / "run"))
    monkeypatch.setattr(jobs, "asked", lambda _: iter([made]))
    monkeypatch.setattr(own_steps, "are_there", lambda *_: False)
    monkeypatch.setattr(controller, "job", lambda _: seen(required_nodes="n1"))
    return made


def test_what_it_has(container: Container, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "memory", lambda _: 77)
    assert move("12", "here", "look") == 0
    assert json.loads(capsys.readouterr().out) == {"bytes": 77, "required": "n1"}


@pytest.mark.parametrize("taken", [True, False])
def test_it_is_asked_for(container: Container, monkeypatch: pytest.MonkeyPatch, capsys: Capture, taken: bool) -> None:
    Path(container.path(ANSWER)).write_text("0 an older one")
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(PLACE)))

    def kill(pid: int, number: int) -> None:
        """Do what the supervisor does."""
        assert (pid, number) == (os.getpid(), CHECKPOINT)
        assert json.loads(Path(container.path(MIGRATION)).read_text()) == PLACE
        assert not Path(container.path(ANSWER)).exists()
        Path(container.path(ANSWER)).write_text("0 sent" if taken else "4 it runs on")
        os.unlink(container.path(MIGRATION))

    monkeypatch.setattr(os, "kill", kill)
    assert move("12", "here") == int(not taken)
    assert json.loads(capsys.readouterr().out) == {"taken": taken, "said": "sent" if taken else "it runs on"}
    assert [name for name in os.listdir(container.directory) if name.startswith(MIGRATION)] == []


def test_its_answer_has_gone(container: Container, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """With the container, which has migrated."""
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(PLACE)))
    monkeypatch.setattr(os, "kill", lambda *_: shutil.rmtree(container.directory))
    assert move("12", "here") == 1
    assert json.loads(capsys.readouterr().out) == {"taken": None, "said": "container c has ended"}


def test_it_is_migrating_already(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked may have been killed before he said so."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    monkeypatch.setattr("sys.stdin", io.StringIO("{}"))
    Path(container.path(MIGRATION)).write_text("another's")
    with pytest.raises(ShimError, match="container c is migrating already"):
        move("12", "here")
    assert sent == [CHECKPOINT]
    assert Path(container.path(MIGRATION)).read_text() == "another's"
    assert [name for name in os.listdir(container.directory) if name.startswith(MIGRATION)] == [MIGRATION]


def test_several_containers(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "asked", lambda _: iter([container, container]))
    with pytest.raises(ShimError, match="job 12 has 2 containers, and can't migrate with several: c, c"):
        move("12", "here", "look")


def test_a_script_whose_steps_are_checkpointed_is_none(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_steps, "are_there", lambda *_: True)
    with pytest.raises(ShimError, match="job 12 has no container to be checkpointed") as raised:
        move("12", "here", "look")
    assert raised.value.hint == checkpoint.START


class Handing:
    """A checkpoint of job 12 in memory, and what Slurm says of the job, one look after the other."""

    def __init__(self, directory: Path) -> None:
        self.path = received.make(str(directory), KEY, 3)
        Path(self.path, "checkpoint/core-1.img").write_text("core")
        manifest: Any = {**full_manifest(files={"checkpoint/core-1.img": 4}), "sha256": {}}
        Path(self.path, committed.MANIFEST).write_text(json.dumps(document.sealed(manifest)))
        self.store = Store(str(directory), KEY)
        self.store.prepare()
        self.hello: Any = {"directory": str(directory), "task": KEY, "required": "n[1-4]"}
        self.looks: list[Any] = []
        self.required: list[tuple[int, str]] = []

    def state_of(self, number: int) -> tuple[str, str]:
        assert number == 12
        look = self.looks.pop(0)
        if callable(look):
            look()
            look = ("RUNNING", "None")
        if isinstance(look, Exception):
            raise look
        return look  # type: ignore[no-any-return]

    def over(self, *looks: Any) -> tuple[bool, list[int]]:
        """Hand it over; return whether it still waits in memory, and the numbers of what is in the store."""
        self.looks = list(looks)
        receive._hand_over(12, self.path, self.hello)
        assert self.looks == []
        return received.is_waiting(self.path), self.store.numbers()


@pytest.fixture
def handing(memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handing:
    made = Handing(tmp_path)
    monkeypatch.setattr(controller, "state_of", made.state_of)
    monkeypatch.setattr(controller, "require", lambda number, nodes: made.required.append((number, nodes)))
    monkeypatch.setattr(receive, "PERIOD", 0)
    return made


RUNS, ENDS = ("RUNNING", "None"), ("COMPLETING", "None")
NO_ANSWER = ShimError("squeue: Unable to contact slurm controller")


@pytest.mark.parametrize("reason", ["BeginTime", "None", "Resources", "ReqNodeNotAvail, Reserved for maintenance"])
def test_the_job_can_begin_here(handing: Handing, reason: str) -> None:
    """Once this one has ended."""
    assert handing.over(RUNS, ENDS, ("PENDING", reason)) == (True, [])


@pytest.mark.parametrize(
    "state",
    [*(("PENDING", reason) for reason in receive.LATER), ("REQUEUE_HOLD", "None"), ("SPECIAL_EXIT", "None")],
)
def test_the_job_will_not_begin_soon(handing: Handing, memory: Path, capsys: Capture, state: tuple[str, str]) -> None:
    assert handing.over(RUNS, state) == (False, [3])
    assert json.loads(capsys.readouterr().out) == {"event": "kept", "path": f"{handing.store.path}/3"}
    assert os.listdir(memory) == []
    assert handing.required == ([(12, "n[1-4]")] if state[0] == "PENDING" else [])


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETED"])
def test_nobody_needs_it(handing: Handing, memory: Path, state: str) -> None:
    assert handing.over(RUNS, (state, "None")) == (False, [])
    assert os.listdir(memory) == []


@pytest.mark.parametrize("look", [RUNS, ENDS, ("", ""), NO_ANSWER])
def test_the_job_is_not_requeued_in_time(
    handing: Handing, memory: Path, monkeypatch: pytest.MonkeyPatch, look: Any
) -> None:
    """No node is held for long."""
    monkeypatch.setattr(receive, "PATIENCE", -1)
    assert handing.over(look) == (False, [3])
    assert os.listdir(memory) == []


@pytest.mark.parametrize("state", ["FAILED", "TIMEOUT", "NODE_FAIL"])
def test_slurm_has_not_requeued_the_job(handing: Handing, memory: Path, state: str) -> None:
    """Another job can go on from it."""
    assert handing.over(RUNS, (state, "None")) == (False, [3])
    assert os.listdir(memory) == []


@pytest.mark.parametrize("state", ["SUSPENDED", "STOPPED", "CONFIGURING", "REQUEUED", "SIGNALING", "RESIZING"])
def test_what_is_no_end(handing: Handing, state: str) -> None:
    """Nothing is lost, whatever it means."""
    assert handing.over((state, "None")) == (False, [3])


def test_slurm_does_not_answer(handing: Handing) -> None:
    """That may not cost the only checkpoint that there is."""
    assert handing.over(RUNS, NO_ANSWER, NO_ANSWER, ENDS, ("PENDING", "BeginTime")) == (True, [])


def test_the_job_has_taken_it_over(handing: Handing) -> None:
    assert handing.over(RUNS, lambda: received.take_over(KEY)) == (False, [])


def test_it_can_not_be_kept(handing: Handing, monkeypatch: pytest.MonkeyPatch) -> None:
    """This job's epilog removes it, a while later."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        handing.over(("PENDING", "Priority"))
    assert received.is_waiting(handing.path)
    assert handing.store.numbers() == []


@pytest.mark.parametrize(
    ("look", "kept"),
    [
        (("PENDING", "Resources"), True),
        (ENDS, True),
        (("FAILED", "None"), True),
        (NO_ANSWER, True),
        (RUNS, False),  # wherever that is, it has gone on from something else
        (("CANCELLED", "None"), False),
        (("COMPLETED", "None"), False),
        (("", ""), True),
    ],
)
def test_what_the_epilog_finds_is_kept(handing: Handing, look: Any, kept: bool) -> None:
    """As when another job has the node by now."""
    handing.looks = [look]
    base = os.path.dirname(handing.path)
    assert receive.receive(Invocation("job receive", {}, {"keep": [base]}, ["12"])) == 0
    assert handing.store.numbers() == [3] * kept


@pytest.mark.parametrize(
    ("hook", "whole", "called"), [("epilog", True, True), ("epilog", False, False), ("prolog", True, True)]
)
def test_the_epilog_has_it_kept(tmp_path: Path, handing: Handing, hook: str, whole: bool, called: bool) -> None:
    """It tells of the job that the name of the directory has, and removes the memory in any case."""
    base = os.path.dirname(handing.path)
    run = tmp_path / "run"
    run.mkdir()
    RunDirectory(str(run)).note_received(base)
    if not whole:
        os.remove(Path(handing.path, committed.MANIFEST))
    for name, text in (("runtime", 'echo "$@" >"$0.ran"'), ("sleep", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = (Path(__file__).parents[2] / "spank/rundir.sh").read_text()
    words = [hook, str(run), "JobId=99", "requeued", "scontrol", str(tmp_path / "runtime")]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["/bin/sh", "-p", "-c", script, "sh", *words], env=environment, check=True)
    ran = tmp_path / "runtime.ran"
    assert (ran.read_text() if ran.exists() else "") == (f"job receive --keep={base} -- 12\n" if called else "")
    assert not os.path.exists(base)


def said_by(directory: Path, **changes: object) -> Any:
    """What a sender says first."""
    known = {"token": "", "task": KEY, "directory": str(directory), "seq": 3, "bytes": 1000, "node": "n1"}
    return {**known, "criu": "4.1", "needs": {}, **changes}


def test_what_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    monkeypatch.setattr(node_fit, "check", looked.append)
    (tmp_path / "12").mkdir()
    hello = said_by(tmp_path)
    receive._accept(12, hello)
    assert looked == [hello]


@pytest.mark.parametrize("task", ["13/batch.0", "120/batch.0", "", "/12"])
def test_what_is_another_jobs(tmp_path: Path, task: str) -> None:
    with pytest.raises(ShimError, match=f"this is for job 12, not for {task}"):
        receive._accept(12, said_by(tmp_path, task=task))


def test_nodes_that_share_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ShimError, match=f"there is no {tmp_path}/12 on ") as raised:
        receive._accept(12, said_by(tmp_path))
    assert "share its --checkpoint-dir" in raised.value.hint


def test_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(_: object) -> None:
        raise Misfit("this node's processor lacks avx2")

    monkeypatch.setattr(node_fit, "check", check)
    (tmp_path / "12").mkdir()
    with pytest.raises(Misfit, match="lacks avx2"):
        receive._accept(12, said_by(tmp_path))


class Receiving:
    """`job receive 12`, in a thread; what it says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[dict[str, Any]] = []
        self.listens = threading.Event()
        self.status: int | None = None
        monkeypatch.setattr(receive, "_tell", self.tell)
        monkeypatch.setattr(receive, "signal", SimpleNamespace(SIGTERM=15, signal=lambda *_: None))
        monkeypatch.setattr(controller, "addresses", lambda node: ["127.0.0.1"])
        monkeypatch.setenv("SLURMD_NODENAME", "n2")
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        self.listens.wait(30)

    def tell(self, event: str, **facts: Any) -> None:
        if event != "receiving":
            self.said.append({"event": event, **facts})
            self.listens.set()

    def run(self) -> None:
        self.status = receive.receive(Invocation("job receive", {}, {}, ["12"]))

    def ended(self) -> tuple[int | None, list[str]]:
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.status, [said["event"] for said in self.said]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run directory of the receiver's own job, 99."""
    (tmp_path / "12").mkdir()
    path = tmp_path / "run99"
    path.mkdir()
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    monkeypatch.setattr(receive, "run_directory", lambda job: str(path))
    monkeypatch.setattr(node_fit, "check", lambda _: None)
    return path


def connect(receiving: Receiving, directory: Path, **changes: object) -> Sender:
    place: Any = receiving.said[0]
    assert place["node"] == "n2"
    return Sender(place, said_by(directory, **changes))


def test_it_receives(tmp_path: Path, memory: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "state_of", lambda _: ("PENDING", "BeginTime"))
    receiving = Receiving(monkeypatch)
    to = connect(receiving, tmp_path)
    with Peer(to).stage() as stage:
        stage.describe({"ociVersion": "1.0.2"}, {"id": "x"}, [])
        draft: Any = {key: value for key, value in full_manifest().items() if key not in ("sha256", "checksum")}
        sent = stage.commit(draft | {"files": stage.sizes(), "bytes": 5})
    assert receiving.ended() == (0, ["listening", "received"])
    (link,) = own.glob("received.*")
    assert receiving.said[1]["path"] == sent.path
    assert committed.read(sent.path).seq == 3
    assert os.readlink(link) == os.path.dirname(sent.path)


def test_the_job_is_not_sent_after_all(
    tmp_path: Path, memory: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiving = Receiving(monkeypatch)
    connect(receiving, tmp_path).give_up("CRIU could not dump it")
    assert receiving.ended() == (1, ["listening", "failed"])
    assert receiving.said[1]["error"] == "CRIU could not dump it"
    assert os.listdir(memory) == []


def test_the_job_is_refused(tmp_path: Path, memory: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiving = Receiving(monkeypatch)
    with pytest.raises(ShimError, match="n2: this is for job 12, not for 13/batch"):
        connect(receiving, tmp_path, task="13/batch.0")
    assert receiving.ended() == (1, ["listening", "failed"])
    assert list(own.iterdir()) == []


def test_it_is_ended_just_when_it_says_that_it_has_all(
    tmp_path: Path, memory: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender relies on it: what has arrived stays, for the epilog."""
    from oci_criu_shim.transfer.receiver import Receiver
    from oci_criu_shim.transfer.stream import Connection

    said, send_line = list[object](), Connection.send_line

    def ended(self: Connection, words: Any) -> None:
        send_line(self, words)
        if "path" in words:
            said.append(words["path"])
            raise SystemExit(1)

    receiver = Receiver(lambda _: None)

    def run() -> None:
        with pytest.raises(SystemExit):
            receiver.receive()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    place: Any = {"node": "n2", "addresses": ["127.0.0.1"], "port": receiver.port, "token": receiver.token}
    with Peer(Sender(place, said_by(tmp_path))).stage() as stage:
        monkeypatch.setattr(Connection, "send_line", ended)
        stage.describe({"ociVersion": "1.0.2"}, {"id": "x"}, [])
        draft: Any = {key: value for key, value in full_manifest().items() if key not in ("sha256", "checksum")}
        sent = stage.commit(draft | {"files": stage.sizes(), "bytes": 5})
    thread.join(30)
    assert said == [sent.path]
    assert received.is_waiting(sent.path)
