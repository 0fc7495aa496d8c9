"""What podman is told of a job's checkpoint."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

import oci_criu_shim
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.directory import Directory
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.checkpoints.tree import Tree
from oci_criu_shim.cli.ckpt import podman
from oci_criu_shim.container.bundle import Bundle, prepare_rootfs
from oci_criu_shim.errors import ShimError
from tests.unit.test_schema import full_manifest

LAYOUT = Path(__file__).parents[2] / "etc/image"
SPOOL = "/var/spool/slurmd/oci-job1-batch/task-0/"


def mount(destination: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "none", "source": source, "options": options}


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "rootfs").mkdir(mode=0o751)
    return {
        "process": {"args": ["sh"], "user": {"uid": 0, "gid": 5}, "env": ["SLURM_JOB_ID=7", "SLURMD_X=1", "A=SLURM"]},
        "root": {"path": str(tmp_path / "rootfs")},
        "mounts": [
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
            mount("/home", "/home", "rbind"),
            mount("/etc/hosts", "/etc/hosts", "bind", "ro"),
            mount("/var/run/slurm/", SPOOL, "bind"),
            mount("/tmp/slurm/stdout", "/home/alice/1.out", "bind"),
            mount("/tmp/slurm/startup", "/var/spool/slurmd/job00001/slurm_script", "bind", "ro"),
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "user"}]},
    }


def made(tmp_path: Path, config: dict[str, Any], script: bytes | None = None, **manifest: Any) -> Checkpoint:
    store = Store(str(tmp_path), "7/batch.0")
    store.prepare()
    with store.stage() as stage:
        for name in ("inventory.img", "pages-1.img", "stats-dump"):
            Path(stage.images, name).write_text(name * (1 << 17 if name.startswith("pages") else 1))
        Path(stage.images, "parent").mkdir()
        Path(stage.images, "parent/pages-1.img").write_text("older")
        stage.describe(config, {"name": "c"}, [], script)
        return stage.commit(full_manifest(**manifest, files=stage.sizes()))


def told(tmp_path: Path, config: dict[str, Any], rootfs: bool = False, **manifest: Any) -> dict[str, Any]:
    """The additions, their documents read."""
    found = podman.additions(made(tmp_path, config, **manifest), rootfs)
    return {name: json.loads(v) if name.endswith(("json", "dump")) else v for name, v in found.items()}  # type: ignore[arg-type]


def test_container(tmp_path: Path, config: dict[str, Any]) -> None:
    found = told(tmp_path, config, begun="2025-12-31T00:00:00Z")["config.dump"]
    assert found["createdTime"] == "2025-12-31T00:00:00Z"
    assert (found["name"], found["user"], found["networkMode"]) == ("c", "0:5", "host")
    assert len(found["id"]) == 64
    assert found["runtime"].endswith("/bin/oci-criu-shim")
    assert [found[name] for name in ("NoShm", "UseImageHosts", "UseImageResolvConf")] == [True, False, True]


@pytest.mark.parametrize(("path", "mode"), [("", "none"), ("/run/netns/a", "ns:/run/netns/a")])
def test_networks(tmp_path: Path, config: dict[str, Any], path: str, mode: str) -> None:
    config["linux"]["namespaces"].append({"type": "network", **({"path": path} if path else {})})
    assert told(tmp_path, config)["config.dump"]["networkMode"] == mode


def test_specification(tmp_path: Path, config: dict[str, Any]) -> None:
    found = told(tmp_path, config, uid_map=[[1, 100000, 9], [0, 1000, 1]])["spec.dump"]
    assert found["process"] == {**config["process"], "env": ["A=SLURM"]}
    rows = [{"containerID": 1, "hostID": 100000, "size": 9}, {"containerID": 0, "hostID": 1000, "size": 1}]
    assert (found["linux"]["uidMappings"], found["linux"]["gidMappings"]) == (rows, rows[1:])
    assert found["annotations"] == {
        "oci-criu-shim.rootfs": config["root"]["path"],
        "io.container.manager": "libpod",
    }
    sources = {entry["destination"]: entry["source"] for entry in found["mounts"]}
    assert sources == {
        **{"/dev/shm": "shm", "/home": "/home", "/etc/hosts": "/etc/hosts", "/var/run/slurm/": "artifacts/spool"},
        **{f"/tmp/slurm/{name}": f"artifacts/{name}" for name in ("stdout", "startup")},
    }


def test_without_a_user_namespace(tmp_path: Path, config: dict[str, Any]) -> None:
    config["linux"]["namespaces"].pop()
    assert "uidMappings" not in told(tmp_path, config)["spec.dump"]["linux"]


@pytest.mark.parametrize("script", [b"echo", None])
@pytest.mark.parametrize("spool", [SPOOL, SPOOL.removesuffix("/task-0/")])
def test_what_slurm_has_mounted(tmp_path: Path, config: dict[str, Any], spool: str, script: bytes | None) -> None:
    """The script is in the checkpoint; in one without it, its place is empty. The directory is the task's, or since
    Slurm 25.05 the step's."""
    config["mounts"][3]["source"] = spool
    found = told(tmp_path, config, script=script)
    assert {name: found[name] for name in found if name.startswith("artifacts/")} == {
        **{"artifacts/spool": None, "artifacts/stdout": b""},
        **({} if script else {"artifacts/startup": b""}),
    }


def test_with_the_root_file_system(tmp_path: Path, config: dict[str, Any]) -> None:
    rows = [{"mount": "/", "name": "a", "size": 3, "inode": 1}, {"mount": "/home", "name": "b", "size": 1, "inode": 2}]
    found = told(tmp_path, config, rootfs=True, written=rows)
    assert found["spec.dump"]["annotations"]["oci-criu-shim.rootfs-mode"] == "751"
    tree = found["rootfs-diff.tar"]
    assert isinstance(tree, Tree)
    assert (tree.root, tree.lengths) == (config["root"]["path"], {"a": 3})
    Path(config["root"]["path"]).rmdir()
    with pytest.raises(ShimError, match=r"rootfs: No such file"):
        told(tmp_path, config, rootfs=True)


def test_the_images_are_a_checkpoint_by_themselves(tmp_path: Path, config: dict[str, Any]) -> None:
    """As the verb `checkpoint` leaves them, for `restore`."""
    checkpoint = made(tmp_path, config)
    for name, content in podman.additions(checkpoint, False).items():
        if name.startswith("checkpoint/"):
            assert isinstance(content, bytes)
            Path(checkpoint.path, name).write_bytes(content)
    found = Directory(checkpoint.images).read()
    assert found
    assert set(found.manifest["files"]) == {"inventory.img", "pages-1.img", "parent/pages-1.img"}
    assert (found.manifest["own_cgroup"], found.manifest["needs"]["image"]) == (True, "")
    verification = Verification(found)
    verification.start()
    verification.require()
    assert not verification.gap


def test_the_bundles_root_is_used(tmp_path: Path, config: dict[str, Any]) -> None:
    path, own = config["root"]["path"], tmp_path / "podmans"
    own.mkdir(mode=0o555)
    bundle = Bundle("/", {"root": {"path": str(own)}, "annotations": {"oci-criu-shim.rootfs": path}})
    prepare_rootfs(bundle)
    assert bundle.rootfs == path
    bundle.config["annotations"]["oci-criu-shim.rootfs"] = "/nowhere"
    with pytest.raises(ShimError, match="not on this node: /nowhere"):
        prepare_rootfs(bundle)
    podmans = Bundle("/", {"root": {"path": str(own)}, "annotations": {"oci-criu-shim.rootfs-mode": "751"}})
    prepare_rootfs(podmans)
    assert (podmans.rootfs, own.stat().st_mode & 0o7777) == (str(own), 0o751)


def test_the_image_is_the_one_that_is_named() -> None:
    blobs = {path.name: path.read_bytes() for path in LAYOUT.glob("blobs/sha256/*")}
    assert blobs.keys() == {hashlib.sha256(data).hexdigest() for data in blobs.values()}
    (entry,) = json.loads((LAYOUT / "index.json").read_text())["manifests"]
    manifest = json.loads(blobs[entry["digest"].removeprefix("sha256:")])
    assert manifest["config"]["digest"] == f"sha256:{podman.IMAGE_ID}"
    assert podman.IMAGE.endswith(f"/image:{entry['annotations']['org.opencontainers.image.ref.name']}")


def test_what_has_changed_in_the_root_file_system(tmp_path: Path, config: dict[str, Any]) -> None:
    """Is as it was at the checkpoint."""
    Path(config["root"]["path"], "deleted").touch()
    checkpoint = made(tmp_path, config)
    with tarfile.open(Path(checkpoint.path, "rootfs-diff.tar"), "w") as layer:
        layer.addfile(tarfile.TarInfo("made"))
    Path(checkpoint.path, "deleted.files").write_text('["deleted"]')
    checkpoint.manifest["files"]["rootfs-diff.tar"] = 0
    tree = podman.additions(checkpoint, True)["rootfs-diff.tar"]
    assert isinstance(tree, Tree)
    with tarfile.open(fileobj=tree.stream(), mode="r|") as archive:
        assert archive.getnames() == [".", "made"]


def test_prefix() -> None:
    """Wherever in the package this module is: <prefix>/lib/oci-criu-shim/oci_criu_shim/__init__.py."""
    assert Path(podman.PREFIX) == Path(oci_criu_shim.__file__).parents[3]
