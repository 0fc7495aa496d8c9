"""Which backend is chosen, how it is called, and how crun takes over a restored container."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from oci_criu_shim.container import backends, registry
from oci_criu_shim.container.backends import Backend
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.log import Log


def bundle(**annotations: str) -> Bundle:
    return Bundle("/b", {"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "annotations": annotations})


def fake(directory: Path, name: str, version: str = "") -> str:
    """A program that can be run, and says what it is; its path."""
    path = directory / name
    path.write_text(f"#!/bin/sh\necho 'asked {version}' >>$0.log\nprintf '{version}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A site without a setting."""
    monkeypatch.setattr("oci_criu_shim.config.backend", lambda: "")
    return monkeypatch


def test_the_command_line_comes_first(site: pytest.MonkeyPatch) -> None:
    assert backends.choose("/opt/other", bundle(**{backends.ANNOTATION: "runc"})) == "/opt/other"


def test_then_the_annotation_then_the_site_then_crun(site: pytest.MonkeyPatch) -> None:
    assert backends.choose(None, bundle(**{backends.ANNOTATION: "runc"})) == "runc"
    assert backends.choose(None, bundle()) == "crun"
    site.setattr("oci_criu_shim.config.backend", lambda: "runc")
    assert backends.choose(None, bundle()) == "runc"


def test_an_annotation_names_no_path() -> None:
    with pytest.raises(ShimError, match="names '/tmp/evil'"):
        backends.choose(None, bundle(**{backends.ANNOTATION: "/tmp/evil"}))


def test_argv(tmp_path: Path) -> None:
    program = fake(tmp_path, "crun")
    given = {"log": "/l", "log-format": "json", "systemd-cgroup": "true", "root": "/r", "backend": program}
    argv = Backend(program, "/r", given, Log()).argv("kill", "id", "9")
    root = backends.directory("/r", program)
    wanted = [program, "--root", root, "--log=/l", "--log-format=json", "--cgroup-manager=systemd", "kill", "id", "9"]
    assert argv == wanted


@pytest.mark.parametrize(
    ("user", "name", "given", "wanted"),
    [
        (1000, "crun", {}, ["--cgroup-manager=disabled"]),
        (1000, "crun", {"cgroup-manager": "cgroupfs"}, ["--cgroup-manager=cgroupfs"]),
        (1000, "crun", {"cgroup-manager": "systemd"}, ["--cgroup-manager=systemd"]),
        (1000, "crun", {"systemd-cgroup": "true"}, ["--cgroup-manager=systemd"]),
        (1000, "runc", {}, []),
        (0, "runc", {"cgroup-manager": "systemd"}, ["--systemd-cgroup"]),
        (0, "runc", {"cgroup-manager": "cgroupfs"}, []),
        (0, "crun", {}, []),
    ],
)
def test_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, name: str, given: dict[str, str], wanted: list[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    argv = Backend(fake(tmp_path, name), "/r", given, Log()).argv("state", "id")
    assert [word for word in argv if "cgroup" in word] == wanted
    assert not (tmp_path / f"{name}.log").exists()  # those two need not be asked


@pytest.mark.parametrize(("name", "said"), [("crun", "--cgroup-manager is cgroupfs, systemd, disabled"), ("runc", "")])
def test_control_groups_that_are_refused(tmp_path: Path, name: str, said: str) -> None:
    given = {"cgroup-manager": "other" if said else "disabled"}
    with pytest.raises(ShimError, match=said or "runc has no --cgroup-manager=disabled"):
        Backend(fake(tmp_path, name), "/r", given, Log()).argv("state", "id")


@pytest.mark.parametrize(
    ("version", "dialect"),
    [
        ("crun version 1.21\\ncommit: x\\n", "crun"),
        ("runc version 1.1.15\\n", "runc"),
        ("youki version 0.5\\n", "runc"),
        ("NVIDIA Container Runtime version 1.17\\n\\ncrun version 1.21\\n", "crun"),
        ("", "runc"),
    ],
)
def test_a_backend_says_what_it_is(tmp_path: Path, version: str, dialect: str) -> None:
    """Once, and never again where it was noted."""
    program = fake(tmp_path, "other", version)
    backend = Backend(program, "/r", {}, Log())
    assert (backend.dialect, backend.leaves_streams) == (dialect, dialect == "crun")
    assert backend.record() == {"backend": program, "dialect": dialect}
    assert Backend(program, "/r", {}, Log(), dialect).dialect == dialect
    assert (tmp_path / "other.log").read_text().count("asked") == 1


def test_limits_that_cannot_be_set(tmp_path: Path) -> None:
    program = tmp_path / "crun"
    program.write_text("#!/bin/sh\necho no such controller >&2; exit 1\n")
    program.chmod(0o755)
    container = Container(str(tmp_path), "one")
    container.reserve()
    limited = Bundle("/b", {"linux": {"resources": {"pids": {"limit": 5}}}})
    with pytest.raises(ShimError, match=r"limits of one could not be set, .*: no such controller"):
        backends.limit(Backend(str(program), str(tmp_path), {}, Log()), container, limited)


HELP = """\
case "$*" in
    *"exec --help") echo "  -g, --additional-gids=GID  --ignore-paused" ;;
    *"spec --help") echo "  --bundle value, -b value" ;;
    *) exit 1 ;;
esac
"""


@pytest.mark.parametrize(
    ("verb", "words", "lacks"),
    [
        ("exec", ["--additional-gids=5", "--ignore-paused", "--cwd=/"], ""),
        ("exec", ["--config=x"], "`exec --config`"),
        ("spec", ["--file=x"], "`spec --file`"),
        ("spec", ["--bundle=--file"], ""),
        ("events", ["--stats"], "`events`"),
        ("pause", [], ""),
    ],
)
def test_what_not_all_backends_have(tmp_path: Path, verb: str, words: list[str], lacks: str) -> None:
    """Its own help is asked, and nothing where all have it."""
    program = tmp_path / "other"
    program.write_text("#!/bin/sh\n" + (HELP if words else "exit 1"))
    program.chmod(0o755)
    backend = Backend(str(program), "/r", {}, Log())
    if not lacks:
        backend.require(verb, words)
        return
    with pytest.raises(ShimError, match=f"other has no {lacks}"):
        backend.require(verb, words)


@pytest.mark.parametrize("program", ["/tmp/crun", "./crun", "../crun", "youki", "sh"])
def test_a_backend_that_a_user_does_not_name_for_root(tmp_path: Path, program: str) -> None:
    """Neither by state.json nor by a directory."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one/state.json").write_text(json.dumps({"backend": program}))
    only, container = {backends.KNOWN_ONLY: ""}, Container(str(tmp_path), "one")
    with pytest.raises(ShimError, match=f"root does not have a user run '{program}'"):
        registry.backend_of(container, only, Log())
    os.makedirs(Path(backends.directory(str(tmp_path), program)) / "one", exist_ok=True)
    (tmp_path / "one/state.json").write_text("{}")
    with pytest.raises(ShimError, match="root does not have a user run"):
        registry.backend_of(container, only, Log())
    (tmp_path / "one/state.json").write_text('{"backend": "crun"}')
    assert registry.backend_of(container, only, Log()).program == "crun"


def test_a_backend_that_is_not_there() -> None:
    with pytest.raises(ShimError, match="no nonesuch in") as raised:
        Backend("nonesuch", "/r", {}, Log()).argv("state", "id")
    assert "--backend" in raised.value.hint


def test_a_state_with_debug(tmp_path: Path) -> None:
    program = Path(fake(tmp_path, "crun"))
    program.write_text("""#!/bin/sh\necho 'Using debug verbosity' >&2\necho '{"status": "running"}'\n""")
    crun, container = Backend(str(program), "/r", {"debug": "true"}, Log()), Container("/r", "one")
    assert crun.state(container) == {"status": "running"}
    program.write_text("#!/bin/sh\necho '{}'\necho 'no such container' >&2\nexit 1\n")
    with pytest.raises(ShimError, match=r"^no such container$"):
        crun.state(container)


def test_adopt_for_a_user_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crun = Backend("crun", str(tmp_path), {}, Log())
    monkeypatch.setattr(os, "geteuid", lambda: 4711000)
    backends.adopt(crun, Container(str(tmp_path), "one"), bundle(), os.getpid(), "/group", b"")
    assert json.loads((tmp_path / ".crun/one/status").read_text())["owner"] == "4711000"


def test_adopt(tmp_path: Path) -> None:
    crun = Backend("crun", str(tmp_path), {}, Log())
    container = Container(str(tmp_path), "one")
    assert not crun.knows(container)
    backends.adopt(crun, container, bundle(), os.getpid(), "/group", b"filter")
    assert crun.knows(container)
    status = json.loads((tmp_path / ".crun/one/status").read_text())
    assert [status["pid"], status["process-start-time"]] == process.identity(os.getpid())
    assert json.loads((tmp_path / ".crun/one/config.json").read_text()) == bundle().config
