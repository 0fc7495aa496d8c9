"""runtime.md, "State" and "Query State": https://github.com/opencontainers/runtime-spec/blob/main/runtime.md."""

from __future__ import annotations

import re
from typing import Any

from tests.conformance.runtime import Bundle, Runtime


def well_formed(state: dict[str, Any], bundle: Bundle) -> None:
    """runtime.md#state and schema/state-schema.json: what is REQUIRED in every state, and its types."""
    assert re.match(r"1\.\d+\.\d+", state["ociVersion"])
    assert state["id"] == bundle.name
    assert state["bundle"] == bundle.inside
    assert all(isinstance(value, str) for value in state.get("annotations", {}).values())


def test_created(bundle: Bundle) -> None:
    """runtime.md#state: status `created` after create; pid is REQUIRED, and is the container process's."""
    bundle.create().ok()
    state = bundle.state()
    well_formed(state, bundle)
    assert state["status"] == "created"
    namespaces = bundle.runtime.shell(f"readlink /proc/1/ns/pid /proc/{state['pid']}/ns/pid", "root").split()
    assert len(set(namespaces)) == 2


def test_running(bundle: Bundle) -> None:
    """runtime.md#state: status `running` once the user's program runs, in the process that was created."""
    bundle.create().ok()
    created = bundle.state()
    bundle.runtime.call("start", bundle.name).ok()
    state = bundle.state()
    well_formed(state, bundle)
    assert (state["status"], state["pid"]) == ("running", created["pid"])
    assert bundle.runtime.shell(f"tr '\\0' ' ' </proc/{state['pid']}/cmdline") == "sleep 1000 "


def test_stopped(bundle: Bundle) -> None:
    """runtime.md#state: status `stopped` once the process has exited; then there is no pid to tell."""
    bundle.args("true").started()
    bundle.runtime.wait_stopped(bundle.name)
    state = bundle.state()
    well_formed(state, bundle)
    assert not state.get("pid")


def test_annotations(bundle: Bundle) -> None:
    """runtime.md#state: `annotations` are those of config.json, in every status."""
    given = {"org.example.key": "value", "empty": "", "quoted": 'a "b" \\ \n é'}
    bundle.config["annotations"] = given
    bundle.create().ok()
    assert bundle.state()["annotations"] == given
    bundle.runtime.call("kill", bundle.name, "KILL").ok()
    bundle.runtime.wait_stopped(bundle.name)
    assert bundle.state()["annotations"] == given


def test_no_annotations(bundle: Bundle) -> None:
    """runtime.md#state: without annotations the property is absent or an empty map."""
    bundle.create().ok()
    assert not bundle.state().get("annotations")


def test_bundle_is_absolute(bundle: Bundle) -> None:
    """runtime.md#state: `bundle` is absolute, though create was told a relative path."""
    bundle.save().runtime.call("create", "--bundle", "bundle", bundle.name).ok()
    assert bundle.state()["bundle"] == bundle.inside


def test_each_has_its_own(bundle: Bundle) -> None:
    """runtime.md#state: `id` is unique, and tells containers of one bundle apart."""
    for name in ("one", "two"):
        bundle.create(name).ok()
    bundle.runtime.call("start", "two").ok()
    one, two = (bundle.runtime.state(name) for name in ("one", "two"))
    assert [(state["id"], state["status"]) for state in (one, two)] == [("one", "created"), ("two", "running")]
    assert one["pid"] != two["pid"]


def test_unknown(runtime: Runtime) -> None:
    """runtime.md#query-state: a container that does not exist is an error."""
    runtime.call("state", "unknown").refused()


def test_without_id(runtime: Runtime) -> None:
    """runtime.md#query-state: no id is an error."""
    runtime.call("state").refused()
