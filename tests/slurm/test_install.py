"""What README.md and docs/ tell an admin and a user to type, typed on a plain cluster.

The code blocks are taken from the pages. Only what a page leaves to its reader is put in: the image, the job's number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle

import pytest

from tests import NAME
from tests.harness import image, jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.settings import CONTROLLER
from tests.harness.pages import DOCS, OTHERS, README, block, blocks, matching, messages

INSTALL, BUNDLES = DOCS / "install.md", DOCS / "bundle.md"
SOURCE = "/shared/oci-criu-shim"
COPY = f"mkdir {SOURCE} && tar -C /src --exclude=.git --exclude=.venv --exclude=build -c . | tar -C {SOURCE} -x"
LIBRARY = "/usr/lib/oci-criu-shim"
PARTITIONS = "PartitionName=low Nodes=ALL Default=YES\nPartitionName=high Nodes=ALL\n"
RELOAD = "scontrol reconfigure\n"  # Cluster.reconfigure() waits for its end, too
# Its root file system is a directory of alice's, in which a test says when it is enough.
DONE = "/home/alice/{bundle}/rootfs/done"
COUNT = "#!/bin/sh\ni=0\nwhile [ ! -e /done ]; do i=$((i+1)); echo step $i; sleep 0.5; done\necho done\n"
# Of this machine's disk: whether all nodes share alice's home, and how much is free.
UNSURE = {"checkpoint-dir", "free space"}


def on(cluster: Cluster, node: str, script: str, user: str = "alice", cwd: str | None = None) -> str:
    """Run a block as it stands; return its output and errors. Raise ClusterError if a command fails."""
    return cluster.exec(node, ["sh", "-ec", f"exec 2>&1\n{script}"], user, cwd=cwd).stdout


def everywhere(cluster: Cluster, script: str) -> None:
    """Run a block as root on all hosts, where the source is: what the first has compiled is there for the others."""
    for node in cluster.all_nodes():
        on(cluster, node, script, "root", SOURCE)


def without(conf: str, snippet: str) -> str:
    """Return the lines of a slurm.conf whose settings are none of a snippet's."""
    keys = {line.partition("=")[0] for line in snippet.splitlines()}
    return "".join(line for line in conf.splitlines(keepends=True) if line.partition("=")[0] not in keys)


@pytest.fixture(scope="module")
def plain() -> Iterator[Cluster]:
    """A cluster that has never heard of the project, nor of preemption."""
    with Cluster(f"{NAME}-install", install=False, oci_conf="", slurm_conf=("MaxBatchRequeue=5",)) as running:
        conf = running.conf / "slurm.conf"
        conf.write_text(without(conf.read_text(), block(README, "Install", "PreemptType")) + PARTITIONS)
        for name in ("oci.conf", "plugstack.conf"):
            (running.conf / name).unlink()
        running.reconfigure()
        on(running, CONTROLLER, COPY, "root")
        yield running


@pytest.fixture(scope="module")
def installed_cluster(plain: Cluster) -> Cluster:
    """README's "Install", step by step."""
    host, site, last, settings = blocks(README, "Install")
    everywhere(plain, host)
    for _ in range(2):  # whoever does it on each host does it again in the shared directory
        on(plain, "n1", site, "root")
    assert (plain.conf / "plugstack.conf").read_text().count("\nrequired ") == 1
    conf = plain.conf / "slurm.conf"
    conf.write_text(without(conf.read_text(), settings) + settings)
    assert last == f"{RELOAD}oci-criu-shim doctor\n"
    plain.reconfigure()
    for node in plain.all_nodes():
        for user in ("root", "alice"):
            on(plain, node, "oci-criu-shim doctor", user)  # status 0: nothing has failed
            assert wrong(plain, node, user) == {}
    return plain


def doctor(cluster: Cluster, node: str = "n1", user: str = "alice") -> dict[str, dict[str, str]]:
    """The doctor's results by name."""
    done = cluster.exec(node, ["oci-criu-shim", "doctor", "--json"], user, check=False)
    return {result["name"]: result for result in json.loads(done.stdout)}


def wrong(cluster: Cluster, node: str = "n1", user: str = "alice") -> dict[str, dict[str, str]]:
    """The doctor's warnings and failures."""
    found = doctor(cluster, node, user)
    return {
        name: result
        for name, result in found.items()
        if result["status"] not in ("ok", "skipped") and name not in UNSURE
    }


@pytest.fixture(scope="module")
def bundle(installed_cluster: Cluster) -> str:
    """README's bundle."""
    exported, rest = block(README, "Use", "podman").split("\n", 1)
    image.export(installed_cluster, exported)
    on(installed_cluster, "ctl", rest)
    return "/home/alice/bundle"


@dataclass
class Counting:
    """A job that counts until it is told that it is enough."""

    cluster: Cluster
    number: str

    def output(self) -> str:
        return on(self.cluster, CONTROLLER, f"cat slurm-{self.number}.out 2>/dev/null || :")

    def shown(self, key: str) -> str:
        """Return what Slurm says of the job."""
        shown = on(self.cluster, CONTROLLER, f"scontrol show job {self.number}")
        return str(re.findall(rf"\b{key}=(\S*)", shown)[0])

    def counted(self) -> list[int]:
        return [int(step) for step in re.findall(r"^step (\d+)$", self.output(), re.MULTILINE)]

    def wait_for(self, text: str) -> None:
        """Wait until the output has this text. Raise AssertionError if the job ends before."""

        def there() -> bool:
            ended = self.shown("JobState") in jobs.ENDED
            found = text in self.output()
            assert found or not ended, self.output()
            return found

        wait_for(there, 60, f"{text!r} in the output of job {self.number}")

    def finish(self, bundle: str = "bundle") -> None:
        """Tell it, by its bundle, that it is enough, and wait for its end."""
        done = DONE.format(bundle=bundle)
        on(self.cluster, CONTROLLER, f"touch {done}")
        self.wait_end()
        on(self.cluster, CONTROLLER, f"rm {done}")

    def wait_end(self) -> None:
        wait_for(lambda: self.shown("JobState") in jobs.ENDED, 30, f"job {self.number} to end")

    def preempt(self) -> None:
        """Have a job of the other partition take its node, and wait until it goes on on the other one."""
        node = self.shown("NodeList")
        words = f"sbatch --parsable -p high -w {node} --exclusive --output=/dev/null --wrap 'sleep 600' 2>/dev/null"
        high = on(self.cluster, CONTROLLER, words)
        self.wait_for(f"{jobs.MARK}restored ")
        on(self.cluster, CONTROLLER, f"scancel {high}")
        assert self.shown("NodeList") != node
        self.wait_for(f"step {max(self.counted()) + 2}\n")


def submit(cluster: Cluster, *edits: tuple[str, str]) -> tuple[Counting, str]:
    """Type README's lines as alice, with some words replaced; return the job, and the line that checkpoints it."""
    cluster.exec(CONTROLLER, ["tee", "job.sh"], input=COUNT)
    typed = block(README, "Use", "sbatch ")
    for old, new in edits:
        assert old in typed
        typed = typed.replace(old, new)
    submission, request = typed.rsplit("\n", 2)[:2]
    [number] = re.findall(r"Submitted batch job (\d+)", on(cluster, CONTROLLER, submission))
    return Counting(cluster, number), request.replace("JOBID", number)


def survives(cluster: Cluster, name: str = "bundle", meanwhile: Callable[[], None] = lambda: None) -> str:
    """A job in a bundle is checkpointed on request, preempted, and loses nothing; return its output."""
    job, request = submit(cluster, ("/bundle", f"/{name}"))
    job.wait_for("step 2\n")
    meanwhile()
    assert f"checkpointed job {job.number} step batch task 0 (request)" in on(cluster, CONTROLLER, request)
    job.preempt()
    job.finish(name)
    assert job.counted() == list(range(1, max(job.counted()) + 1)), job.output()
    assert (job.shown("JobState"), job.shown("Restarts")) == ("COMPLETED", "1"), job.output()
    return job.output()


def test_as_written(installed_cluster: Cluster, bundle: str) -> None:
    """The lines that are neither the job's nor ours are explained."""
    output = survives(installed_cluster)
    others = [line for line in output.splitlines() if not line.startswith(("step ", "done", jobs.MARK))]
    known = [matching(message) for message in messages(OTHERS)]
    assert others
    assert [line for line in others if not any(message.search(f"{line} ") for message in known)] == []


def test_changed_bundle(installed_cluster: Cluster, bundle: str) -> None:
    """All that docs/bundle.md shows, with runc."""
    on(installed_cluster, CONTROLLER, "cp -a bundle changed")
    for heading in ("Writing to the root file system", "Files of yours", "The network", "For runc"):
        [change] = blocks(BUNDLES, heading)
        on(installed_cluster, CONTROLLER, change, cwd="/home/alice/changed")
    with edited(installed_cluster, "oci.conf", "cp /etc/oci-criu-shim/oci.conf.d/runc-run.conf"):
        survives(installed_cluster, "changed")


def test_own_number(installed_cluster: Cluster, bundle: str) -> None:
    """docs/bundle.md has the user be the user inside."""
    on(installed_cluster, CONTROLLER, "cp -a bundle own")
    [change] = blocks(BUNDLES, "Your own number")
    on(installed_cluster, CONTROLLER, change, cwd="/home/alice/own")
    assert '"uid": 1000' in on(installed_cluster, CONTROLLER, "cat own/config.json")
    survives(installed_cluster, "own")


def test_a_host_without_the_plugin(installed_cluster: Cluster) -> None:
    """From there nothing can be submitted, as `required` says."""
    with lacking(installed_cluster, "oci_criu_shim_spank.so", CONTROLLER):
        output = on(installed_cluster, CONTROLLER, "sbatch --wrap hostname || :")
    assert "Submitted" not in output
    assert [message for message in messages(OTHERS) if matching(message).search(output)], output


def test_upgrade(installed_cluster: Cluster, bundle: str) -> None:
    """While a job runs, which neither is harmed nor loses its protection."""
    host, reloaded = blocks(INSTALL, "Upgrading")

    def upgrade() -> None:
        everywhere(installed_cluster, host)
        assert reloaded == RELOAD
        installed_cluster.reconfigure()

    survives(installed_cluster, meanwhile=upgrade)


def test_the_line_twice(installed_cluster: Cluster, bundle: str) -> None:
    """doctor sees it, and jobs are as safe as with one line."""
    with edited(installed_cluster, "plugstack.conf", "cat /usr/share/oci-criu-shim/plugstack.conf >>"):
        installed_cluster.reconfigure()
        for user in ("root", "alice"):
            assert wrong(installed_cluster, "n1", user)["plugstack.conf"]["status"] == "failed"
        survives(installed_cluster)


def test_before_the_reload(installed_cluster: Cluster, bundle: str) -> None:
    """The line is there, and slurmd has not looked at it: doctor and the job say what to do."""
    on(installed_cluster, "n1", blocks(INSTALL, "Uninstalling")[0], "root")
    installed_cluster.reconfigure()
    on(installed_cluster, "n1", blocks(README, "Install")[1], "root")
    try:
        assert wrong(installed_cluster, "n1", "root")["slurmd"]["status"] == "failed"
        job, _ = submit(installed_cluster)
        job.wait_end()
        assert re.search(r"had not loaded the plugin.*scontrol reconfigure", job.output()), job.output()
    finally:
        installed_cluster.reconfigure()


def test_missing_parts(installed_cluster: Cluster) -> None:
    """doctor names whatever is missing in the program's directory, to root or to a user."""
    found = f"find {LIBRARY} -maxdepth 2 -type f -not -path '*/*_*/*' -printf '%P\\n'"
    names = on(installed_cluster, "n1", found, "root").split()
    assert {"helper", "watcher", "worker.py", "oci_criu_shim_spank.so"} < set(names)
    unseen = [
        (name, user) for name, user in zip(names, cycle(("root", "alice"))) if not missed(installed_cluster, name, user)
    ]
    assert unseen == []


@contextmanager
def lacking(cluster: Cluster, name: str, node: str = "n1") -> Iterator[None]:
    """Have a host without a file in the program's directory."""
    path = f"{LIBRARY}/{name}"
    on(cluster, node, f"mv {path} {path}.away", "root")
    try:
        yield
    finally:
        on(cluster, node, f"mv {path}.away {path}", "root")


def missed(cluster: Cluster, name: str, user: str) -> bool:
    """Return whether doctor fails on a node that lacks a file, and names it."""
    with lacking(cluster, name):
        found = wrong(cluster, "n1", user).values()
    return any(name in result["found"] for result in found if result["status"] == "failed")


@pytest.mark.parametrize("names", [("helper",), ("watcher", "worker.py", "criu_preload.so", "criu_restart.so")])
def test_a_job_says_what_is_missing(installed_cluster: Cluster, bundle: str, names: tuple[str, ...]) -> None:
    """At its start, not when it is preempted; it runs all the same."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(lacking(installed_cluster, name))
        job, _ = submit(installed_cluster, ("sbatch ", "sbatch -w n1 "))
        job.wait_for(f"n1 can't checkpoint job {job.number}")
        job.wait_for("step 2\n")
        job.finish()
    [lacks] = re.findall(r"can't checkpoint .*lacks ([^(;]*) \(hint: `make install`", job.output())
    assert set(lacks.split(", ")) == set(names), job.output()


def test_uninstall(installed_cluster: Cluster) -> None:
    """In reverse order; Slurm runs jobs as if nothing had been, and only what is the site's is left."""
    site, reloaded, host = blocks(INSTALL, "Uninstalling")
    on(installed_cluster, "n1", site, "root")
    assert reloaded == RELOAD
    installed_cluster.reconfigure()
    on(installed_cluster, "n1", f"echo '# ours' >>{jobs.SETTINGS}", "root")
    everywhere(installed_cluster, host)
    left = "find / -xdev -name '*oci*criu*shim*' -not -path '/shared/*' 2>/dev/null || :"
    assert on(installed_cluster, "n1", left, "root").split() == ["/etc/oci-criu-shim"]
    assert on(installed_cluster, CONTROLLER, "srun -w n1 hostname") == "n1\n"
    assert "unrecognized option" in on(installed_cluster, CONTROLLER, "sbatch --checkpoint --wrap hostname || :")


@contextmanager
def edited(cluster: Cluster, name: str, command: str) -> Iterator[None]:
    """Have a command change a file of /etc/slurm, whose path is its last word."""
    path = cluster.conf / name
    text = path.read_text()
    on(cluster, "n1", f"{command} /etc/slurm/{name}", "root")
    try:
        yield
    finally:
        path.write_text(text)
        cluster.reconfigure()
