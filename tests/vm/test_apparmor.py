"""A container's AppArmor profile is kept, or exchanged for another at a restore."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.node.support import SHIM, Site

PROFILES = ("oci-criu-shim-one", "oci-criu-shim-other")
RULES = "capability, network, mount, umount, pivot_root, ptrace, signal, unix, file,"
PROGRAM = """
import json, sys
for line in sys.stdin:
    try:
        open("/etc/hostname").read()
        denied = False
    except PermissionError:
        denied = True
    print(json.dumps({"profile": open("/proc/self/attr/current").read().strip(), "denied": denied}), flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def profiles() -> Iterator[None]:
    """Both, in the kernel; what a container may not do tells them apart."""
    text = "".join(
        f"profile {name} flags=(attach_disconnected, mediate_deleted) {{ {RULES} {rule} }}\n"
        for name, rule in zip(PROFILES, ("", "deny /etc/hostname r,"), strict=True)
    )
    subprocess.run(["apparmor_parser", "--replace"], input=text, text=True, check=True)
    yield
    subprocess.run(["apparmor_parser", "--remove"], input=text, text=True, check=True)


@pytest.mark.parametrize("user", ["root", "alice"])
def test_profile(site: Site, user: str) -> None:
    spec = site.spec(user)
    spec["process"] |= {"args": ["python3", "-I", "-c", PROGRAM], "apparmorProfile": PROFILES[0]}
    life = site.container(user, spec)
    with site.lending(user):
        try:
            life.run()
            assert life.look() == {"profile": f"{PROFILES[0]} (enforce)", "denied": False}
            for _ in range(2):
                life.checkpoint()
                life.restore()
                assert life.look() == {"profile": f"{PROFILES[0]} (enforce)", "denied": False}
            assert life.end() == 0
        finally:
            life.stop()


@pytest.fixture
def no_securityfs() -> Iterator[None]:
    """As in a container, or where nobody has mounted it."""
    place = "/sys/kernel/security"
    subprocess.run(["umount", place], check=True)
    yield
    subprocess.run(["mount", "-t", "securityfs", "securityfs", place], check=True)


@pytest.mark.usefixtures("no_securityfs")
def test_a_profile_that_criu_would_leave_out(site: Site) -> None:
    spec = site.spec("alice")
    spec["process"] |= {"args": ["python3", "-I", "-c", PROGRAM], "apparmorProfile": PROFILES[0]}
    life = site.container("alice", spec)
    with site.lending("alice"):
        try:
            life.run()
            seen = life.look()
            refused = life.checkpoint(check=False)
            wanted = f"it has the AppArmor profile {PROFILES[0]} (enforce), which CRIU can't see here"
            assert (refused.returncode, wanted in refused.stderr) == (1, True), refused.stderr
            assert life.look() == seen
            assert life.end() == 0
        finally:
            life.stop()
    said = site.exec([SHIM, "doctor"], check=False).stdout
    assert "warning  apparmor" in said and "securityfs is not mounted" in said


def test_another_at_a_restore(site: Site) -> None:
    spec = site.spec("root")
    spec["process"] |= {"args": ["python3", "-I", "-c", PROGRAM], "apparmorProfile": PROFILES[0]}
    life = site.container("root", spec)
    try:
        life.run()
        life.look()
        life.checkpoint()
        life.restore("--lsm-profile", f"apparmor:{PROFILES[1]}")
        assert life.look() == {"profile": f"{PROFILES[1]} (enforce)", "denied": True}
        assert life.end() == 0
    finally:
        life.stop()
