"""runtime.md, "Create"; steps 1 and 2 of "Lifecycle"; "Errors"."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.conformance.runtime import Bundle, Runtime

HOSTILE = ("../x", "", "x" * 300, "a/b", ".", "..")


def test_id_is_taken(bundle: Bundle) -> None:
    """runtime.md#create: an id that is not unique, in whatever status, is an error, and no container is created."""
    bundle.create().ok()
    require_taken(bundle, "created")
    bundle.start().ok()
    require_taken(bundle, "running")
    bundle.end()
    require_taken(bundle, "stopped")


def require_taken(bundle: Bundle, status: str) -> None:
    state = bundle.state()
    assert state["status"] == status
    bundle.runtime.call("create", "--bundle", bundle.inside, bundle.name).refused(status)
    assert bundle.state() == state


def test_invalid_ids(bundle: Bundle) -> None:
    """runtime.md#create: an id that is not valid is an error, and no container is created."""
    bundle.create().ok()
    bundle.delete("--force").ok()  # what the first one makes for all
    before = listing(bundle.runtime)
    for name in HOSTILE:
        bundle.runtime.call("create", "--bundle", bundle.inside, "--", name).refused(name)
        assert listing(bundle.runtime) == before, name


def test_invalid_ids_elsewhere(bundle: Bundle) -> None:
    """runtime.md#errors: for the other operations they are an error too, and without effect."""
    bundle.create().ok()
    before = listing(bundle.runtime)
    for verb, *words in (("state",), ("start",), ("kill",), ("exec", "true"), ("delete",)):
        for name in HOSTILE[:2] if verb == "delete" else HOSTILE[:2] + HOSTILE[-1:]:
            bundle.runtime.call(verb, "--", name, *words).refused(f"{verb} {name}")
            assert listing(bundle.runtime) == before, (verb, name)
    if Path(bundle.runtime.program).name != "crun":  # which takes `delete ..` at its word
        bundle.runtime.call("delete", "--force", "..").refused(usage=True)
        assert listing(bundle.runtime) == before


def test_id_of_two_lines(bundle: Bundle) -> None:
    """runtime.md#create: what is valid is the runtime's to say: crun takes a newline, if rootless."""
    if bundle.create("a\nb").status:
        assert not bundle.runtime.names()
    else:
        assert Path(bundle.runtime.program).name != "oci-criu-shim"
        assert bundle.runtime.state("a\nb")["id"] == "a\nb"


def listing(runtime: Runtime) -> list[str]:
    """All paths that a hostile id could have made, and not those of the calls themselves."""
    top = runtime.directory / "state"
    return sorted(str(path) for path in top.rglob("*") if path != runtime.root)


def test_without_id_or_bundle(bundle: Bundle) -> None:
    """runtime.md#create: without an id, or a path to a bundle, it is an error, and no container is created."""
    bundle.save().runtime.call("create", "--bundle", bundle.inside).refused(usage=True)
    bundle.create(bundle=bundle.inside + "/none").refused()
    bundle.runtime.call("create", bundle.name, cwd=bundle.runtime.root.parent).refused()
    assert not bundle.runtime.names()


def test_bundle_is_where_it_is_called(bundle: Bundle) -> None:
    """runtime.md#create: the path to the bundle; by the command line of runc and crun it is `.` by default."""
    bundle.save().runtime.call("create", bundle.name, cwd=bundle.path).ok()
    assert bundle.state()["bundle"] == bundle.inside


def test_relative_bundle(bundle: Bundle) -> None:
    """runtime.md#create: a relative path to the bundle, and in it one to the root file system."""
    (bundle.path / "sub").mkdir(parents=True)
    bundle.config["root"]["path"] = os.path.relpath(bundle.config["root"]["path"], bundle.inside)
    bundle.args("echo", "ran").save()
    done = bundle.runtime.call("run", "--bundle", "..", bundle.name, cwd=bundle.path / "sub")
    assert done.ok().out == "ran\n"


INAPPLICABLE: dict[str, dict[str, Any]] = {
    "no root": {"root": None},
    "missing rootfs": {"root": {"path": "/nonexistent"}},
    "missing mount": {"mounts": [{"destination": "/x", "source": "/nonexistent", "options": ["bind"]}]},
    "missing namespace": {"linux": {"namespaces": [{"type": "ipc", "path": "/nonexistent"}]}},
    "unknown rlimit": {"process": {"rlimits": [{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]}},
    "unknown sysctl": {"linux": {"sysctl": {"kernel.nonexistent": "1"}}},
}


def test_properties_that_cannot_be_applied(bundle: Bundle) -> None:
    """runtime.md#create: a property that can't be applied is an error, and no container is created."""
    good = bundle.config
    for what, changes in INAPPLICABLE.items():
        bundle.config = changed(good, changes)
        bundle.create().refused(what)
        assert not bundle.runtime.names(), what
    bundle.runtime.call("state", bundle.name).refused()


def changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with properties set, lists made longer, and None taken away."""
    copied = {name: value for name, value in config.items() if changes.get(name, ...) is not None}
    for name, value in changes.items():
        if isinstance(value, dict):
            copied[name] = changed(config.get(name, {}), value)
        elif isinstance(value, list):
            copied[name] = [*config.get(name, []), *value]
        elif value is not None:
            copied[name] = value
    return copied


def test_no_process_yet(bundle: Bundle) -> None:
    """config.md#process: it is required when `start` is called. crun 1.21 only ends the container then."""
    bundle.config = changed(bundle.config, {"process": None})
    bundle.create().ok()
    assert bundle.state()["status"] == "created"
    bundle.start()
    bundle.wait_ended()
    assert bundle.state()["status"] == "stopped"


def test_capabilities_that_nobody_knows(bundle: Bundle) -> None:
    """config.md#linux-process: they are no reason to fail."""
    for name in ("CAP_NONE", "cap_kill", "NONE"):
        bundle.config = changed(bundle.config, {"process": {"capabilities": {"bounding": [name]}}})
    assert bundle.args("echo", "ran").run().ok().out == "ran\n"


def test_config_that_is_none(bundle: Bundle) -> None:
    """runtime.md#lifecycle, 2: an environment that can't be created from config.json is an error."""
    bundle.save()
    for text in ("", "[]", '{"ociVersion": 1}'):
        (bundle.path / "config.json").write_text(text)
        bundle.runtime.call("create", "--bundle", bundle.inside, bundle.name).refused(text)
        assert not bundle.runtime.names(), text


def test_id_is_free_after_an_error(bundle: Bundle) -> None:
    """runtime.md#errors: an error leaves the state as if the operation were never attempted."""
    good = bundle.config
    bundle.config = changed(good, {"root": {"path": "/nonexistent"}})
    bundle.create().refused()
    bundle.config = good
    bundle.create().ok()


def test_later_changes_have_no_effect(bundle: Bundle) -> None:
    """runtime.md#create: changes made to config.json after this operation have no effect on the container."""
    for which in ("first", "second"):
        bundle.config["annotations"] = {"which": which}
        bundle.config["process"]["env"].append(f"WHICH={which}")
        bundle.script(f'echo {which} "$WHICH" >/case/ran')
        if which == "first":
            bundle.create().ok()
    bundle.save().start().ok()
    assert bundle.marked("ran") == "first first\n"
    assert bundle.state()["annotations"] == {"which": "first"}


def test_config_that_goes_away(bundle: Bundle) -> None:
    """runtime.md#lifecycle, 2: no program is run by create, and later nobody needs config.json."""
    bundle.script("echo ran >/case/ran").create().ok()
    assert bundle.state()["status"] == "created"
    assert not bundle.mark("ran").exists()
    (bundle.path / "config.json").unlink()
    bundle.start().ok()
    assert bundle.marked("ran") == "ran\n"
    bundle.wait_ended()
    bundle.delete().ok()


def test_pid_file(bundle: Bundle) -> None:
    """--pid-file of runc and crun: the pid of runtime.md#state, without a newline."""
    bundle.create().ok()
    assert bundle.runtime.pid_file(bundle.name).read_text() == str(bundle.state()["pid"])
