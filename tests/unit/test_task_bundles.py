"""The bundles that are made for tasks of Slurm's: config.json in, config.json out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.bundles import scrun, slurm
from oci_criu_shim.container.bundle import CONTAINER
from oci_criu_shim.errors import ShimError

CONFIG: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "root": {"path": "rootfs", "readonly": False},
    "process": {"args": ["bash"], "cwd": "/", "env": ["PATH=/bin", "OF_IMAGE=1"], "user": {"uid": 0, "gid": 0}},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
}


def test_job_wins_over_image() -> None:
    made = slurm.configured(CONFIG, "/b", ["/bin/echo", "a b"], {"PATH": "/job"}, False, False)
    assert made["process"]["args"] == ["/bin/echo", "a b"]
    assert made["process"]["env"] == ["PATH=/job", "OF_IMAGE=1"]
    assert made["root"]["path"] == "/b/rootfs"
    assert made["mounts"] == CONFIG["mounts"]
    assert CONFIG["process"]["args"] == ["bash"]


def test_batch_script_is_mounted() -> None:
    made = slurm.configured(CONFIG, "/b", ["/spool/script", "x"], {}, True, False)
    assert made["process"]["args"] == ["/tmp/slurm/startup", "x"]
    added = {"destination": "/tmp/slurm/startup", "type": "none", "source": "/spool/script", "options": ["bind", "ro"]}
    assert made["mounts"][-1] == added


def test_environment_file(tmp_path: Path) -> None:
    (tmp_path / "environment").write_text("A=1\nB=x=y\n")
    assert slurm.read_environment(str(tmp_path / "environment")) == {"A": "1", "B": "x=y"}


@pytest.mark.parametrize("document", [[], {}, {"ociVersion": "1.0.2", "process": 3}, None])
def test_a_bad_bundle_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], document: object) -> None:
    if document is not None:
        (tmp_path / "config.json").write_text(json.dumps(document))
    assert slurm.main([str(tmp_path), "/spool", "alice", "1000", "n1", "1", "0", "0", "true"]) == 1
    said = capfd.readouterr().err
    assert (said.count("\n"), f"{tmp_path}/config.json" in said, "(hint: " in said) == (1, True, True)


def test_what_podman_prepared_for_its_node() -> None:
    config = CONFIG | {
        "hooks": {"prestart": [{"path": "/hook"}]},
        "linux": {"cgroupsPath": "/x", "seccomp": {}, "maskedPaths": ["/proc/kcore"], "namespaces": [{"type": "pid"}]},
        "process": CONFIG["process"] | {"rlimits": [], "user": {"uid": 5, "gid": 6, "additionalGids": [7]}},
        "mounts": [
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "gid=5"]},
            {"destination": "/dev/shm", "type": "bind", "source": "/run/x/shm", "options": ["bind"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
        ],
    }
    made = scrun.configured(config, "/b", 1000, 1001)
    assert "hooks" not in made
    assert made["linux"].keys() == {"maskedPaths", "namespaces", "uidMappings", "gidMappings"}
    assert made["linux"]["uidMappings"] == [{"containerID": 5, "hostID": 1000, "size": 1}]
    assert made["linux"]["gidMappings"] == [{"containerID": 6, "hostID": 1001, "size": 1}]
    assert made["process"].keys() == CONFIG["process"].keys()
    assert made["process"]["user"] == {"uid": 5, "gid": 6}
    assert [(mount["destination"], mount["options"]) for mount in made["mounts"]] == [
        ("/dev/pts", ["newinstance"]),
        ("/dev/shm", scrun.SHM_OPTIONS),
    ]


def test_only_small_files_are_copied(tmp_path: Path) -> None:
    small, large = tmp_path / "hosts", tmp_path / "data"
    small.write_text("x")
    large.write_bytes(bytes(scrun.LARGEST + 1))
    kinds = [{"source": str(path), "options": ["bind"]} for path in (small, large, tmp_path)]
    assert [scrun.is_small_file(mount) for mount in kinds] == [True, False, False]


class Asking:
    """A container c1 that asks for checkpoints; its last job's record, and what that job has left, are files."""

    def __init__(self, directory: Path, **annotations: str) -> None:
        self.record = directory / "scrun/c1.job"
        self.record.parent.mkdir()
        self.checkpoints = directory / "checkpoints"
        asked = {"checkpoint": "preempt", "checkpoint-dir": str(self.checkpoints), **annotations}
        named = {f"oci-criu-shim.{name}": value for name, value in asked.items()}
        self.config = CONFIG | {"annotations": {**named, CONTAINER: "c1"}}

    def options(self, job: str) -> list[str]:
        return scrun.options(self.config, str(self.record), job)

    def checkpointed(self, job: str, container: str) -> str:
        """A task of that job's, with a checkpoint."""
        path = self.checkpoints / job / "0.0"
        (path / "1").mkdir(parents=True)
        (path / "1" / "manifest.json").touch()
        spec = {"annotations": {CONTAINER: container}}
        (path / "1" / "spec.dump").write_text(json.dumps(spec))
        return str(path)


def test_options_of_a_container(tmp_path: Path) -> None:
    """Annotations, and variables of a job's environment; the former say more."""
    asking = Asking(tmp_path, **{"restart-dir": "7:2"})
    asking.config["process"] = {"env": ["SLURM_CHECKPOINT=timeout", "SLURM_CHECKPOINT_KEEP=4", "EMPTY"]}
    directory = f"--checkpoint-dir={asking.checkpoints}"
    assert asking.options("8") == ["--checkpoint=preempt", directory, "--checkpoint-keep=4", "--restart-dir=7:2"]


def test_container_that_asks_for_nothing(tmp_path: Path) -> None:
    assert scrun.options(CONFIG, str(tmp_path / "c1.job"), "8") == []
    assert not (tmp_path / "c1.job").exists()


def test_container_goes_on_where_its_last_job_left_it(tmp_path: Path) -> None:
    """Where that left a checkpoint, and it is this container's."""
    asking = Asking(tmp_path)
    assert len(asking.options("1")) == 2
    assert asking.record.read_text() == f"{asking.checkpoints}/1/0.0"
    path = asking.checkpointed("1", "c1")
    assert asking.options("2")[2:] == [f"--restart-dir={path}"]
    assert len(asking.options("3")) == 2
    asking.checkpointed("3", "another")
    assert len(asking.options("4")) == 2


def test_options_are_one_a_line(tmp_path: Path) -> None:
    asking = Asking(tmp_path, **{"checkpoint-keep": "1\n--uid=0"})
    with pytest.raises(ShimError, match="checkpoint-keep has more than one line"):
        asking.options("1")


def test_old_records_are_removed(tmp_path: Path) -> None:
    """Those of a day, whose job has left nothing."""
    asking = Asking(tmp_path)
    path = asking.checkpointed("1", "c0")
    records = {name: asking.record.with_name(f"{name}.job") for name in ("gone", "new", "kept")}
    for name, record in records.items():
        record.write_text(path if name == "kept" else "/nothing")
        if name != "new":
            os.utime(record, (0, 0))
    asking.options("2")
    assert sorted(entry.name for entry in asking.record.parent.iterdir()) == ["c1.job", "kept.job", "new.job"]


def test_a_user_whom_the_node_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    """scrun's log has the line."""
    assert scrun.main(["/c/config.json", "/c", "bundles/c", "7", "987654", "987654"]) == 1
    assert capsys.readouterr().out.startswith("user 987654 is not known on this node (hint: ")
