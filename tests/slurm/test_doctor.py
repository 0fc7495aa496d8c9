"""Tests `oci-criu-shim doctor` on a healthy node, and with one thing wrong at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from oci_criu_shim.cli.doctor import oci
from tests import NAME
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.bundle import make_bundle
from tests.harness.cluster.conf import PLAIN_CRUN

# alice's home is on the disk of this machine: it can't be told that all nodes see it.
NOT_OK = {"root": {"checkpoint-dir": "skipped", "free space": "skipped"}, "alice": {"checkpoint-dir": "warning"}}
UNUSED = dict.fromkeys(
    ("subordinate ids", "names in config.toml", "submission", "inotify", "pace-dir", "local-dir"), "skipped"
)
OTHERS = ("free space", "apparmor")
"""Of this machine, so not for these tests to say."""
ETC = "etc/slurm etc/oci-criu-shim"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node with the project installed."""
    with Cluster(f"{NAME}-doctor", nodes=1, slurm_conf=("MaxBatchRequeue=1000",)) as running:
        yield running


def ask(cluster: Cluster, user: str = "alice", prefix: tuple[str, ...] = ()) -> tuple[int, dict[str, dict[str, str]]]:
    """The doctor's exit status, and its results by name."""
    done = cluster.exec("n1", [*prefix, "oci-criu-shim", "doctor", "--json"], user, check=False)
    assert not done.stderr
    return done.returncode, {result["name"]: result for result in json.loads(done.stdout)}


def not_ok(results: dict[str, dict[str, str]]) -> dict[str, str]:
    found = {name: result["status"] for name, result in results.items() if name not in OTHERS}
    return {name: status for name, status in found.items() if status != "ok"}


def failed(cluster: Cluster, name: str, user: str = "alice") -> dict[str, str]:
    """The result of the only check that fails."""
    status, results = ask(cluster, user)
    assert [key for key, state in not_ok(results).items() if state == "failed"] == [name], results
    assert status == 1
    return results[name]


@contextmanager
def broken(cluster: Cluster, script: str) -> Iterator[None]:
    """A node on which root has run a script that changes the site's files."""
    cluster.exec("n1", ["sh", "-ec", f"tar -C / -cf /root/etc.tar {ETC}; {script}"], "root")
    try:
        yield
    finally:
        restore = f"cd /; for place in {ETC}; do find $place -mindepth 1 -delete; done; tar -xpf /root/etc.tar"
        cluster.exec("n1", ["sh", "-ec", restore], "root")


@contextmanager
def moved(cluster: Cluster, path: str) -> Iterator[None]:
    """A node without one of its files."""
    cluster.exec("n1", ["mv", path, f"{path}.away"], "root")
    try:
        yield
    finally:
        cluster.exec("n1", ["mv", f"{path}.away", path], "root")


@pytest.mark.parametrize("user", ["root", "alice"])
def test_healthy(cluster: Cluster, user: str) -> None:
    status, results = ask(cluster, user)
    expected = {name: state for name, state in NOT_OK[user].items() if name not in OTHERS}
    assert not_ok(results) == {**expected, **UNUSED}, results
    assert status == 0


def test_table(cluster: Cluster) -> None:
    results = ask(cluster)[1]
    *lines, total = cluster.exec("n1", ["oci-criu-shim", "doctor"]).stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [r["status"] for r in results.values()]
    hints = [line for result in results.values() for line in result["hint"].splitlines()]
    assert [line.strip().removeprefix("-> ") for line in lines if line.startswith(" ")] == hints
    assert total.startswith(f"{len(results)} checks: ")


def test_quiet(cluster: Cluster) -> None:
    said = cluster.exec("n1", ["oci-criu-shim", "doctor", "--quiet"]).stdout.splitlines()
    bad = [result["status"] for result in ask(cluster)[1].values() if result["status"] in ("failed", "warning")]
    assert [line.split()[0] for line in said[:-1] if not line.startswith(" ")] == bad


def test_no_contain(cluster: Cluster) -> None:
    """slurmctld is asked; the file says whether it is to be changed."""
    try:
        with broken(cluster, "sed -i s/PrologFlags=Contain/PrologFlags=Alloc/ /etc/slurm/slurm.conf"):
            cluster.reconfigure()
            hint = failed(cluster, "PrologFlags")["hint"]
            assert hint == "slurm.conf: PrologFlags=Contain, then scontrol reconfigure"
        hint = failed(cluster, "PrologFlags")["hint"]
        assert hint == "slurm.conf says so already, slurmctld does not: scontrol reconfigure"
    finally:
        cluster.reconfigure()


def test_a_slurmd_that_has_not_loaded_the_plugin(cluster: Cluster) -> None:
    """As after an installation, until Slurm is told: containers would not start."""
    path, line = cluster.conf / "plugstack.conf", (cluster.conf / "plugstack.conf").read_text()
    path.write_text("")
    cluster.reconfigure()
    path.write_text(line)
    try:
        result = failed(cluster, "slurmd", "root")
        assert "has not loaded the plugin" in result["found"] and result["hint"] == "scontrol reconfigure"
        cluster.exec("n1", ["touch", "--date=+1 minute", "/etc/slurm/plugstack.conf"], "root")
        result = ask(cluster)[1]["slurmd"]
        assert result["status"] == "warning" and "was changed after slurmd was started" in result["found"]
    finally:
        cluster.exec("n1", ["touch", "--date=-1 hour", "/etc/slurm/plugstack.conf"], "root")
        cluster.reconfigure()
    assert [ask(cluster, user)[1]["slurmd"]["status"] for user in ("root", "alice")] == ["ok", "ok"]


@pytest.mark.parametrize("part", ["helper", "worker.py", "criu_preload.so", "oci_criu_shim_spank.so"])
def test_a_part_that_is_missing(cluster: Cluster, part: str) -> None:
    with moved(cluster, f"/usr/lib/oci-criu-shim/{part}"):
        result = failed(cluster, "installation")
    assert result["found"] == f"/usr/lib/oci-criu-shim: missing: {part}"
    assert result["hint"] == "make install on this node, or install its packages again"


def test_no_criu(cluster: Cluster) -> None:
    with moved(cluster, "/usr/sbin/criu"):
        result = failed(cluster, "criu")
        assert ask(cluster)[1]["criu check"]["status"] == "skipped"
    assert "install CRIU" in result["hint"]


@pytest.mark.parametrize("user", ["root", "alice"])
def test_oci_conf_of_an_earlier_version(cluster: Cluster, user: str) -> None:
    """Whose commands root runs in users' directories: what is to be put there makes it well again."""
    text = (cluster.conf / "oci.conf").read_text()
    with broken(cluster, "true"):
        for guard in oci.guards("RunTimeQuery"):
            assert f"{guard} " in text
            text = text.replace(f"{guard} ", "")
        (cluster.conf / "oci.conf").write_text(text)
        lines = failed(cluster, "oci.conf", user)["hint"].splitlines()[1:]
        assert [line.partition("=")[0] for line in lines] == list(oci.BY_ROOT)
        kept = [line for line in text.splitlines() if not line.startswith(oci.BY_ROOT)]
        (cluster.conf / "oci.conf").write_text("\n".join([*kept, *lines, ""]))
        assert ask(cluster, user)[1]["oci.conf"]["status"] == "ok"


BOTH, ALICE = ("root", "alice"), ("alice",)
CONFIG, OCI, PLUGSTACK = "/etc/oci-criu-shim/config.toml", "/etc/slurm/oci.conf", "/etc/slurm/plugstack.conf"
FAULTS = {
    "crun alone": (
        f"cat >{OCI} <<'.'\n{PLAIN_CRUN}.",
        ALICE,
        "oci.conf",
        "is not by oci-criu-shim: exec crun",
        "cp /etc/",
    ),
    "the line twice": (
        f"cat /usr/share/oci-criu-shim/plugstack.conf >>{PLUGSTACK}",
        *(BOTH, "plugstack.conf", "is named 2 times", "leave one of these lines, then scontrol reconfigure"),
    ),
    "no plugstack.conf": (
        f"rm {PLUGSTACK}",
        *(ALICE, "plugstack.conf", "No such file", "cat /usr/share/oci-criu-shim/plugstack.conf >>/etc/sl"),
    ),
    "another backend": (
        f"cp /etc/oci-criu-shim/oci.conf.d/nvidia-run.conf {OCI}",
        *(ALICE, "oci.conf", "no nvidia-container-runtime in", "install nvidia-container-runtime, or name another"),
    ),
    "a time that is none": (
        f"echo 'checkpoint = \"preemt\"' >{CONFIG}",
        *(BOTH, "config.toml", "config.toml: checkpoint: 'preemt' is no value", "preempt, timeout"),
    ),
    "settings that jobs can't read": (f"chmod 600 {CONFIG}", BOTH, "config.toml", "config.toml", f"chmod 644 {CONFIG}"),
    "settings of alice": (
        f"chown alice {CONFIG}",
        BOTH,
        "config.toml",
        "belongs to alice: every",
        f"chown root: {CONFIG}",
    ),
    "a feature of no node": (
        f"echo 'feature = \"nosuch\"' >{CONFIG}",
        *(ALICE, "names in config.toml", "no node has it", "name one that nodes have (none has any), or none"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(cluster: Cluster, fault: str) -> None:
    """One check tells it, once."""
    script, users, name, found, hint = FAULTS[fault]
    with broken(cluster, script):
        for user in users:
            result = failed(cluster, name, user)
            assert found in result["found"]
            assert hint in result["hint"]


def test_a_directory_of_each_user(cluster: Cluster) -> None:
    with broken(cluster, f"echo 'checkpoint-dir = \"/shared/$USER/ck\"' >{CONFIG}"):
        assert ask(cluster)[1]["checkpoint-dir"]["found"].startswith("/shared/alice/ck is on ")
        assert ask(cluster, "root")[1]["checkpoint-dir"]["found"].startswith("/shared is on ")


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    """A bundle of alice's."""
    make_bundle(cluster.home / "alice/bundle", 1000, 1000)
    return "/home/alice/bundle"


DIRECTORIES = [
    ("", "/home/alice/.local/state/oci-criu-shim"),
    ('checkpoint-dir = "/shared/$USER/ck"', "/shared/alice/ck"),
]


@pytest.mark.parametrize(("text", "place"), DIRECTORIES)
def test_where_checkpoints_go(cluster: Cluster, bundle: str, text: str, place: str) -> None:
    """It is the job's user's, although the slurmd of these nodes has root's HOME."""
    with broken(cluster, f"echo '{text}' >{CONFIG}"):
        words = ["sbatch", "--parsable", "--output=%j.out", f"--container={bundle}", "--checkpoint=interval:1s"]
        number = cluster.exec("n1", [*words, "--wrap=sleep 600"]).stdout.strip()
        output, wanted = cluster.home / f"alice/{number}.out", f" to {place}/{number}/batch.0/1 "
        try:
            wait_for(lambda: output.exists() and wanted in output.read_text(), 60, wanted)
        finally:
            cluster.exec("n1", ["scancel", number])
            ended = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={number}"]
            wait_for(lambda: cluster.exec("n1", ended).stdout == "CANCELLED\n", 60, "the job's end")


def test_no_user_namespaces(cluster: Cluster) -> None:
    """A user namespace has a limit of its own: the node's stays as it is."""
    new = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    status, results = ask(cluster, "alice", (*new, "sh", "-c", script, "sh"))
    assert status == 1
    result = results["user namespaces"]
    assert (result["status"], result["found"].split(": ")[-1]) == ("failed", "No space left on device")
    assert "sysctl -w user.max_user_namespaces" in result["hint"]


def test_in_a_user_namespace(cluster: Cluster) -> None:
    """Root of a user namespace only: as good as a user."""
    results = ask(cluster, "alice", ("unshare", "--user", "--map-root-user"))[1]
    assert [results[name]["status"] for name in ("user namespaces", "namespaces", "criu check")] == ["ok"] * 3


def test_without_slurm(cluster: Cluster) -> None:
    """A node without Slurm has nothing wrong: what is Slurm's is skipped."""
    status, results = ask(cluster, prefix=("env", "SLURM_CONF=/nonexistent/slurm.conf"))
    assert status == 0
    names = ("slurm", "PrologFlags", "preemption", "plugstack.conf", "slurmd", "oci.conf")
    assert {results[name]["status"] for name in names} == {"skipped"}
