"""config.md, "POSIX-platform Hooks"; runtime.md, steps 3 to 13 of "Lifecycle"."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.runtime import CASE, Bundle, until

AT_CREATE = ("prestart", "createRuntime", "createContainer")
AT_START = ("startContainer", "poststart")
ALL = (*AT_CREATE, *AT_START, "poststop")
IN_CONTAINER = "startContainer"
"""The one hook whose path, and all it does, is the container's."""


def place(bundle: Bundle, kind: str) -> str:
    """The test's directory as a hook of this kind sees it."""
    return CASE if kind == IN_CONTAINER else bundle.runtime.inside(bundle.runtime.directory)


def note(bundle: Bundle, kind: str, word: str = "") -> dict[str, Any]:
    """A hook that adds its name to a list, and keeps its input."""
    where = place(bundle, kind)
    return bundle.hook(f'printf %s "$input" >{where}/{kind}.json; echo {word or kind} >>{where}/order')


def order(bundle: Bundle) -> list[str]:
    path = bundle.mark("order")
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def noted(bundle: Bundle) -> Bundle:
    """A bundle with a hook of each kind, and a program in the same list."""
    bundle.config["hooks"] = {kind: [note(bundle, kind)] for kind in ALL}
    bundle.config["annotations"] = {"org.example": "hooks"}
    return bundle.script("echo program >>/case/order; exec sleep 1000")


def test_order(noted: Bundle) -> None:
    """config.md#summary: which operation calls which hooks; prestart before createRuntime before createContainer.

    config.md#hooks: the state of the container MUST be passed to hooks over stdin.
    """
    noted.create().ok()
    pid = noted.state()["pid"]
    assert order(noted) == list(AT_CREATE)
    noted.start().ok()
    assert "poststart" in order(noted)
    until(lambda: "program" in order(noted), "the program")
    assert order(noted)[:3] == list(AT_CREATE)
    assert order(noted).index("startContainer") < order(noted).index("program")
    noted.end()
    assert "poststop" not in order(noted)
    noted.delete().ok()
    assert order(noted)[-1] == "poststop"
    assert len(order(noted)) == len(set(order(noted)))
    require_states(noted, pid)


STATUS = {
    "prestart": {"creating", "created"},
    "createRuntime": {"creating", "created"},
    "createContainer": {"creating", "created"},
    "startContainer": {"created", "starting"},  # runtime.md#state allows more values; this one is crun's
    "poststart": {"running"},
    "poststop": {"stopped"},
}


def require_states(noted: Bundle, pid: int) -> None:
    """What each hook was told."""
    for kind in ALL:
        state = json.loads(noted.mark(f"{kind}.json").read_text())
        assert state["id"] == noted.name, kind
        if kind != IN_CONTAINER:  # where the bundle can't be seen: crun says "/" there
            assert state["bundle"] == noted.inside, kind
        assert state["status"] in STATUS[kind], kind
        assert state["annotations"] == {"org.example": "hooks"}, kind
        assert state["ociVersion"], kind
        if kind in ("prestart", "createRuntime", "poststart"):  # runtime namespace: the pid as the runtime sees it
            assert state["pid"] == pid, kind


def test_order_under_run(bundle: Bundle) -> None:
    """config.md#hooks: MUST be called in the listed order; `run` is create, start and delete."""
    bundle.config["hooks"] = {kind: [note(bundle, kind, f"{kind}{n}") for n in range(2)] for kind in ALL}
    until_then = "until grep -q poststart1 /case/order; do sleep 0.01; done"
    bundle.script(f"echo program >>/case/order; {until_then}").run().ok()
    seen = order(bundle)
    for kind in ALL:
        assert [word for word in seen if word[:-1] == kind] == [f"{kind}0", f"{kind}1"]
    assert [word[:-1] for word in seen[:6:2]] == list(AT_CREATE)
    assert seen.index("startContainer1") < seen.index("program")
    assert seen[-2:] == ["poststop0", "poststop1"]


def test_args_and_env(bundle: Bundle) -> None:
    """config.md#hooks: `args` are execv's argv, `env` is the whole environment."""
    where = place(bundle, "prestart")
    told = bundle.hook(f'echo "$0|$1|$ONE" >{where}/told; env >{where}/env', "a b", env=["ONE=1"])
    bundle.config["hooks"] = {"prestart": [told]}
    bundle.create().ok()
    assert bundle.marked("told") == "a b||1\n"
    assert {line.split("=")[0] for line in bundle.marked("env").split()} - {"PWD", "_", "SHLVL", "OLDPWD"} == {"ONE"}


def test_namespaces(bundle: Bundle) -> None:
    """config.md#hooks: createContainer and startContainer are executed in the container namespace, others not."""
    hooks = {kind: [bundle.hook(f"readlink /proc/self/ns/mnt >{place(bundle, kind)}/{kind}.ns")] for kind in ALL}
    bundle.config["hooks"] = hooks
    bundle.script("readlink /proc/self/ns/mnt").run().ok()
    spaces = {kind: bundle.marked(f"{kind}.ns") for kind in ALL}
    inside = bundle.mark("out").read_text()
    assert {kind for kind, space in spaces.items() if space == inside} == {"createContainer", "startContainer"}


@pytest.mark.parametrize("kind", AT_CREATE)
def test_failure_at_create(noted: Bundle, kind: str) -> None:
    """runtime.md#lifecycle, 3 to 5: a hook that fails is an error, and the container is destroyed."""
    noted.config["hooks"][kind].append(noted.hook("exit 3"))
    noted.create().refused()
    assert order(noted)[: AT_CREATE.index(kind) + 1] == list(AT_CREATE[: AT_CREATE.index(kind) + 1])
    assert "program" not in order(noted)
    assert noted.runtime.status(noted.name) == "none"
    assert not noted.runtime.names()


def test_failure_at_start(noted: Bundle) -> None:
    """runtime.md#lifecycle, 7: a startContainer hook that fails: the program is not run."""
    noted.config["hooks"]["startContainer"].append(noted.hook("exit 3"))
    noted.create().ok()
    noted.start()  # crun does not wait for these hooks
    noted.wait_ended()
    assert noted.runtime.status(noted.name) in ("stopped", "none")
    assert "program" not in order(noted)


def test_failure_after_start(noted: Bundle) -> None:
    """runtime.md#lifecycle, 9: a poststart hook that fails is an error; in version 1.0, as crun has it, it is not."""
    noted.config["hooks"]["poststart"].insert(0, noted.hook("exit 3"))
    noted.create().ok()
    done = noted.start()
    if done.status == 0:
        assert noted.runtime.status(noted.name) == "running"
    else:
        assert noted.runtime.status(noted.name) in ("stopped", "none")


def test_failure_after_delete(noted: Bundle) -> None:
    """runtime.md#lifecycle, 13: a poststop hook that fails is a warning; the rest goes on."""
    noted.config["hooks"]["poststop"].insert(0, noted.hook("exit 3"))
    noted.stopped().delete().ok()
    assert order(noted)[-1] == "poststop"
    assert noted.runtime.status(noted.name) == "none"


def test_timeout(bundle: Bundle) -> None:
    """config.md#hooks: `timeout` is the number of seconds before aborting the hook."""
    bundle.config["hooks"] = {"prestart": [{**bundle.hook("sleep 20"), "timeout": 1}]}
    bundle.create().refused()
    assert not bundle.runtime.names()


def test_path_is_absolute(bundle: Bundle) -> None:
    """config.md#hooks: `path` MUST be absolute; one that can't be run is an error."""
    bundle.config["hooks"] = {"prestart": [{"path": "/nonexistent"}]}
    bundle.create().refused()
    assert not bundle.runtime.names()
