"""What of a CRIU configuration file is taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oci_criu_shim import files
from oci_criu_shim.container import criu_config
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.errors import ShimError

WHOLE = """
# what a site wants
tcp-established
  file-locks   # always
ghost-limit 2M
timeout\t30 # seconds
verbosity=4
lsm-profile "selinux:a \\"b\\""
manage-cgroups
network-lock skip
"""
FOUND = {
    **{"tcp-established": "", "file-locks": "", "ghost-limit": "2M", "timeout": "30", "verbosity": "4"},
    **{"lsm-profile": 'selinux:a "b"', "manage-cgroups": "", "network-lock": "skip"},
}


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(criu_config, "SITES", str(tmp_path))
    read = files.read_regular
    monkeypatch.setattr(files, "read_regular", lambda path, most, owner: read(path, most, os.geteuid()))
    return tmp_path


def named(path: str | Path) -> Bundle:
    return Bundle("/b", {"annotations": {"org.criu.config": str(path)}})


def settings(path: Path, text: str) -> dict[str, str]:
    path.write_text(text)
    return criu_config.read(named(path), "crun")


def test_all_forms_of_a_line(sites: Path) -> None:
    assert settings(sites / "a.conf", WHOLE) == FOUND


def test_which_file(sites: Path) -> None:
    """As crun and runc choose it. An empty annotation is for none."""
    plain = Bundle("/b", {})
    assert criu_config.read(plain, "crun") == criu_config.read(plain, "runc") == {}
    (sites / "runc.conf").write_text("timeout 1")
    assert criu_config.read(plain, "crun") == criu_config.read(plain, "runc") == {"timeout": "1"}
    (sites / "crun.conf").write_text("timeout 2")
    assert [criu_config.read(plain, dialect)["timeout"] for dialect in ("crun", "runc")] == ["2", "1"]
    assert criu_config.read(named(""), "crun") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timeout 1\naction-script /x", "a.conf, line 2: CRIU's option action-script can't be had here"),
        ("libdir /tmp", "CRIU's option libdir can't be had here"),
        ("no-file-locks", "CRIU's option no-file-locks can't be had here"),
        ("root:$6$secret:1::", "line 1: it is no option of CRIU's"),
        ('"', "line 1: it is no option of CRIU's"),
        ("tcp-established yes", "tcp-established can't be 'yes'"),
        ("timeout", "timeout needs a value"),
        ("timeout soon", "timeout can't be 'soon'"),
        ("ghost-limit 4G", "ghost-limit can't be '4G'"),
        ("verbosity 5", "verbosity can't be '5'"),
        ("network-lock tight", "network-lock can't be 'tight'"),
    ],
)
def test_what_is_refused(sites: Path, text: str, said: str) -> None:
    with pytest.raises(ShimError) as caught:
        settings(sites / "a.conf", text)
    assert said in str(caught.value) and "secret" not in str(caught.value)
    assert "the annotation org.criu.config chooses another file" in caught.value.hint


def test_files_that_are_not_the_sites(sites: Path) -> None:
    """One that is not there; one that anybody can write."""
    with pytest.raises(ShimError, match=r"cannot read CRIU's configuration .*/none: .*No such file"):
        criu_config.read(named(sites / "none"), "crun")
    (sites / "a.conf").touch(mode=0o666)
    (sites / "a.conf").chmod(0o666)
    with pytest.raises(ShimError, match="not a file that only its owner can write"):
        criu_config.read(named(sites / "a.conf"), "crun")


def test_logs(sites: Path) -> None:
    """An image's annotation can name a file of its own, and have no other written."""
    assert criu_config.log_file(settings(sites / "a.conf", "log-file a.log"), "/work") == "/work/a.log"
    assert criu_config.log_file(settings(sites / "a.conf", "log-file /var/a.log"), "/work") == "/var/a.log"
    assert criu_config.log_file({}, "/work") is None
    (sites / "below").mkdir()
    assert settings(sites / "below/a.conf", "log-file a.log") == {"log-file": "a.log"}
    with pytest.raises(ShimError, match="put log-file elsewhere"):
        settings(sites / "below/a.conf", "log-file ../a.log")


def test_users() -> None:
    assert criu_config.ignored(named("/etc/criu/a.conf")).startswith("/b/config.json: the annotation org.criu.config")
    assert criu_config.ignored(named("")) == criu_config.ignored(Bundle("/b", {})) == ""
