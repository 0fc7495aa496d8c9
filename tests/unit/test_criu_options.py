"""What runc's and crun's options of `checkpoint` and `restore` come to."""

from __future__ import annotations

import fcntl
import os
from typing import Any

import pytest

from oci_criu_shim.cli import criu_options, parse
from oci_criu_shim.cli.invocation import Invocation
from oci_criu_shim.cli.verbs import VERBS
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.errors import ShimError

ACCEPTED = ("--file-locks", "--link-remap", "--auto-dedup", "--manage-cgroups-mode=soft")


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("oci_criu_shim.host.process.in_a_user_namespace", lambda: False)


def call(verb: str, *words: str) -> Invocation:
    given: dict[str, list[str]] = {}
    operands = parse.options([*words, "id"], VERBS[verb].options, given, stop=False)
    return Invocation(verb, {}, given, operands)


def bundle(*namespaces: dict[str, str]) -> Bundle:
    return Bundle("/b", {"linux": {"namespaces": list(namespaces)}})


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ((), {}),
        (ACCEPTED, {}),
        (("--leave-running",), {"leave_running": True}),
        (("--empty-ns=network",), {"empty_ns": 1 << 30}),
        (("--tcp-established",), {"tcp_established": True, "network_lock": "NFTABLES"}),
        (("--tcp-established", "--network-lock=skip"), {"tcp_established": True, "network_lock": "SKIP"}),
        (("--ext-unix-sk", "--shell-job"), {"ext_unix_sk": True, "shell_job": True}),
        (("--pre-dump",), {"track_mem": True, "pre_dump": True, "incremental": False}),
        (("--parent-path=../pre",), {"track_mem": True, "pre_dump": False, "incremental": True}),
        (("--page-server=host:1",), {"page_server": ["host", 1]}),
        (("--page-server=[::1]:27",), {"page_server": ["::1", 27]}),
    ],
)
def test_dump(words: tuple[str, ...], asked: dict[str, Any]) -> None:
    expected = {"leave_running": False, "network": "dumped", "for": "crun", **asked}
    assert criu_options.dump(call("checkpoint", *words), bundle({"type": "network"}), "crun", {}) == expected


def test_what_criu_is_configured_for() -> None:
    """Of it, what a dump is not asked for is a restore's."""
    configured = {"tcp-established": "", "ghost-limit": "2M", "timeout": "20", "verbosity": "4", "tcp-close": ""}
    configured |= {"file-locks": "", "lsm-profile": "selinux:p"}
    common = {"tcp_established": True, "network_lock": "NFTABLES", "timeout": 20, "log_level": 4}
    asked = criu_options.dump(call("checkpoint"), bundle(), "crun", configured)
    assert asked == {"leave_running": False, "network": "dumped", "for": "crun", "ghost_limit": 2 << 20, **common}
    expected = {"tcp_close": True, "lsm_profile": "apparmor:p", **common}
    assert criu_options.restore(call("restore", "--lsm-profile=apparmor:p"), configured) == expected


def test_dump_of_a_named_network_for_runc() -> None:
    named = bundle({"type": "network", "path": "/run/netns/one"})
    asked = criu_options.dump(call("checkpoint"), named, "runc", {})
    assert (asked["network"], asked["for"]) == ("joined", "runc")


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("--detach", "--no-pivot", "--no-subreaper", "--empty-ns=network", *ACCEPTED), {}),
        (("--tcp-close",), {"tcp_close": True}),
        (("--lazy-pages",), {"lazy_pages": True}),
        (("--lsm-profile=selinux:p",), {"lsm_profile": "selinux:p"}),
        (("--lsm-mount-context=c",), {"lsm_mount_context": "c"}),
    ],
)
def test_restore(words: tuple[str, ...], asked: dict[str, Any]) -> None:
    assert criu_options.restore(call("restore", *words), {}) == asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--lazy-pages",), "--lazy-pages needs a port"),
        (("--page-server=host",), "--page-server is ADDRESS:PORT, not 'host'"),
        (("--page-server=host:0",), "--page-server is ADDRESS:PORT"),
        (("--page-server=host:65536",), "--page-server is ADDRESS:PORT"),
        (("--network-lock=tape",), "--network-lock is iptables, nftables or skip"),
        (("--manage-cgroups-mode=none",), "--manage-cgroups-mode is ignore"),
        (("--empty-ns=ipc",), "--empty-ns is network, not 'ipc'"),
        (("--auto-dedup", "--parent-path=../pre"), "--auto-dedup would take from --parent-path"),
    ],
)
def test_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ShimError, match=said):
        criu_options.dump(call("checkpoint", *words), bundle(), "crun", {})


def test_root_of_a_user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oci_criu_shim.host.process.in_a_user_namespace", lambda: True)
    with pytest.raises(ShimError, match="root of a user namespace has no right to a dump"):
        criu_options.dump(call("checkpoint"), bundle(), "crun", {})


@pytest.mark.parametrize("user", [0, 1000])
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--lsm-profile=p", "--lsm-profile is TYPE:NAME, not 'p'"),
        ("--network-lock=tape", "--network-lock is iptables, nftables or skip"),
        ("--empty-ns=ipc", "--empty-ns is network"),
    ],
)
def test_a_restore_is_refused(monkeypatch: pytest.MonkeyPatch, user: int, word: str, said: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(ShimError, match=said):
        criu_options.restore(call("restore", word), {})


def test_lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--page-server=host:1", "--lazy-pages")
    monkeypatch.setattr(fcntl, "fcntl", lambda *_: 0)
    asked = criu_options.dump(call("checkpoint", *words), bundle(), "crun", {})
    assert (asked["page_server"], asked["lazy_pages"]) == (["host", 1], True)

    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(ShimError, match="needs pipes of 4 MiB"):
        criu_options.dump(call("checkpoint", *words), bundle(), "crun", {})


def test_told_that_memory_is_served() -> None:
    reader, writer = os.pipe()
    tell = criu_options.serves(call("checkpoint", f"--status-fd={writer}"))
    os.close(writer)
    tell()
    with open(reader, "rb") as stream:
        assert stream.read() == b"\0"


def test_nobody_is_told() -> None:
    criu_options.serves(call("checkpoint"))()
    with pytest.raises(ShimError, match="--status-fd is the number of an open descriptor, not 'x'"):
        criu_options.serves(call("checkpoint", "--status-fd=x"))


def test_a_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert criu_options.dump(call("checkpoint", *ACCEPTED), bundle(), "crun", {}) == {"leave_running": False}
    assert criu_options.restore(call("restore", *ACCEPTED), {}) == {}
    labels = ("--lsm-profile=apparmor:p", "--lsm-mount-context=c")
    assert criu_options.restore(call("restore", *labels), {}) == {"lsm_profile": "apparmor:p", "lsm_mount_context": "c"}
    with pytest.raises(ShimError, match="--shell-job is for root's containers only"):
        criu_options.dump(call("checkpoint", "--shell-job"), bundle(), "crun", {})
    with pytest.raises(ShimError, match="--page-server is for root's containers only"):
        criu_options.dump(call("checkpoint", "--page-server=host:1"), bundle(), "crun", {})
    with pytest.raises(ShimError, match="--parent-path is for root's containers only"):
        criu_options.dump(call("checkpoint", "--parent-path=../pre"), bundle(), "crun", {})
    with pytest.raises(ShimError, match="--tcp-close is for root's containers only"):
        criu_options.restore(call("restore", "--tcp-close"), {})
