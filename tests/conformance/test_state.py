"""runtime.md, "State" and "Query State": https://github.com/opencontainers/runtime-spec/blob/main/runtime.md."""

from __future__ import annotations

import re
from typing import Any

from tests.conformance.runtime import Bundle, Runtime

ANNOTATIONS = {"org.example.key": "value", "empty": "", "quoted": 'a "b" \\ \n é'}


def checked(bundle: Bundle, status: str) -> dict[str, Any]:
    """runtime.md#state and schema/state-schema.json: what is REQUIRED in every state, and `annotations` if given."""
    state = bundle.state()
    assert re.match(r"1\.\d+\.\d+", state["ociVersion"])
    assert (state["id"], state["status"], state["bundle"]) == (bundle.name, status, bundle.inside)
    assert state.get("annotations", {}) == bundle.config.get("annotations", {})
    return state


def test_statuses(bundle: Bundle) -> None:
    """runtime.md#state: `created`, `running` and `stopped`; `pid` is that of one process, as long as it lives."""
    bundle.config["annotations"] = ANNOTATIONS
    bundle.create().ok()
    pid = checked(bundle, "created")["pid"]
    shell = bundle.runtime.shell
    assert len(set(shell(f"readlink /proc/1/ns/pid /proc/{pid}/ns/pid", "root").split())) == 2
    bundle.start().ok()
    assert checked(bundle, "running")["pid"] == pid
    assert shell(f"tr '\\0' ' ' </proc/{pid}/cmdline") == "sleep 1000 "
    bundle.end()
    assert not checked(bundle, "stopped").get("pid")


def test_stopped_by_itself(bundle: Bundle) -> None:
    """runtime.md#lifecycle, 10: `stopped` when the process exits; `annotations` MAY be absent where none were given."""
    bundle.args("true").started().wait_ended()
    assert not checked(bundle, "stopped").get("pid")


def test_bundle_is_absolute(bundle: Bundle) -> None:
    """runtime.md#state: `bundle` is absolute, though create was told a relative path."""
    bundle.create(bundle="bundle").ok()
    checked(bundle, "created")


def test_each_has_its_own(bundle: Bundle) -> None:
    """runtime.md#state: `id` is unique, and tells containers of one bundle apart."""
    for name in ("one", "two"):
        bundle.create(name).ok()
    bundle.runtime.call("start", "two").ok()
    one, two = (bundle.runtime.state(name) for name in ("one", "two"))
    assert [(state["id"], state["status"]) for state in (one, two)] == [("one", "created"), ("two", "running")]
    assert one["pid"] != two["pid"]


def test_unknown(runtime: Runtime) -> None:
    """runtime.md#query-state: no id is an error, and so is a container that does not exist."""
    runtime.call("state").refused(usage=True)
    runtime.call("state", "unknown").refused()
