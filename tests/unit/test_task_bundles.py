"""The bundles that are made for tasks of Slurm's: config.json in, config.json out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oci_criu_shim import scrun_bundle, slurm_bundle

CONFIG: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "root": {"path": "rootfs", "readonly": False},
    "process": {"args": ["bash"], "cwd": "/", "env": ["PATH=/bin", "OF_IMAGE=1"], "user": {"uid": 0, "gid": 0}},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
}


def test_job_wins_over_image() -> None:
    made = slurm_bundle.configured(CONFIG, "/b", ["/bin/echo", "a b"], {"PATH": "/job"}, False, False)
    assert made["process"]["args"] == ["/bin/echo", "a b"]
    assert made["process"]["env"] == ["PATH=/job", "OF_IMAGE=1"]
    assert made["root"]["path"] == "/b/rootfs"
    assert made["mounts"] == CONFIG["mounts"]
    assert CONFIG["process"]["args"] == ["bash"]


def test_batch_script_is_mounted() -> None:
    made = slurm_bundle.configured(CONFIG, "/b", ["/spool/script", "x"], {}, True, False)
    assert made["process"]["args"] == ["/tmp/slurm/startup", "x"]
    added = {"destination": "/tmp/slurm/startup", "type": "none", "source": "/spool/script", "options": ["bind", "ro"]}
    assert made["mounts"][-1] == added


def test_environment_file(tmp_path: Path) -> None:
    (tmp_path / "environment").write_text("A=1\nB=x=y\n")
    assert slurm_bundle.read_environment(str(tmp_path / "environment")) == {"A": "1", "B": "x=y"}


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
    made = scrun_bundle.configured(config, "/b", 1000, 1001)
    assert "hooks" not in made
    assert made["linux"].keys() == {"maskedPaths", "namespaces", "uidMappings", "gidMappings"}
    assert made["linux"]["uidMappings"] == [{"containerID": 5, "hostID": 1000, "size": 1}]
    assert made["linux"]["gidMappings"] == [{"containerID": 6, "hostID": 1001, "size": 1}]
    assert made["process"].keys() == CONFIG["process"].keys()
    assert made["process"]["user"] == {"uid": 5, "gid": 6}
    assert [(mount["destination"], mount["options"]) for mount in made["mounts"]] == [
        ("/dev/pts", ["newinstance"]),
        ("/dev/shm", scrun_bundle.SHM_OPTIONS),
    ]


def test_only_small_files_are_copied(tmp_path: Path) -> None:
    small, large = tmp_path / "hosts", tmp_path / "data"
    small.write_text("x")
    large.write_bytes(bytes(scrun_bundle.LARGEST + 1))
    kinds = [{"source": str(path), "options": ["bind"]} for path in (small, large, tmp_path)]
    assert [scrun_bundle.is_small_file(mount) for mount in kinds] == [True, False, False]
