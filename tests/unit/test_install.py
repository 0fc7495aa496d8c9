"""`make install` and `make uninstall`, into a directory, with a compiler that compiles nothing."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from oci_criu_shim import __version__

REPOSITORY = Path(__file__).parents[2]
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(not MAKE, reason="no make")
COMPILER = """#!/bin/sh
[ "$*" = "${*% -E -}" ] || exit {status}
while [ $# -gt 0 ]; do
    [ "$1" != -o ] || echo made >"$2"
    shift
done
"""
PLACES = ("usr/bin", "usr/lib", "usr/share", "etc/oci-criu-shim")
PROGRAMS = ("helper", "watcher", "proxy", "task", "bin/gzip", "named-by-slurm")
OTHERS = ("worker.py", "oci_criu_shim_spank.so", "criu_preload.so", "criu_restart.so", "criu_seccomp.so")


def make(target: str, root: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run make with `root` as DESTDIR, where a compiler is that finds Slurm's headers if `status` is 0."""
    compiler = root.parent / f"cc{status}"
    compiler.write_text(COMPILER.replace("{status}", str(status)))
    compiler.chmod(0o755)
    given = (f"DESTDIR={root}", f"BUILD={root.parent}/build{status}", f"CC={compiler}")
    argv = [MAKE or "make", "-s", target, *given, *words]
    env = {"PATH": os.environ["PATH"]}
    return subprocess.run(argv, cwd=REPOSITORY, env=env, umask=0o077, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a root whose umask is 077 has installed."""
    root = tmp_path_factory.mktemp("install") / "root"
    done = make("install", root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(whole, tmp_path / "root", symlinks=True)
    return tmp_path / "root"


def test_users_can_read_it(whole: Path) -> None:
    for place in PLACES:
        for path in [whole / place, *(whole / place).rglob("*")]:
            wanted = 0o055 if path.is_dir() else 0o044
            assert path.stat().st_mode & wanted == wanted, path


def test_the_list_of_files_is_whole(whole: Path) -> None:
    library = whole / "usr/lib/oci-criu-shim"
    lines = (library / "FILES").read_text().splitlines()
    listed = {name: int(mode, 8) for mode, _, name in (line.partition(" ") for line in lines)}
    there = {path for path in library.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert set(listed) == {str(path.relative_to(library)) for path in there} - {"FILES"}
    assert {name for name, mode in listed.items() if mode & stat.S_IXUSR} == set(PROGRAMS)
    assert set(OTHERS) < set(listed)
    sources = [path for path in (REPOSITORY / "src/oci_criu_shim").rglob("*.*") if path.suffix != ".pyc"]
    assert {str(path.relative_to(REPOSITORY / "src")) for path in sources} < set(listed)


def test_one_version() -> None:
    changelog, spec = ((REPOSITORY / path).read_text() for path in ("debian/changelog", "packaging/oci-criu-shim.spec"))
    assert re.findall(r"^oci-criu-shim \((.*)\) ", changelog, re.MULTILINE)[0] == __version__
    assert re.findall(r"^Version: (.*)", spec, re.MULTILINE) == [__version__]


def test_for_another_system(tmp_path: Path) -> None:
    """Its Python's packages are in other directories, and its package manager makes the byte code."""
    root = tmp_path / "root"
    assert make("install", root, "PACKAGES=/a:/b", "BYTECODE=:").returncode == 0
    library = root / "usr/lib/oci-criu-shim"
    programs = (root / "usr/bin/oci-criu-shim", library / "task", library / "slurm_bundle.py")
    for path in (*programs, library / "oci_criu_shim/host/criu.py"):
        assert '"/a:/b".split(":")' in path.read_text()
    left = [path for path in root.rglob("*") if path.is_file() and b"dist-packages" in path.read_bytes()]
    assert left == []
    assert not list(root.rglob("*.pyc"))


def test_without_slurms_headers_nothing_is_changed(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    done = make("install", root, status=1)
    assert done.returncode and "error: no slurm/spank.h (hint: apt-get install libslurm-dev)\n" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_without_a_compiler(root: Path) -> None:
    done = make("install", root, "CC=/nonexistent/cc", f"BUILD={root.parent}/none")
    assert done.returncode and "error: no /nonexistent/cc (hint: apt-get install gcc)\n" in done.stderr


def left(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_uninstall(root: Path) -> None:
    done = make("uninstall", root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert left(root) <= {"usr", "etc"}


def test_uninstall_leaves_what_the_site_wrote(root: Path) -> None:
    (root / "etc/oci-criu-shim/config.toml").write_text("keep = 3\n")
    (root / "etc/oci-criu-shim/slurm-oci/partition").mkdir()
    done = make("uninstall", root)
    assert done.stdout == f"left: {root}/etc/oci-criu-shim, with what the site has put there\n"
    kept = ("", "/config.toml", "/slurm-oci", "/slurm-oci/partition")
    assert left(root) == {"usr", "etc", *(f"etc/oci-criu-shim{name}" for name in kept)}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("etc/slurm/plugstack.conf", "  required /usr/lib/oci-criu-shim/oci_criu_shim_spank.so"),
        ("etc/slurm/plugstack.conf", "optional\toci_criu_shim_spank.so"),
        ("etc/slurm/plugstack.conf.d/ours.conf", "include /usr/share/oci-criu-shim/plugstack.conf"),
        ("run/slurm/conf/oci.conf", 'RunTimeRun="exec /usr/bin/oci-criu-shim --root=/run/oci-criu-shim/%j run %n"'),
        ("etc/slurm/oci.conf", "SrunPath=/etc/oci-criu-shim/slurm-oci/srun"),
        ("etc/slurm/cli_filter.lua", 'dofile("/etc/oci-criu-shim/cli_filter.lua")'),
    ],
)
def test_uninstall_while_slurm_names_it(root: Path, file: str, text: str) -> None:
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(f"# a comment\n{text}\n")
    before = left(root)
    done = make("uninstall", root)
    assert done.returncode and left(root) == before
    assert f"{root}/{file}:2:{text}"[:100] in done.stderr
    assert "hint: take these lines out on all nodes, run `scontrol reconfigure`" in done.stderr
    assert make("uninstall", root, "FORCE=1").returncode == 0
    assert "usr/lib" not in left(root)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("etc/slurm/plugstack.conf", "# required /usr/lib/oci-criu-shim/oci_criu_shim_spank.so"),
        ("etc/slurm/plugstack.conf", "required /opt/lib/oci-criu-shim/oci_criu_shim_spank.so"),
        ("etc/slurm/cli_filter.lua", '-- dofile("/etc/oci-criu-shim/cli_filter.lua")'),
    ],
)
def test_uninstall_if_slurm_does_not_name_it(root: Path, file: str, text: str) -> None:
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(f"{text}\n")
    assert make("uninstall", root).returncode == 0
    assert "usr/lib" not in left(root)


@pytest.mark.parametrize(("given", "directory"), [((), "/p/lib/oci-criu-shim"), (("LIBDIR=/q",), "/q")])
def test_the_launcher_finds_the_package(given: tuple[str, ...], directory: str) -> None:
    words = [MAKE or "make", "--dry-run", "install", "PREFIX=/p", *given]
    lines = subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.splitlines()
    (edit,) = [line for line in lines if line.startswith("sed -i ")]
    edit = edit.replace(" -i ", " ").replace("/p/bin/oci-criu-shim", "src/launcher.py")
    launcher = subprocess.run(edit, shell=True, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert f'sys.path.insert(0, "{directory}")' in launcher
