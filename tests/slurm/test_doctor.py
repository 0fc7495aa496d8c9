"""Tests `oci-criu-shim doctor` on a healthy node, and with one thing wrong at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from oci_criu_shim.cli.doctor import site
from tests import NAME
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.conf import PLAIN_CRUN

# alice's home is on the disk of this machine: it can't be told that all nodes see it.
NOT_OK = {"root": {"checkpoint-dir": "skipped", "free space": "skipped"}, "alice": {"checkpoint-dir": "warning"}}
SUBIDS = {"subordinate ids": "skipped"}
OTHERS = ("free space", "apparmor")
"""Of this machine, so not for these tests to say."""


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
def changed(cluster: Cluster, name: str, old: str, new: str) -> Iterator[None]:
    """A file of /etc/slurm with a text in it replaced."""
    path = cluster.conf / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    try:
        yield
    finally:
        path.write_text(text)


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
    assert not_ok(results) == {**expected, **SUBIDS}, results
    assert status == 0


def test_table(cluster: Cluster) -> None:
    results = ask(cluster)[1]
    lines = cluster.exec("n1", ["oci-criu-shim", "doctor"]).stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [r["status"] for r in results.values()]
    hints = [line for result in results.values() for line in result["hint"].splitlines()]
    assert [line.strip().removeprefix("-> ") for line in lines if line.startswith(" ")] == hints


def reconfigure(cluster: Cluster, flags: str) -> None:
    """Have slurmctld read slurm.conf again, and wait until it says so."""
    cluster.exec("ctl", ["scontrol", "reconfigure"], "root")
    shown = f"PrologFlags             = {flags}\n"
    wait_for(lambda: shown in cluster.exec("n1", ["scontrol", "show", "config"], check=False).stdout, 30, shown)


def test_no_contain(cluster: Cluster) -> None:
    """slurmctld is asked, not the file."""
    try:
        with changed(cluster, "slurm.conf", "PrologFlags=Contain", "PrologFlags=Alloc"):
            reconfigure(cluster, "Alloc")
            assert failed(cluster, "PrologFlags")["hint"] == "slurm.conf: PrologFlags=Contain"
    finally:
        reconfigure(cluster, "Alloc,Contain")


def test_plain_crun(cluster: Cluster) -> None:
    with changed(cluster, "oci.conf", (cluster.conf / "oci.conf").read_text(), PLAIN_CRUN):
        result = failed(cluster, "oci.conf")
    assert "is not by oci-criu-shim: exec crun" in result["found"]
    assert "/etc/oci-criu-shim/oci.conf.d/oci-criu-shim.conf" in result["hint"]


@pytest.mark.parametrize("user", ["root", "alice"])
def test_oci_conf_of_an_earlier_version(cluster: Cluster, user: str) -> None:
    """Whose commands root runs in users' directories: what is to be put there makes it well again."""
    text = (cluster.conf / "oci.conf").read_text()
    with changed(cluster, "oci.conf", f"{site.GUARD} ", ""):
        result = failed(cluster, "oci.conf", user)
        lines = result["hint"].splitlines()[1:]
        assert [line.partition("=")[0] for line in lines] == list(site.BY_ROOT)
    kept = [line for line in text.splitlines() if not line.startswith(site.BY_ROOT)]
    with changed(cluster, "oci.conf", text, "\n".join([*kept, *lines, ""])):
        assert ask(cluster, user)[1]["oci.conf"]["status"] == "ok"


def test_no_plugin(cluster: Cluster) -> None:
    with moved(cluster, "/usr/lib/oci-criu-shim/oci_criu_shim_spank.so"):
        assert "which is not there" in failed(cluster, "plugstack.conf")["found"]


def test_no_criu(cluster: Cluster) -> None:
    with moved(cluster, "/usr/sbin/criu"):
        status, results = ask(cluster)
    assert status == 1
    broken = {name for name, result in results.items() if result["status"] == "failed"}
    assert broken == {"criu", "criu check"}
    assert "install CRIU" in results["criu"]["hint"]


def test_settings(cluster: Cluster) -> None:
    line = "nonsense = true"
    path = "/etc/oci-criu-shim/config.toml"
    cluster.exec("n1", ["sh", "-c", f"echo '{line}' >>{path}"], "root")
    try:
        assert "unknown setting 'nonsense'" in failed(cluster, "config.toml")["found"]
    finally:
        cluster.exec("n1", ["sed", "-i", f"/^{line}$/d", path], "root")


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
    names = ("slurm", "PrologFlags", "preemption", "plugstack.conf", "oci.conf")
    assert {results[name]["status"] for name in names} == {"skipped"}
