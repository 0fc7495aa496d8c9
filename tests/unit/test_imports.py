"""Which module may import which: the rooms, the privilege boundary, the single importers, the hot path."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import oci_criu_shim

PACKAGE = Path(oci_criu_shim.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# Each room imports only itself, rooms that stand before it here, and the modules of the top folder ("") but __main__.
ROOMS = (
    *("", "host", "privileged", "slurm", "checkpoints", "transfer", "container", "restore", "dump", "task"),
    *("supervisor", "cli"),
)
ENTRIES = {"__main__", "bundles"}  # import any room; nobody imports them
HOT = (
    "__main__",
    "cli.parse",
    "cli.commands",
    "supervisor.lifecycle",
    "container.registry",
    "container.record",
    "host.process",
)
SLOW = {"argparse", "ctypes", "dataclasses", "enum", "json", "jsonschema", "logging"} | {
    *("pycriu", "re", "signal", "socket", "subprocess", "tomllib", "typing"),
}
# What the privileged side may take from the rest.
PRIVILEGED = {"", "host", "privileged"}


def name_of(path: Path) -> str:
    """A module's dotted name below the package; a package has its own."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__").removesuffix("__init__")


def room_of(name: str) -> str:
    """The room that a module is in; for an entry, itself."""
    first = name.partition(".")[0]
    return first if first in ENTRIES or (PACKAGE / first).is_dir() else ""


def statements(tree: ast.AST, deep: bool, typing: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements: those in functions only if `deep`, those below TYPE_CHECKING only if `typing`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            if typing:
                yield from statements(node, deep, typing)
        elif deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(node, deep, typing)


def imported(path: Path, deep: bool = True, typing: bool = False) -> set[str]:
    """Dotted names of modules, and of what is taken from them."""
    names = set()
    for node in statements(ast.parse(path.read_text()), deep, typing):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


NAMES = {name_of(path): path for path in MODULES}


def ours(names: set[str]) -> set[str]:
    """Those of the package's modules that are among the names; a package itself only if something of its own is."""
    inner = {name.removeprefix("oci_criu_shim.") for name in names if name.startswith("oci_criu_shim.")}
    parents = {name.rpartition(".")[0] for name in inner & NAMES.keys()}
    return {name for name in inner & NAMES.keys() if NAMES[name].stem != "__init__" or name not in parents}


def neighbours(name: str) -> set[str]:
    """The modules that one imports in any way: at its top, in a function, for its types."""
    return ours(imported(NAMES[name], typing=True)) - {name}


def named(path: Path, package: str) -> bool:
    """Whether a string of a module, other than a docstring, names a package: importlib takes those."""
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    words = [word.value for call in calls for word in call.args if isinstance(word, ast.Constant)]
    return any(isinstance(word, str) and word.split(".")[0] == package for word in words)


@pytest.mark.parametrize("name", NAMES)
def test_a_room_imports_only_rooms_below(name: str) -> None:
    room = room_of(name)
    allowed = set(ROOMS) if room in ENTRIES else set(ROOMS[: ROOMS.index(room) + 1])
    above = {other for other in neighbours(name) if room_of(other) not in allowed}
    assert not above, f"{name} is in room {room!r}, which may import {sorted(allowed)}"


def test_no_circle_of_modules() -> None:
    TopologicalSorter({name: neighbours(name) for name in NAMES}).prepare()


@pytest.mark.parametrize("name", NAMES)
def test_only_privileged_imports_privileged(name: str) -> None:
    if room_of(name) != "privileged":
        assert "privileged" not in {room_of(other) for other in neighbours(name)}


@pytest.mark.parametrize("name", [name for name in NAMES if room_of(name) == "privileged"])
def test_privileged_imports_the_host_only(name: str) -> None:
    assert {room_of(other) for other in neighbours(name)} <= PRIVILEGED


@pytest.mark.parametrize("package", ["pycriu", "pyslurm", "pyroute2"])
def test_single_importers(package: str) -> None:
    allowed = {"pycriu": {"host.criu"}, "pyslurm": {"slurm.library"}, "pyroute2": set[str]()}[package]
    importers = {
        name
        for name, path in NAMES.items()
        if package in {word.split(".")[0] for word in imported(path)} or named(path, package)
    }
    assert importers <= allowed


def reached(name: str, seen: set[str]) -> None:
    """The package's modules that importing `name` imports."""
    if name in seen or name not in NAMES:
        return
    seen.add(name)
    for other in imported(NAMES[name], deep=False):
        if other.startswith("oci_criu_shim."):
            reached(other.removeprefix("oci_criu_shim."), seen)


@pytest.mark.parametrize("name", HOT)
def test_hot_path_imports_nothing_slow(name: str) -> None:
    modules: set[str] = set()
    reached(name, modules)
    for module in modules:
        slow = {word.split(".")[0] for word in imported(NAMES[module], deep=False)} & SLOW
        assert not slow, f"{name} imports {module}, which imports {slow}"


@pytest.mark.parametrize("name", ["bundles.task", "supervisor.launch", "supervisor.bare", "task.run"])
def test_a_task_without_a_container_imports_little(name: str) -> None:
    """ctypes calls what makes its namespaces."""
    modules: set[str] = set()
    reached(name, modules)
    for module in modules:
        slow = {word.split(".")[0] for word in imported(NAMES[module], deep=False)} & (SLOW - {"ctypes"})
        assert not slow, f"{name} imports {module}, which imports {slow}"


@pytest.mark.parametrize("name", [*HOT, "supervisor.launch", "supervisor.loop"])
def test_only_what_asked_for_checkpoints_has_a_history(name: str) -> None:
    modules: set[str] = set()
    reached(name, modules)
    assert not [module for module in modules if module == "task.history" or module.startswith("cli.job")]


@pytest.mark.parametrize("name", ["restore.restore", "dump.dump", "task.run"])
def test_only_a_layer_needs_tarfile(name: str) -> None:
    modules: set[str] = set()
    reached(name, modules)
    assert not [module for module in modules if "tarfile" in imported(NAMES[module], deep=False)]


@pytest.mark.parametrize("name", NAMES)
def test_each_module_can_be_imported(name: str) -> None:
    importlib.import_module(f"oci_criu_shim.{name}" if name else "oci_criu_shim")
