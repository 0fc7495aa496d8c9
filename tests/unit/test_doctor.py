"""The doctor: each check with its neighbours faked, in health and with its fault."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from oci_criu_shim import config
from oci_criu_shim.checkpoints import codec
from oci_criu_shim.cli import doctor
from oci_criu_shim.cli.doctor import node, sandbox, site
from oci_criu_shim.cli.doctor.verdicts import Caution, Skipped
from oci_criu_shim.dump.faults import processes
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import criu, process

Patch = pytest.MonkeyPatch


def raising(error: Exception) -> Callable[[], str]:
    def check() -> str:
        raise error

    return check


VERDICTS = [
    (lambda: "found", "ok"),
    (raising(ShimError("said", "do")), "failed"),
    (raising(Caution("said", "do")), "warning"),
    (raising(Skipped("said", "do")), "skipped"),
]


@pytest.mark.parametrize(("check", "status"), VERDICTS)
def test_verdict(check: Callable[[], str], status: str) -> None:
    found, hint = ("found", "") if status == "ok" else ("said", "do")
    assert doctor.examine("x", check) == {"name": "x", "status": status, "found": found, "hint": hint}


def test_system_error_is_a_failure() -> None:
    result = doctor.examine("x", raising(PermissionError(13, "Permission denied", "/etc/x")))
    assert (result["status"], result["found"]) == ("failed", "[Errno 13] Permission denied: '/etc/x'")


@pytest.fixture
def faked(monkeypatch: Patch) -> Callable[..., None]:
    """Makes the checks those that are given."""

    def put(*checks: Callable[[], str]) -> None:
        monkeypatch.setattr(node, "CHECKS", tuple((f"check {n}", check) for n, check in enumerate(checks)))
        monkeypatch.setattr(site, "checks", list)

    return put


def test_exit_status(faked: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    faked(*(check for check, status in VERDICTS if status != "failed"))
    assert doctor.main(as_json=False) == 0
    faked(*(check for check, _ in VERDICTS))
    assert doctor.main(as_json=False) == 1
    assert "failed   check 1" in capsys.readouterr().out


def test_table(faked: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    faked(lambda: "two\nlines", raising(ShimError("said", "do")))
    doctor.main(as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "ok       check 0  two lines",
        "failed   check 1  said",
        "                  -> do",
    ]


def test_json(faked: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    faked(lambda: "found", raising(Caution("said", "do")))
    doctor.main(as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"name": "check 0", "status": "ok", "found": "found", "hint": ""},
        {"name": "check 1", "status": "warning", "found": "said", "hint": "do"},
    ]


def test_names_tell_checks_apart() -> None:
    names = [name for name, _ in (*node.CHECKS, *site.checks())]
    assert len(names) == len(set(names))


# The sandbox


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: None, ""),
        (raising(ShimError("why")), "why"),
        (raising(OSError(1, "Operation not permitted", "unshare")), "unshare: Operation not permitted"),
        (raising(ValueError("a bug")), "exit status 1"),
    ],
)
def test_sandbox(monkeypatch: Patch, work: Callable[[], None], said: str) -> None:
    monkeypatch.setattr(sandbox, "_enter", lambda: None)
    assert sandbox.run(work) == said


# The node


@pytest.mark.parametrize(("name", "bad"), [(name, bad) for name, bad, _ in node.SYSCTLS])
def test_user_namespaces_by_sysctl(monkeypatch: Patch, name: str, bad: str) -> None:
    monkeypatch.setattr(sandbox, "run", lambda work: "unshare: Operation not permitted")
    monkeypatch.setattr(node, "sysctl", lambda asked: bad if asked == name else "")
    with pytest.raises(ShimError, match="can't make a user namespace: unshare") as caught:
        node.user_namespaces()
    assert name in caught.value.hint


def test_user_namespaces_for_another_reason(monkeypatch: Patch) -> None:
    monkeypatch.setattr(sandbox, "run", lambda work: "unshare: Invalid argument")
    monkeypatch.setattr(node, "sysctl", lambda name: {good_name: good for good_name, _, good in node.SYSCTLS}[name])
    with pytest.raises(ShimError) as caught:
        node.user_namespaces()
    assert "CONFIG_USER_NS" in caught.value.hint


def test_namespaces(monkeypatch: Patch) -> None:
    monkeypatch.setattr(sandbox, "run", lambda work: "no" if work.args == (node.NAMESPACES["time"],) else "")
    with pytest.raises(ShimError, match=r"in a user namespace: time: no$"):
        node.namespaces()
    monkeypatch.setattr(sandbox, "run", lambda work: "")
    assert "time" in node.namespaces()


def test_sysctl() -> None:
    assert node.sysctl("kernel.ostype") == "Linux"
    assert node.sysctl("kernel.nonexistent") == ""


@pytest.mark.parametrize(("version", "release", "good"), [((4, 1, 1), "6.18.1", False), ((4, 2), "6.18.1", True)])
def test_criu_version(monkeypatch: Patch, version: tuple[int, ...], release: str, good: bool) -> None:
    monkeypatch.setattr(criu, "program", lambda: "/x/criu")
    monkeypatch.setattr(criu, "version", lambda env: version)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    if good:
        assert node.criu_version() == "/x/criu 4.2"
    else:
        with pytest.raises(ShimError, match=r"CRIU 4\.1\.1 is too old for Linux 6\.18\.1"):
            node.criu_version()


def test_no_criu(monkeypatch: Patch) -> None:
    monkeypatch.setattr(process, "find", lambda name: None)
    for check in (node.criu_version, node.criu_features):
        with pytest.raises(ShimError, match="criu is not installed"):
            check()


def test_criu_features(monkeypatch: Patch) -> None:
    monkeypatch.setattr(criu, "program", lambda: "/x/criu")
    monkeypatch.setattr(sandbox, "_enter", lambda: None)
    monkeypatch.setattr(criu, "supports", lambda program, name: name != "timens")
    with pytest.raises(ShimError, match=r"no timens$"):
        node.criu_features()
    monkeypatch.setattr(criu, "supports", lambda program, name: True)
    assert "timens" in node.criu_features()


def test_apparmor(monkeypatch: Patch, tmp_path: Path) -> None:
    enabled, seen = tmp_path / "enabled", tmp_path / "apparmor"
    monkeypatch.setattr(node, "APPARMOR_ENABLED", str(enabled))
    monkeypatch.setattr(processes, "APPARMOR", str(seen))
    with pytest.raises(Skipped):
        node.apparmor()
    enabled.write_text("N\n")
    with pytest.raises(Skipped):
        node.apparmor()
    enabled.write_text("Y\n")
    with pytest.raises(Caution, match="securityfs is not mounted") as caught:
        node.apparmor()
    assert "mount -t securityfs" in caught.value.hint
    seen.mkdir()
    assert node.apparmor() == str(seen)


@pytest.mark.parametrize(("named", "found"), [("", ["crun"]), ("crun", ["crun"]), ("runc", ["runc", "crun"])])
def test_backends(monkeypatch: Patch, named: str, found: list[str]) -> None:
    monkeypatch.setattr(config, "backend", lambda: named)
    monkeypatch.setattr(process, "find", lambda name: f"/x/{name}")
    monkeypatch.setattr(process, "output", lambda argv, env: (0, "version 1\ncommit: 0\n", ""))
    assert node.installed_backends() == "; ".join(f"/x/{name}: version 1" for name in found)


def test_backend_that_does_not_run(monkeypatch: Patch) -> None:
    monkeypatch.setattr(config, "backend", lambda: "")
    monkeypatch.setattr(process, "find", lambda name: f"/x/{name}")
    monkeypatch.setattr(process, "output", lambda argv, env: (127, "", "no libcrun\n"))
    with pytest.raises(ShimError, match="no libcrun"):
        node.installed_backends()
    monkeypatch.setattr(process, "find", lambda name: None)
    with pytest.raises(ShimError, match="no crun"):
        node.installed_backends()


@pytest.mark.parametrize(("check", "module"), [(criu.bindings, "pycriu.images"), (node.jsonschema, "jsonschema")])
def test_packages(monkeypatch: Patch, check: Callable[[], str], module: str) -> None:
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(__file__="/x/__init__.py"))
    monkeypatch.setitem(sys.modules, module.split(".")[0], sys.modules[module])
    assert check() == "/x/__init__.py"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ShimError) as caught:
        check()
    assert f"python3-{module.split('.')[0]}" in caught.value.hint


def test_subids(monkeypatch: Patch) -> None:
    monkeypatch.setattr(node, "has_range", lambda path: False)
    with pytest.raises(Skipped):
        node.subids()
    monkeypatch.setattr(node, "has_range", lambda path: True)
    monkeypatch.setattr(process, "find", lambda name: None if name == "newgidmap" else f"/x/{name}")
    with pytest.raises(ShimError, match=r"there is no newgidmap$") as caught:
        node.subids()
    assert "uidmap" in caught.value.hint
    monkeypatch.setattr(process, "find", lambda name: f"/x/{name}")
    assert "/etc/subgid" in node.subids()


@pytest.mark.parametrize(
    ("text", "uid", "has"),
    [("alice:1:2\n", 4242, False), ("4242:1:2\n", 4242, True), ("alice:1:2\n", 0, True), ("\n", 0, False)],
)
def test_has_range(monkeypatch: Patch, tmp_path: Path, text: str, uid: int, has: bool) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    (tmp_path / "subuid").write_text(text)
    assert node.has_range(str(tmp_path / "subuid")) is has
    assert node.has_range(str(tmp_path / "none")) is False


@pytest.fixture
def checkpoints(monkeypatch: Patch, tmp_path: Path) -> Path:
    """A checkpoint-dir of a user's, which nobody has made yet."""
    settings = config.Settings({**config.DEFAULTS, "checkpoint-dir": str(tmp_path / "a/b")})
    monkeypatch.setattr(config, "load", lambda: settings)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    return tmp_path / "a/b"


KINDS = [("nfs4", None), ("fuse.ceph", None), ("ext4", Caution), ("tmpfs", ShimError)]


@pytest.mark.parametrize(("kind", "error"), KINDS)
def test_directory(monkeypatch: Patch, checkpoints: Path, kind: str, error: type[ShimError] | None) -> None:
    monkeypatch.setattr(node, "filesystem", lambda path: kind)
    if error is None:
        assert node.directory() == f"{checkpoints} on {kind}"
        return
    with pytest.raises(error, match=f"on (a )?{kind}") as caught:
        node.directory()
    assert type(caught.value) is error


def test_directory_that_cannot_be_written(monkeypatch: Patch, checkpoints: Path) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ShimError, match="can't be written"):
        node.directory()


def test_directory_of_each_user(monkeypatch: Patch) -> None:
    monkeypatch.setattr(config, "load", lambda: config.Settings(config.DEFAULTS))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for check in (node.directory, node.space):
        with pytest.raises(Skipped, match="every user has another one"):
            check()


def test_settings_that_cannot_be_read(monkeypatch: Patch) -> None:
    for name in ("load", "backend"):
        monkeypatch.setattr(config, name, raising(ShimError("config.toml: line 1")))
    with pytest.raises(ShimError, match="line 1"):
        node.settings()
    for check in (node.installed_backends, node.directory, node.space):
        with pytest.raises(Skipped):
            check()


ROOM = [(1 << 40, 9, None), (9, 9, Caution), (0, 9, ShimError), (9, 0, ShimError)]


@pytest.mark.parametrize(("free", "inodes", "error"), ROOM)
def test_space(monkeypatch: Patch, checkpoints: Path, free: int, inodes: int, error: type[ShimError] | None) -> None:
    stat = SimpleNamespace(f_bavail=free, f_frsize=1, f_files=10, f_favail=inodes)
    monkeypatch.setattr(os, "statvfs", lambda path: stat)
    monkeypatch.setattr(os, "sysconf", lambda name: 4096)
    if error is None:
        assert node.space().startswith("1024.0 GiB free")
        return
    with pytest.raises(error) as caught:
        node.space()
    assert type(caught.value) is error


def test_compression(monkeypatch: Patch, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    monkeypatch.setattr(config.load, "__defaults__", (str(path),))
    assert node.compression() == "off"
    path.write_text('compress = "lz4:3"')
    assert node.compression().startswith("lz4:3: /")
    monkeypatch.setitem(codec.MODULES, "lz4", "no_such_module")
    with pytest.raises(Caution, match=r"no lz4 on this node.*: checkpoints stay uncompressed") as caught:
        node.compression()
    assert caught.value.hint == "install python3-lz4"
    path.write_text('compress = "gzip"')
    with pytest.raises(Skipped, match=r"config.toml can't be used"):
        node.compression()
