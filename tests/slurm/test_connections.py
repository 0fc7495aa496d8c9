"""A job with TCP connections to another node is preempted: they are closed, and it goes on with others."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness import jobs
from tests.harness.cluster import Cluster
from tests.harness.jobs import Work, quoting
from tests.slurm.test_ladder import changed, said, share_network

# Gives the square of each number that is asked for, on connections that stay open; of /stream there is no end.
SERVER = """
import http.server, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        if self.path == "/stream":
            self.end_headers()
            self.wfile.write(b"begun")
            self.wfile.flush()
            time.sleep(600)
        body = str(int(self.path[1:]) ** 2).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass

server = Server(("0.0.0.0", 7090), Handler)
print("ready", flush=True)
server.serve_forever()
"""
# `client.py LEDGER SERVER`: a line for each number, and what it was told of.
CLIENT = """
import http.client, sys, threading, time
path, server = sys.argv[1:]
failures = []

def read_to_the_end():
    stream = http.client.HTTPConnection(server)
    stream.request("GET", "/stream")
    try:
        print("stream", stream.getresponse().read(), flush=True)
    except OSError as error:
        failures.append(f"stream {type(error).__name__}")

thread = threading.Thread(target=read_to_the_end, daemon=True)
thread.start()
connection = http.client.HTTPConnection(server)
total = 0
for number in range(1, 31):
    for _ in range(3):
        try:
            connection.request("GET", f"/{number}")
            total += int(connection.getresponse().read())
            break
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{number} {type(error).__name__}")
            connection.close()
    with open(path, "a") as ledger:
        ledger.write(f"{number}\\n")
    time.sleep(0.5)
thread.join()
print("failures", ", ".join(failures), flush=True)
print("total", total, flush=True)
"""
TOTAL = sum(number**2 for number in range(1, 31))


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """A server runs on the controller's node; its address."""
    argv = cluster.argv("ctl", ["python3", "-I", "-c", SERVER], "root")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout and server.stdout.readline() == "ready\n"
            yield f"{cluster.exec('ctl', ['hostname', '-I']).stdout.split()[0]}:7090"
        finally:
            server.kill()


@pytest.fixture(scope="module")
def bundle(shim_cluster: Cluster, shim_bundle: str) -> str:
    (shim_cluster.shared / "client.py").write_text(CLIENT)
    return changed(shim_cluster, shim_bundle, "connected", share_network)


def test_a_client_of_another_node(shim_cluster: Cluster, bundle: str) -> None:
    """It asks again, and has what it would have had; what it had not read all of does not seem to be whole."""
    with serving(shim_cluster) as server:
        script = f"exec python3 -u /shared/client.py /shared/client.ledger {server}"
        job = jobs.submit(shim_cluster, "client", script, Work(), f"--container={bundle}", *jobs.OPTIONS)
        with quoting(job):
            job.wait_running()
            job.wait_ticks(4)
            job.preempt()
            assert job.wait_end() == "COMPLETED"
            said(
                job, "2 TCP connections are closed, and the program's next call fails as after a reset: python3 (pid 1)"
            )
            assert f" with {server}" in job.output()
            assert f"\ntotal {TOTAL}\n" in job.output()
            (failures,) = re.findall(r"^failures (.*)$", job.output(), re.MULTILINE)
            assert re.fullmatch(r"stream ConnectionResetError, \d+ ConnectionResetError|\d+ .*, stream .*", failures)
            assert failures.count("ConnectionResetError") == 2


def test_refused(shim_cluster: Cluster, bundle: str) -> None:
    """By a job that rather runs on than loses a connection."""
    with serving(shim_cluster) as server:
        script = f"exec python3 -u /shared/client.py /shared/client.ledger {server}"
        options = (f"--container={bundle}", "--checkpoint-tcp=refuse", *jobs.OPTIONS)
        job = jobs.submit(shim_cluster, "client", script, Work(), *options)
        with quoting(job):
            job.wait_running()
            job.wait_ticks(2)
            done = shim_cluster.exec("n1", ["oci-criu-shim", "job", "checkpoint", job.number], check=False)
            assert done.returncode
            assert f" to {server}" in done.stdout + done.stderr
            said(job, "(python3) has a TCP connection open: tcp ")
        shim_cluster.exec("ctl", ["scancel", job.number])
        job.wait_end()


# Listens on all addresses, and becomes another program.
LISTEN = """
import os, socket, sys
listener = socket.create_server(("0.0.0.0", 7091))
listener.set_inheritable(True)
print("ready", flush=True)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def listening(cluster: Cluster, node: str) -> Iterator[None]:
    """Another program has the port there."""
    argv = cluster.argv(node, ["python3", "-I", "-c", LISTEN, "cat"], "root")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout and other.stdout.readline() == "ready\n"
            yield
        finally:
            other.kill()


def test_a_port_that_is_taken_everywhere(shim_cluster: Cluster, bundle: str) -> None:
    """It is named, and the job is not sent from node to node for ever."""
    (shim_cluster.shared / "listening.py").write_text(LISTEN)
    script = "exec python3 /shared/listening.py {command}"
    job = jobs.submit(shim_cluster, "listening", script, Work(60), f"--container={bundle}", *jobs.OPTIONS)
    with quoting(job), listening(shim_cluster, other_than(job.wait_running())):
        job.wait_ticks(3)
        high = job.displace()
        taken = "a program of the container's uses tcp 0.0.0.0:7091, which another one uses on this node"
        said(job, taken)
        said(job, f"requeueing job {job.number}, to go on on another node than {other_than(job.nodes[0])}")
        with listening(shim_cluster, job.nodes[0]):
            shim_cluster.exec("ctl", ["scancel", high])
            assert job.wait_end() == "FAILED"
        said(job, taken, times=2)
        said(job, f"failed alike on {other_than(job.nodes[0])}: another node would do no better")


def other_than(node: str) -> str:
    return {"n1": "n2", "n2": "n1"}[node]
