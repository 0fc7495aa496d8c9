"""A job whose hook has its program close a connection before each checkpoint, and open it again after it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.jobs import Work, quoting
from tests.slurm.test_ladder import changed, share_network

PORT = "4077"
# Prints a line for each connection's begin, with the address that it is from, and one for its end.
SERVER = """
import socket, threading
def serve(peer, address):
    with peer:
        print("open", address[0], flush=True)
        print("closed", peer.recv(1), flush=True)
with socket.create_server(("", 4077)) as listener:
    print("ready", flush=True)
    while True:
        threading.Thread(target=serve, args=listener.accept()).start()
"""


@contextmanager
def server(cluster: Cluster, node: str) -> Iterator[Path]:
    """Serve in the block; the file has what was printed."""
    path = cluster.shared / "connections"
    argv = cluster.argv(node, ["python3", "-ISc", SERVER], "root")
    with path.open("w") as output, subprocess.Popen(argv, stdout=output) as running:
        try:
            wait_for(path.read_text, 20, "the server")
            yield path
        finally:
            running.kill()


def address(cluster: Cluster, node: str) -> str:
    return cluster.exec("ctl", ["getent", "ahostsv4", node]).stdout.split()[0]


def seen(path: Path, *lines: str) -> None:
    """That is what the server has seen, or it is soon."""
    text = "".join(f"{line}\n" for line in ("ready", *lines))
    try:
        wait_for(lambda: path.read_text() == text, 30, "connections")
    except ClusterError:
        assert path.read_text() == text


def test_a_connection_is_closed_and_opened_again(shim_cluster: Cluster, shim_bundle: str) -> None:
    """On request, while the job runs on, and at a preemption."""
    script = f"python3 /shared/connected.py {address(shim_cluster, 'ctl')} {PORT} /tmp &\nexec {{command}}"
    hook = "--checkpoint-hook=python3 /shared/connected.py '/tmp'"
    with server(shim_cluster, "ctl") as connections:
        bundle = changed(shim_cluster, shim_bundle, "connecting", share_network)
        options = (f"--container={bundle}", hook, *jobs.OPTIONS)
        job = jobs.submit(shim_cluster, "connected", script, Work(ticks=40), *options)
        with quoting(job):
            first = address(shim_cluster, job.wait_running())
            job.wait_ticks(2)
            seen(connections, f"open {first}")
            done = shim_cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", job.number])
            assert "it runs on" in done.stdout
            before = [f"open {first}", "closed b''", f"open {first}"]
            seen(connections, *before)
            job.preempt()
            seen(connections, *before, "closed b''", f"open {address(shim_cluster, job.nodes[-1])}")
            job.wait_end()
            assert not job.failures()
            lines = [line for line in job.output().splitlines() if line.startswith(("pre-", "post-"))]
            moments = ("pre-dump request closed", "post-dump request open")
            assert lines == [*moments, "pre-dump preempt closed", "post-restore preempt open"]


def test_a_hook_that_never_ends(shim_cluster: Cluster, shim_bundle: str) -> None:
    """The job is checkpointed all the same, and the history has that it failed."""
    options = ("--checkpoint-hook=sleep 1000", *jobs.OPTIONS)
    with jobs.settings(shim_cluster, 'hook-limit = "2s"\n'):
        job = jobs.batch(shim_cluster, shim_bundle, "never", Work(), *options)
        with quoting(job):
            job.wait_running()
            job.wait_ticks(3)
            job.preempt()
            failed = [line for line in job.events() if "the checkpoint hook of" in line]
            assert "(pre-dump, preempt) failed: it took longer than 2 s, and was ended" in failed[0]
            wait_for(lambda: "(post-restore, preempt) failed" in job.output(), 20, "the end of the second")
            job.wait_end()
            assert not job.failures()
        said = shim_cluster.exec("ctl", ["oci-criu-shim", "job", "status", job.number]).stdout
        assert said.count(" hook-failed on ") == 2
