"""runtime.md, "Create"; steps 1 and 2 of "Lifecycle"; "Errors"."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.runtime import Bundle, Runtime

LONG = "x" * 300
HOSTILE = {"parent": "../x", "empty": "", "long": LONG, "newline": "a\nb", "slash": "a/b", "dot": ".", "dots": ".."}


def test_runs_no_program(bundle: Bundle) -> None:
    """runtime.md#lifecycle, 2: the user-specified program MUST NOT be run at this time."""
    bundle.script("echo ran >/case/ran").create().ok()
    assert bundle.state()["status"] == "created"
    assert not bundle.mark("ran").exists()
    bundle.runtime.call("start", bundle.name).ok()
    assert bundle.marked("ran") == "ran\n"


@pytest.mark.parametrize("before", ["created", "running", "stopped"])
def test_id_is_taken(bundle: Bundle, before: str) -> None:
    """runtime.md#create: an id that is not unique is an error, and no container is created."""
    {"created": lambda: bundle.create().ok(), "running": bundle.started, "stopped": bundle.stopped}[before]()
    state = bundle.state()
    bundle.config["annotations"] = {"second": "yes"}
    bundle.create().refused()
    assert state["status"] == before
    assert bundle.state() == state


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_invalid_id(bundle: Bundle, name: str) -> None:
    """runtime.md#create: an id that is not valid is an error, and no container is created."""
    if (bundle.runtime.program, name) == ("crun", HOSTILE["newline"]):
        # The rule leaves it to the runtime what is valid: crun takes it, rootless, and trips over it as root.
        assert bundle.create(name).status in (0, 1)
        return
    before = listing(bundle.runtime)
    bundle.create().ok()
    bundle.runtime.call("delete", "--force", bundle.name).ok()
    bundle.save().runtime.call("create", "--bundle", bundle.inside, "--", name).refused()
    assert listing(bundle.runtime) == before


def listing(runtime: Runtime) -> list[str]:
    """All paths that a hostile id could have made, and not those of the calls themselves."""
    top = runtime.directory / "state"
    return sorted(str(path) for path in top.rglob("*") if path != runtime.root)


def test_without_id(bundle: Bundle) -> None:
    """runtime.md#create: no id is an error."""
    bundle.save().runtime.call("create", "--bundle", bundle.inside).refused()
    assert not bundle.runtime.names()


def test_bundle_is_where_it_is_called(bundle: Bundle) -> None:
    """runtime.md#create: the path to the bundle; by the command line of runc and crun it is `.` by default."""
    bundle.save().runtime.call("create", bundle.name, cwd=bundle.path).ok()
    assert bundle.state()["bundle"] == bundle.inside


def test_no_bundle(bundle: Bundle) -> None:
    """runtime.md#create: without a bundle it is an error, and no container is created."""
    bundle.runtime.call("create", bundle.name, cwd=bundle.runtime.root.parent).refused()
    bundle.create(bundle=bundle.inside + "/none").refused()
    assert not bundle.runtime.names()


def test_relative_bundle(bundle: Bundle) -> None:
    """runtime.md#create: a relative path to the bundle, and in it one to the root file system."""
    (bundle.path / "sub").mkdir(parents=True)
    (bundle.path / "rootfs").symlink_to(bundle.config["root"]["path"])
    bundle.config["root"]["path"] = "rootfs"
    bundle.args("echo", "ran").save()
    done = bundle.runtime.call("run", "--bundle", "..", bundle.name, cwd=bundle.path / "sub")
    assert done.ok().out == "ran\n"


def set_missing_rootfs(config: dict[str, Any]) -> None:
    config["root"]["path"] = "/nonexistent"


def set_missing_mount(config: dict[str, Any]) -> None:
    config["mounts"].append({"destination": "/x", "source": "/nonexistent", "options": ["bind"]})


def set_missing_namespace(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"].append({"type": "cgroup", "path": "/nonexistent"})


def set_unknown_rlimit(config: dict[str, Any]) -> None:
    config["process"]["rlimits"] = [{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]


def set_unknown_sysctl(config: dict[str, Any]) -> None:
    config["linux"]["sysctl"] = {"kernel.nonexistent": "1"}


def set_no_root(config: dict[str, Any]) -> None:
    del config["root"]


INAPPLICABLE = [
    *(set_missing_rootfs, set_missing_mount, set_missing_namespace),
    *(set_unknown_rlimit, set_unknown_sysctl, set_no_root),
]


@pytest.mark.parametrize("change", INAPPLICABLE, ids=lambda change: change.__name__.removeprefix("set_"))
def test_property_that_cannot_be_applied(bundle: Bundle, change: Any) -> None:
    """runtime.md#create: a property that can't be applied is an error, and no container is created."""
    change(bundle.config)
    bundle.create().refused()
    bundle.runtime.call("state", bundle.name).refused()
    assert not bundle.runtime.names()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"ociVersion": 1}'])
def test_config_that_is_none(bundle: Bundle, text: str) -> None:
    """runtime.md#lifecycle, 2: an environment that can't be created from config.json is an error."""
    bundle.save()
    (bundle.path / "config.json").write_text(text)
    bundle.runtime.call("create", "--bundle", bundle.inside, bundle.name).refused()
    assert not bundle.runtime.names()


def test_id_is_free_after_an_error(bundle: Bundle) -> None:
    """runtime.md#errors: an error leaves the state as if the operation were never attempted."""
    good = json.dumps(bundle.config)
    set_missing_rootfs(bundle.config)
    bundle.create().refused()
    bundle.config = json.loads(good)
    bundle.create().ok()


def test_later_changes_have_no_effect(bundle: Bundle) -> None:
    """runtime.md#create: changes made to config.json after this operation have no effect on the container."""
    bundle.config["annotations"] = {"which": "first"}
    bundle.script('echo first "$WHICH" >/case/ran')
    bundle.config["process"]["env"].append("WHICH=first")
    bundle.create().ok()
    bundle.config["annotations"] = {"which": "second"}
    bundle.config["process"]["env"].append("WHICH=second")
    bundle.script('echo second "$WHICH" >/case/ran').save()
    bundle.runtime.call("start", bundle.name).ok()
    assert bundle.marked("ran") == "first first\n"
    assert bundle.state()["annotations"] == {"which": "first"}


def test_config_that_goes_away(bundle: Bundle) -> None:
    """runtime.md#create: nor does its removal."""
    bundle.script("echo ran >/case/ran").create().ok()
    (bundle.path / "config.json").unlink()
    bundle.runtime.call("start", bundle.name).ok()
    assert bundle.marked("ran") == "ran\n"
    bundle.runtime.wait_stopped(bundle.name)
    bundle.runtime.call("delete", bundle.name).ok()


def test_pid_file(bundle: Bundle) -> None:
    """--pid-file of runc and crun: the pid of runtime.md#state, without a newline."""
    pid_file = bundle.mark("pid")
    bundle.create("", "--pid-file", bundle.runtime.inside(pid_file)).ok()
    assert pid_file.read_text() == str(bundle.state()["pid"])
