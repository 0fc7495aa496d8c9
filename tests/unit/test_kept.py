"""Which bundles rule out checkpoints; and the list of what is kept."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.dump import answers, kept
from oci_criu_shim.dump.survey import Subject
from oci_criu_shim.errors import ShimError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("namespaces", [[], [{"type": "pid", "path": "/proc/1/ns/pid"}]])
def test_no_pid_namespace_is_not_checkpointable(config: dict[str, Any], namespaces: list[dict[str, str]]) -> None:
    config["linux"]["namespaces"] = namespaces
    with pytest.raises(ShimError, match="no pid namespace of its own"):
        kept.check_bundle(Subject(Bundle("/b", config)))


def test_the_file_that_the_user_wrote_is_named(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"] = []
    config["process"]["env"] = ["SLURM_CONTAINER=/home/alice/bundle"]
    with pytest.raises(ShimError, match=r"^/home/alice/bundle/config\.json asks for no pid namespace"):
        kept.check_bundle(Subject(Bundle("/var/spool/slurmd/oci-job57-0/task-0", config)))


def test_pid_namespace_is_checkpointable(config: dict[str, Any]) -> None:
    kept.check_bundle(Subject(Bundle("/b", config)))


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "ipc": ({"namespaces": [{"type": "pid"}, {"type": "ipc", "path": "/x"}]}, {}, "joins a namespace of type ipc"),
    "time": ({"namespaces": [{"type": "pid"}, {"type": "time", "path": "/x"}]}, {}, "joins a namespace of type time"),
    "seccomp": (
        {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_NOTIFY"}]}},
        {},
        "decided by a process outside",
    ),
    "intelRdt": ({"intelRdt": {"closID": "x"}}, {}, "a share of the processor's cache"),
    "sysctl": ({"sysctl": {"kernel.shm_rmid_forced": "1"}}, {}, "sets kernel.shm_rmid_forced"),
    "0 is another": ({"uidMappings": [{"containerID": 0, "hostID": 70000, "size": 9}]}, {}, "does not map your own id"),
    "1 is the user": ({"uidMappings": [{"containerID": 1, "hostID": 7000, "size": 1}]}, {}, "who is not you"),
    "not 0 runs it": ({"uidMappings": [{"containerID": 0, "hostID": 7000, "size": 1}]}, {"uid": 5}, "who is not you"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_checkpointable(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    linux, user, reason = REFUSED[case]
    config["linux"] |= linux
    config["process"]["user"] = user
    monkeypatch.setattr("os.geteuid", lambda: 7000)
    with pytest.raises(ShimError, match=reason):
        kept.check_bundle(Subject(Bundle("/b", config)))


@pytest.mark.parametrize(
    "mount",
    [
        {"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]},
        {"gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]},
        {"options": ["bind", "idmap"]},
        {"options": ["bind", "ridmap=uids=0-1-1"]},
    ],
)
def test_mapped_mounts_are_not_checkpointable(config: dict[str, Any], mount: dict[str, Any]) -> None:
    config["mounts"].append({"destination": "/data", "source": "/x", **mount})
    with pytest.raises(ShimError, match="maps the ids of the mount /data"):
        kept.check_bundle(Subject(Bundle("/b", config)))


@pytest.mark.parametrize("inside", [0, 7000])
def test_own_id_beside_a_range_is_checkpointable(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, inside: int
) -> None:
    ranges = [{"containerID": inside, "hostID": 7000, "size": 1}, {"containerID": 1, "hostID": 100000, "size": 6000}]
    config["linux"]["uidMappings"] = ranges
    config["process"]["user"] = {"uid": inside}
    monkeypatch.setattr("os.geteuid", lambda: 7000)
    kept.check_bundle(Subject(Bundle("/b", config)))


@pytest.mark.parametrize("first", [0, 1])
def test_roots_ids_need_a_0(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    config["linux"]["uidMappings"] = [{"containerID": first, "hostID": 100000, "size": 65536}]
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(ShimError, match="maps no id to 0") if first else nullcontext():
        kept.check_bundle(Subject(Bundle("/b", config)))


def test_a_users_group(config: dict[str, Any]) -> None:
    with pytest.raises(ShimError, match="has a control group of its own"):
        kept.check_bundle(Subject(Bundle("/b", config), own_group=True))


def test_the_page_shows_the_list() -> None:
    done = subprocess.run([sys.executable, "-B", ROOT / "tools/kept_md"], stdout=subprocess.PIPE, text=True, check=True)
    assert (ROOT / "docs/kept.md").read_text() == done.stdout, "run: tools/kept_md >docs/kept.md"


def test_what_is_refused_is_looked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What will be changed is told of a container that can be checkpointed."""
    found: list[ShimError] = []
    rows = (
        answers.changed(
            "one", "so", running=lambda _: iter([ShimError("it is late", "hurry"), ShimError("it is red")])
        ),
        answers.changed("always", "so"),
        answers.refused("two", "so", running=lambda _: iter(found)),
    )
    monkeypatch.setattr(kept, "PROPERTIES", rows)
    survey: Any = None
    assert kept.check(survey) == ["it is late (hint: hurry)", "it is red"]
    found.append(ShimError("no"))
    with pytest.raises(ShimError, match="no"):
        kept.check(survey)


def test_each_row_says_what_to_look_at() -> None:
    assert all(row.what and row.how for row in kept.PROPERTIES)
    assert {row.answer for row in kept.PROPERTIES} == {answers.KEPT, answers.REFUSED, answers.CHANGED}
    assert not any(row.running for row in kept.PROPERTIES if row.answer == answers.KEPT)
