"""The doctor: each check with its neighbours faked, in health and with its fault."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from oci_criu_shim import __version__, config
from oci_criu_shim.checkpoints import codec
from oci_criu_shim.cli import doctor
from oci_criu_shim.cli.doctor import installation, node, report, roots, sandbox, settings, site
from oci_criu_shim.cli.doctor.verdicts import Caution, Skipped
from oci_criu_shim.container import ownership
from oci_criu_shim.dump.faults import processes
from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import criu, process

Patch = pytest.MonkeyPatch


def raising(error: Exception) -> Callable[..., str]:
    def check(*_: object) -> str:
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
    expected = {"host": os.uname().nodename, "name": "x", "status": status, "found": found, "hint": hint}
    assert doctor.examine("x", check) == expected


def test_system_error_is_a_failure() -> None:
    result = doctor.examine("x", raising(PermissionError(13, "Permission denied", "/etc/x")))
    assert (result["status"], result["found"]) == ("failed", "/etc/x: Permission denied")


@pytest.fixture
def faked(monkeypatch: Patch) -> Callable[..., None]:
    """Makes the checks those that are given."""

    def put(*checks: Callable[[], str]) -> None:
        monkeypatch.setattr(node, "CHECKS", tuple((f"check {n}", check) for n, check in enumerate(checks)))
        monkeypatch.setattr(site, "checks", list)

    return put


def test_exit_status(faked: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    faked(*(check for check, status in VERDICTS if status != "failed"))
    assert doctor.main(as_json=False, quiet=False) == 0
    faked(*(check for check, _ in VERDICTS))
    assert doctor.main(as_json=False, quiet=True) == 1
    assert "failed   check 1" in capsys.readouterr().out


def test_table(faked: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    faked(lambda: "two\nlines", raising(ShimError("said", "do\nand do")))
    doctor.main(as_json=False, quiet=False)
    assert capsys.readouterr().out.splitlines() == [
        "ok       check 0  two lines",
        "failed   check 1  said",
        "                  -> do",
        "                     and do",
        "2 checks: 1 failed",
    ]


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        (("ok", "ok"), "2 checks: all ok"),
        (("ok", "warning", "skipped"), "3 checks: 1 warning, 1 skipped"),
        (("failed", "warning", "warning", "failed"), "4 checks: 2 failed, 2 warnings"),
    ],
)
def test_sum(
    faked: Callable[..., None], capsys: pytest.CaptureFixture[str], statuses: tuple[str, ...], said: str
) -> None:
    checks = {status: check for check, status in VERDICTS}
    faked(*(checks[status] for status in statuses))
    doctor.main(as_json=False, quiet=False)
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_quiet(faked: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    faked(*(check for check, _ in VERDICTS))
    doctor.main(as_json=False, quiet=True)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["failed", "->", "warning", "->", "4"]
    faked(lambda: "found", raising(Skipped("said")))
    doctor.main(as_json=False, quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_colour(monkeypatch: Patch, terminal: bool, environment: dict[str, str], coloured: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: terminal))
    failed = doctor.examine("x", raising(ShimError("said")))
    lines = ["failed   x  said", "1 checks: 1 failed"]
    red = ["\033[1;31mfailed  \033[m x  said", "1 checks: \033[1;31m1 failed\033[m"]
    assert report.text([failed], quiet=False).splitlines() == (red if coloured else lines)


def test_json(faked: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    faked(lambda: "found", raising(Caution("said", "do")))
    doctor.main(as_json=True, quiet=False)
    host = os.uname().nodename
    assert json.loads(capsys.readouterr().out) == [
        {"host": host, "name": "check 0", "status": "ok", "found": "found", "hint": ""},
        {"host": host, "name": "check 1", "status": "warning", "found": "said", "hint": "do"},
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
    with pytest.raises(ShimError, match="criu is not installed"):
        node.criu_version()
    with pytest.raises(Skipped, match="criu is not installed"):
        node.criu_features()


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


def test_inotify(monkeypatch: Patch, tmp_path: Path) -> None:
    unified = tmp_path / "cgroup.controllers"
    monkeypatch.setattr(node, "UNIFIED", str(unified))
    with pytest.raises(Skipped):
        node.inotify()
    unified.touch()
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    monkeypatch.setattr(node, "sysctl", lambda name: "128")
    with pytest.raises(Caution, match="with 96 jobs here, root may run out of them") as caught:
        node.inotify()
    assert caught.value.hint.startswith("sysctl -w fs.inotify.max_user_instances=1024, ")
    monkeypatch.setattr(node, "sysctl", lambda name: "1024")
    assert node.inotify() == "fs.inotify.max_user_instances=1024"


@pytest.mark.parametrize(("named", "found"), [("", ["crun"]), ("crun", ["crun"]), ("runc", ["runc", "crun"])])
def test_backends(monkeypatch: Patch, site_file: Path, named: str, found: list[str]) -> None:
    site_file.write_text(f'backend = "{named}"')
    monkeypatch.setattr(process, "find", lambda name: f"/x/{name}")
    monkeypatch.setattr(process, "output", lambda argv, env: (0, "version 1\ncommit: 0\n", ""))
    assert node.installed_backends() == "; ".join(f"/x/{name}: version 1" for name in found)


def test_backend_that_does_not_run(monkeypatch: Patch, site_file: Path) -> None:
    monkeypatch.setattr(process, "find", lambda name: f"/x/{name}")
    monkeypatch.setattr(process, "output", lambda argv, env: (127, "", "no libcrun\n"))
    with pytest.raises(ShimError, match="no libcrun"):
        node.installed_backends()
    monkeypatch.setattr(process, "find", lambda name: None)
    with pytest.raises(ShimError, match="no crun in /usr/local") as caught:
        node.installed_backends()
    assert caught.value.hint == "install crun, or name another backend"


def test_tasks_without_a_container(monkeypatch: Patch, site_file: Path) -> None:
    """They need an init, unless the site has none of them checkpointed."""
    monkeypatch.setattr(process, "find", lambda name: f"/x/{name}" if name == "catatonit" else None)
    assert node.bare_tasks() == "/x/catatonit"
    monkeypatch.setattr(process, "find", lambda name: None)
    with pytest.raises(Caution, match="no init for a task without a container") as caught:
        node.bare_tasks()
    assert caught.value.hint == "install tini, or set bare-jobs to none in config.toml"
    site_file.write_text('bare-jobs = "none"')
    with pytest.raises(Skipped):
        node.bare_tasks()


@pytest.mark.parametrize("uid", [0, 4242])
def test_root_runs_nothing_that_others_may_write(monkeypatch: Patch, tmp_path: Path, uid: int) -> None:
    """A user may: their jobs do."""
    program = tmp_path / "crun"
    program.touch()
    program.chmod(0o777)
    calls: list[str] = []

    def noted(argv: list[str], env: object) -> tuple[int, str, str]:
        calls.append(argv[0])
        return 0, "crun version 1\n", ""

    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(ownership, "user_of", raising(ShimError("anybody's")))
    monkeypatch.setattr(process, "in_a_user_namespace", lambda: False)
    monkeypatch.setattr(process, "output", noted)
    if uid:
        assert node.program_version(str(program)) == f"{program}: crun version 1"
        return
    with pytest.raises(Caution, match=r"crun .*root does not ask for its version, but everybody's jobs run it"):
        node.program_version(str(program))
    assert not calls


def test_root_runs_nothing_that_a_config_of_others_names(monkeypatch: Patch, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('backend = "/bin/false"')
    monkeypatch.setattr(config, "PATH", str(path))
    monkeypatch.setattr(ownership, "user_of", raising(ShimError("anybody's")))
    monkeypatch.setattr(process, "in_a_user_namespace", lambda: False)
    with pytest.raises(Skipped, match=r"config.toml can't be used"):
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


@pytest.mark.parametrize(
    ("bindings", "version", "good"), [("4.2.1", (4, 2), True), ("4.2", (4, 3), False), ("", (4, 1, 1), True)]
)
def test_pycriu(monkeypatch: Patch, bindings: str, version: tuple[int, ...], good: bool) -> None:
    """Without a version, it is of CRIU 4.1 or older."""
    package = SimpleNamespace(__file__="/x/__init__.py", __version__=bindings)
    for name in ("pycriu", "pycriu.images", *(["pycriu.version"] if bindings else [])):
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(criu, "version", lambda _: version)
    monkeypatch.setattr(process, "find", lambda name: f"/x/{name}")
    if good:
        assert node.pycriu() == "/x/__init__.py"
        return
    with pytest.raises(Misfit, match=r"pycriu 4.2 is older than CRIU 4.3, and doesn't know all of its images"):
        node.pycriu()


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
def site_file(monkeypatch: Patch, tmp_path: Path) -> Path:
    """The site's config.toml, which only root can write."""
    path = tmp_path / "config.toml"
    path.touch()
    for read in (config.load, config.read):
        monkeypatch.setattr(read, "__defaults__", (str(path),))
    monkeypatch.setattr(config, "PATH", str(path))
    monkeypatch.setattr(ownership, "user_of", lambda path: None)
    monkeypatch.setattr(roots, "require_readable", lambda path, why: None)
    return path


@pytest.fixture
def checkpoints(monkeypatch: Patch, site_file: Path, tmp_path: Path) -> Path:
    """A checkpoint-dir of a user's, which nobody has made yet."""
    site_file.write_text(f'checkpoint-dir = "{tmp_path}/a/b"')
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


def test_directory_of_each_user(monkeypatch: Patch, site_file: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for check in (node.directory, node.space):
        with pytest.raises(Skipped, match=r"^~/.local/state/oci-criu-shim: every user has another one"):
            check()


def test_what_directories_of_all_users_share(monkeypatch: Patch, site_file: Path) -> None:
    """Root sees what it is on, and does not ask whether root can write it."""
    site_file.write_text('checkpoint-dir = "/scratch/of-$USER/ck"')
    asked: list[str] = []

    def existing(path: str) -> str:
        asked.append(path)
        return "/"

    monkeypatch.setattr(node, "existing", existing)
    monkeypatch.setattr(node, "filesystem", lambda path: "tmpfs")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ShimError, match=r"^/scratch is on a tmpfs"):
        node.directory()
    assert asked == ["/scratch"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "all defaults"), ("keep = 2", "all defaults"), ("keep = 3\nquota = '20G'", 'keep = 3, quota = "20G"')],
)
def test_settings(site_file: Path, text: str, said: str) -> None:
    site_file.write_text(text)
    assert settings.check() == f"{site_file}: {said}"
    site_file.unlink()
    assert settings.check() == "there is none: all defaults"


def test_settings_that_cannot_be_used(site_file: Path) -> None:
    site_file.write_text('backend = "runc\n')
    with pytest.raises(ShimError, match="line 1"):
        settings.check()
    for check in (node.installed_backends, node.compression, node.directory, node.space):
        with pytest.raises(Skipped, match=r"config.toml can't be used"):
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


def test_compression(monkeypatch: Patch, site_file: Path) -> None:
    assert node.compression().startswith("auto: /")
    site_file.write_text('compress = "lz4:3"')
    assert node.compression().startswith("lz4:3: /")
    monkeypatch.setitem(codec.MODULES, "lz4", "no_such_module")
    with pytest.raises(Caution, match=r"no lz4 on this node.*: checkpoints stay uncompressed") as caught:
        node.compression()
    assert caught.value.hint == "install python3-lz4"
    site_file.write_text('compress = "gzip"')
    with pytest.raises(Skipped, match=r"config.toml can't be used"):
        node.compression()


def test_checksums(monkeypatch: Patch) -> None:
    assert node.checksums() == "XXH3"
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with pytest.raises(Caution, match="take several times as long") as caught:
        node.checksums()
    assert caught.value.hint == "install python3-xxhash"


# Who may write, who may read


class Found:
    """What stat() says of a path."""

    def __init__(self, mode: int, uid: int = 0) -> None:
        self.st_mode, self.st_uid = mode, uid


@pytest.mark.parametrize(
    ("found", "said", "hint"),
    [
        (Found(0o100644, 4242), "/etc/x belongs to 4242: why", "chown root: /etc/x; chmod go-w /etc/x"),
        (Found(0o100666), "/etc/x can be written by others: why", "chown root: /etc/x; chmod go-w /etc/x"),
        (Found(0o100644), "/etc can be written by others: why", "chmod go-w /etc"),
    ],
)
def test_who_may_write(monkeypatch: Patch, found: Found, said: str, hint: str) -> None:
    error = ShimError("/etc can be written by others", "chmod go-w /etc")
    monkeypatch.setattr(ownership, "user_of", raising(error))
    monkeypatch.setattr(process, "in_a_user_namespace", lambda: False)
    monkeypatch.setattr(roots, "os", SimpleNamespace(stat=lambda path: found))
    with pytest.raises(ShimError, match=said) as caught:
        roots.require("/etc/x", "why")
    assert caught.value.hint == hint
    monkeypatch.setattr(process, "in_a_user_namespace", lambda: True)
    roots.require("/etc/x", "why")


@pytest.mark.parametrize(
    ("closed", "hint"), [("", ""), ("/etc/x/y", "chmod 644 /etc/x/y"), ("/etc/x", "chmod 755 /etc/x")]
)
def test_who_may_read(monkeypatch: Patch, closed: str, hint: str) -> None:
    stat = SimpleNamespace(stat=lambda path: Found(0o600 if path == closed else 0o755), path=os.path)
    monkeypatch.setattr(roots, "os", stat)
    if not closed:
        roots.require_readable("/etc/x/y", "why")
        return
    with pytest.raises(ShimError, match=f"^{closed} is closed to users: why$") as caught:
        roots.require_readable("/etc/x/y", "why")
    assert caught.value.hint == hint


# What is installed

INSTALLED = {"helper": 0o755, "worker.py": 0o644, "criu_preload.so": 0o644, "oci_criu_shim/restore/restore.py": 0o644}


@pytest.fixture
def installed(monkeypatch: Patch, tmp_path: Path) -> Path:
    """An installation, which only root can write."""
    for name, mode in INSTALLED.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("made")
        path.chmod(mode)
    listed = "".join(f"{mode:o} {name}\n" for name, mode in INSTALLED.items())
    (tmp_path / installation.LIST).write_text(listed)
    monkeypatch.setattr(installation, "LIBDIR", str(tmp_path))
    monkeypatch.setattr(ownership, "user_of", lambda path: None)
    monkeypatch.setattr(process, "in_a_user_namespace", lambda: os.geteuid() != 0)
    return tmp_path


def test_whole(installed: Path) -> None:
    assert installation.whole() == f"{installed}: version {__version__}, 4 files"
    (installed / "launcher.py").touch()
    with pytest.raises(Skipped, match="runs in its sources"):
        installation.whole()


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize(
    ("fault", "done"),
    [
        ("missing", lambda path: path.unlink()),
        ("empty", lambda path: path.write_text("")),
        ("closed to users", lambda path: path.chmod(path.stat().st_mode & ~0o044)),
        ("not only root's to write", lambda path: path.chmod(path.stat().st_mode | 0o002)),
    ],
)
def test_a_part_with_a_fault(installed: Path, name: str, fault: str, done: Callable[[Path], None]) -> None:
    done(installed / name)
    with pytest.raises(ShimError, match=f"^{installed}: {fault}: {name}$") as caught:
        installation.whole()
    assert caught.value.hint == installation.INSTALL


def test_parts_with_several_faults(installed: Path) -> None:
    (installed / "helper").chmod(0o644)
    (installed / "worker.py").unlink()
    (installed / "criu_preload.so").unlink()
    with pytest.raises(ShimError, match=r": not executable: helper; missing: worker.py, criu_preload.so$"):
        installation.whole()


def test_an_installation_that_was_interrupted(installed: Path) -> None:
    (installed / installation.LIST).unlink()
    with pytest.raises(ShimError, match="is not whole"):
        installation.whole()


def test_an_installation_of_others(installed: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(ownership, "user_of", raising(ShimError("/usr/lib can be written by others", "chmod")))
    monkeypatch.setattr(process, "in_a_user_namespace", lambda: False)
    with pytest.raises(ShimError, match=r"root's programs are there$"):
        installation.whole()
