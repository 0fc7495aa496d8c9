"""Containers that are left to the caller, as podman and Docker have them: after a checkpoint, and after a restore."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.harness.cluster import wait_for
from tests.node.support import SHIM, Site

HERE = "/root/detached"
COUNT = ["bash", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"]


@pytest.fixture
def bundle(site: Site) -> Iterator[str]:
    spec = site.spec("root")
    spec["process"]["args"] = COUNT
    site.exec(["mkdir", HERE])
    site.cluster.exec(site.node, ["tee", f"{HERE}/config.json"], "root", input=json.dumps(spec))
    yield HERE
    shim(site, "delete", "--force", "one")
    site.exec(["rm", "-r", HERE])


def shim(site: Site, *words: str, check: bool = True) -> str:
    done = site.exec([SHIM, "--root", f"{HERE}/run", *words], check=check)
    assert check or done.returncode
    return done.stdout if check else done.stderr


def quietly(site: Site, *words: str) -> None:
    """What is started has none of our streams."""
    site.exec(["sh", "-c", f"{SHIM} --root {HERE}/run {' '.join(words)} </dev/null >/dev/null 2>&1"])


def detached(site: Site, verb: str, *words: str, backend: str = "crun") -> int:
    """The verb's exit status; what the container writes goes on to a file."""
    words = ("--root", f"{HERE}/run", "--backend", backend, verb, "--detach", "--bundle", HERE, *words)
    script = f"cd {HERE}; {{ {SHIM} {' '.join(words)}; echo $? >status; }} 2>&1 </dev/null | cat >>output"
    site.exec(["rm", "-f", f"{HERE}/status"])
    site.exec(["sh", "-c", f"({script}) >/dev/null 2>&1 &"])
    return int(wait_for(lambda: site.exec(["cat", f"{HERE}/status"], check=False).stdout, 20, "its status"))


def counted(site: Site) -> list[int]:
    return [int(line) for line in site.exec(["cat", f"{HERE}/output"]).stdout.split()]


def wait_counts(site: Site, beyond: int) -> None:
    wait_for(lambda: (counted(site) or [-1])[-1] > beyond, 20, f"it to count beyond {beyond}")


def test_a_file_of_the_nodes(site: Site, bundle: str) -> None:
    """The shell's redirection: a file that is on no mount of the container's."""
    argv = [SHIM, "--root", f"{HERE}/run", "run", "--detach", "--bundle", HERE, "one"]
    site.exec(["sh", "-c", f"{' '.join(argv)} </dev/null >{HERE}/output 2>&1"])
    wait_counts(site, 3)
    assert f"it was started on {HERE}/output, a file that is" in shim(site, "checkpoint", "one", check=False)
    assert site.exec(["ls", f"{HERE}/checkpoint"], check=False).stdout == ""
    wait_counts(site, counted(site)[-1] + 3)


def test_restored_to_nowhere(site: Site, bundle: str) -> None:
    """With its output redirected to /dev/null, it can be checkpointed again, and what reads that ends with it."""
    images = ("--image-path", f"{bundle}/images")
    assert detached(site, "run", "one") == 0
    wait_counts(site, 3)
    shim(site, "checkpoint", *images, "one")
    for _ in range(2):
        script = f"{SHIM} --root {HERE}/run restore --detach --bundle {HERE} {' '.join(images)} one"
        site.exec(["sh", "-c", f"{script} </dev/null >/dev/null 2>&1"])
        shim(site, "checkpoint", *images, "one")
    wait_for(lambda: not site.exec(["pgrep", "-x", "cat"], check=False).stdout, 10, "the end of what read its output")
    reached = counted(site)[-1]
    assert detached(site, "restore", *images, "one") == 0
    wait_counts(site, reached + 3)


def test_a_created_one(site: Site, bundle: str) -> None:
    """Its program does not run yet."""
    quietly(site, "create", "--bundle", HERE, "one")
    assert "is not running yet" in shim(site, "checkpoint", "--image-path", f"{HERE}/none", "one", check=False)
    assert not site.exec(["ls", f"{HERE}/none"], check=False).stdout
    shim(site, "start", "one")


def test_life(site: Site, bundle: str) -> None:
    assert detached(site, "run", "one") == 0
    wait_counts(site, 3)
    images = f"{bundle}/images"
    shim(site, "checkpoint", "--leave-running", "--image-path", images, "--work-path", f"{bundle}/work", "one")
    wait_counts(site, counted(site)[-1] + 3)
    quietly(site, "exec", "--detach", "one", "sleep", "77")  # it is no child of the init's
    shim(site, "checkpoint", "--empty-ns=network", "--image-path", images, "--work-path", f"{bundle}/work", "one")
    assert set(site.exec(["ls", f"{bundle}/work"]).stdout.split()) == {"dump.log", "stats-dump"}
    assert "does not exist" in shim(site, "state", "one", check=False)
    assert shim(site, "list", "--quiet") == ""
    reached = counted(site)[-1]

    words = ("--image-path", images, "--work-path", f"{bundle}/work", "--pid-file", f"{bundle}/pid", "one")
    assert detached(site, "restore", *words) == 0
    wait_counts(site, reached + 3)
    found = counted(site)
    assert found == list(range(len(found)))
    pid = site.exec(["cat", f"{bundle}/pid"]).stdout
    state = json.loads(shim(site, "state", "one"))
    assert (state["status"], state["pid"]) == ("running", int(pid))
    # Whoever restored it has left it to its caller's subreaper.
    assert site.exec(["ps", "--no-headers", "-o", "ppid", "--pid", pid]).stdout.strip() == "1"
    assert "sleep 77" not in shim(site, "exec", "one", "ps", "ax")
    assert "already exists" in shim(site, "restore", "--detach", "--bundle", bundle, *words, check=False)

    shim(site, "pause", "one")
    assert json.loads(shim(site, "state", "one"))["status"] == "paused"
    shim(site, "resume", "one")
    shim(site, "kill", "one", "KILL")
    wait_for(lambda: json.loads(shim(site, "state", "one"))["status"] == "stopped", 10, "its end")
    shim(site, "delete", "one")
    assert not site.exec(["find", "/sys/fs/cgroup/pids", "-name", "one"]).stdout
    assert site.exec(["ls", f"{bundle}/run"]).stdout == ""


def test_a_crun_by_another_name(site: Site, bundle: str) -> None:
    """It says what it is, and takes over what is restored."""
    other, images = f"{bundle}/other", ("--image-path", f"{bundle}/images")
    site.exec(["cp", "/usr/bin/crun", other])
    assert detached(site, "run", "one", backend=other) == 0
    wait_counts(site, 3)
    shim(site, "checkpoint", *images, "one")
    assert detached(site, "restore", *images, "one", backend=other) == 0
    wait_counts(site, counted(site)[-1] + 3)
    record = json.loads(site.exec(["cat", f"{bundle}/run/one/state.json"]).stdout)
    assert (record["backend"], record["dialect"]) == (other, "crun")
    assert shim(site, "exec", "one", "echo", "here") == "here\n"


def test_a_terminal_must_be_taken(site: Site, bundle: str) -> None:
    assert detached(site, "run", "one") == 0
    shim(site, "checkpoint", "--image-path", f"{bundle}/images", "one")
    spec = json.loads(site.exec(["cat", f"{bundle}/config.json"]).stdout)
    spec["process"]["terminal"] = True
    site.cluster.exec(site.node, ["tee", f"{bundle}/config.json"], "root", input=json.dumps(spec))
    words = ("restore", "--bundle", bundle, "--image-path", f"{bundle}/images")
    to_a_socket = ("--console-socket", f"{bundle}/none", "one")
    assert "is for --detach" in shim(site, *words, *to_a_socket, check=False)
    assert "name a --console-socket" in shim(site, *words, "--detach", "one", check=False)
    assert "No such file" in shim(site, *words, "--detach", *to_a_socket, check=False)


def test_a_descriptor_that_it_was_given(site: Site, bundle: str) -> None:
    """A pipe, whose other end no restore would find."""
    assert detached(site, "run", "--preserve-fds=1", "one", "3>&1") == 0
    wait_counts(site, 3)
    assert "has what it was given by --preserve-fds" in shim(site, "checkpoint", "one", check=False)
    wait_counts(site, counted(site)[-1] + 3)


def test_a_failing_dump_leaves_what_was_there(site: Site, bundle: str) -> None:
    """The disk is full after the first."""
    assert detached(site, "run", "one") == 0
    images = f"{bundle}/images"
    site.exec(["mkdir", images])
    site.exec(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", images])
    try:
        shim(site, "checkpoint", "--leave-running", "--image-path", images, "one")
        site.exec(["sh", "-c", f"cat /dev/zero >{images}/rest"], check=False)
        before = site.exec(["sh", "-c", f"cd {images}; sha256sum *.img *.json"]).stdout
        assert "No space left" in shim(site, "checkpoint", "--image-path", images, "one", check=False)
        assert site.exec(["sh", "-c", f"cd {images}; sha256sum *.img *.json"]).stdout == before
        assert "stage" not in site.exec(["ls", "-A", images]).stdout
        wait_counts(site, counted(site)[-1] + 3)
    finally:
        site.exec(["umount", images])


LISTEN = """
import os, socket, sys
here = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
here.bind(sys.argv[1] + "/log")
if os.fork() == 0:
    while (line := here.recv(99)) != b"end":
        with open(sys.argv[1] + "/heard", "ab") as out:
            out.write(line + b" ")
"""
TELL = """
import itertools, socket, time
there = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
there.connect("/srv/outside/log")
for number in itertools.count():
    there.send(str(number).encode())
    time.sleep(0.1)
"""
END = 'import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"end", "{}/log")'


def test_a_socket_that_leads_out(site: Site, bundle: str) -> None:
    """As to a node's /dev/log. CRIU finds the other end in the same network namespace only, and by the same path."""
    out, images = "/srv/outside", ("--image-path", f"{bundle}/images")
    spec = json.loads(site.exec(["cat", f"{bundle}/config.json"]).stdout)
    spec["process"]["args"] = ["python3", "-I", "-c", TELL]
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
    spec["mounts"].append({"destination": out, "type": "none", "source": out, "options": ["bind", "rw"]})
    site.cluster.exec(site.node, ["tee", f"{bundle}/config.json"], "root", input=json.dumps(spec))
    site.exec(["mkdir", out])
    site.exec(["sh", "-c", 'python3 -I -c "$1" "$2" >/dev/null 2>&1', "sh", LISTEN, out])

    def heard() -> list[int]:
        return [int(word) for word in site.exec(["cat", f"{out}/heard"], check=False).stdout.split()]

    try:
        assert detached(site, "run", "one") == 0
        wait_for(lambda: len(heard()) > 3, 20, "it to be heard")
        assert "a unix socket leads out of the container" in shim(site, "checkpoint", *images, "one", check=False)
        shim(site, "checkpoint", "--ext-unix-sk", *images, "one")
        reached = len(heard())
        assert detached(site, "restore", "--ext-unix-sk", *images, "one") == 0
        wait_for(lambda: len(heard()) > reached + 3, 20, "it to be heard again")
        found = heard()
        assert found == list(range(len(found)))
    finally:
        shim(site, "delete", "--force", "one")
        site.exec(["python3", "-I", "-c", END.format(out)])
        site.exec(["rm", "-r", out])
