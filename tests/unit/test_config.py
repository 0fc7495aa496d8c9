"""The site's settings, and what is said of wrong ones."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import get_origin, get_type_hints

import pytest

from oci_criu_shim import config, values
from oci_criu_shim.errors import ShimError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "etc/config.toml"


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return str(path)


def test_defaults_without_a_file(tmp_path: Path, alice: Person) -> None:
    settings = config.load(str(tmp_path / "none"))
    assert settings.checkpoint_dir == "/home/alice/.local/state/oci-criu-shim"
    assert (settings.keep, settings.quota, settings.fresh_start) == (2, 0, False)
    assert (settings.max_restarts, settings.feature) == (3, "")


def test_file(tmp_path: Path) -> None:
    settings = config.load(written(tmp_path, 'checkpoint-dir = "/shared/c"\nfresh-start = true\n'))
    assert (settings.checkpoint_dir, settings.fresh_start, settings.keep) == ("/shared/c", True, 2)


def test_quota(tmp_path: Path) -> None:
    assert config.load(written(tmp_path, 'quota = "1.5G"')).quota == 3 << 29


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keep = ", "config.toml: "),
        ("kept = 2", "unknown setting 'kept'"),
        ('keep = "two"', 'keep must be a whole number, not "two"'),
        ("keep = true", "keep must be a whole number, not true"),
        ("keep = 2.5", "keep must be a whole number, not 2.5"),
        ('quota = "many"', 'quota is a size such as 20G or 1.5T, not "many"'),
        ('quota = "1.2.3G"', 'quota is a size such as 20G or 1.5T, not "1.2.3G"'),
        ("quota = 20", "quota is a size such as 20G or 1.5T, in quotes, not 20"),
        ('margin = ""', 'margin is a time such as 90s, 30m or 7d, not ""'),
        ('mtbf = "0d"', 'mtbf is a time such as 90s, 30m or 7d, not "0d"'),
        ('dump-rate = "0"', 'dump-rate is a size such as 20G or 1.5T, not "0"'),
        ('checkpoint = "preemt"', "checkpoint: 'preemt' is no value"),
        ('checkpoint = "preempt,interval:soon"', "checkpoint: 'soon' is not an interval"),
        ("checkpoint = true", "checkpoint must be in quotes, not true"),
        ('backend = "bin/crun"', 'backend is the name of a program, or its absolute path, not "bin/crun"'),
        ("backend = ['crun']", r'backend is .*, in quotes, not \["crun"\]'),
        ("keep = 0", "keep must be at least 1, not 0"),
        ("max-restarts = -1", "max-restarts must be at least 0, not -1"),
        ("feature = 'a b'", 'feature is a node\'s feature, not "a b"'),
        ("layers = 'some'", 'layers is auto, always or never, not "some"'),
        ("fresh-start = 1", "fresh-start must be true or false, without quotes, not 1"),
        ('fresh-start = "yes"', 'fresh-start must be true or false, without quotes, not "yes"'),
        ("partitions = 1", "partitions must be a table, not 1"),
        ("[partitions]\nlow = 1", r"\[partitions.low\] may have checkpoint only"),
        ("[partitions.low]\nkeep = 1", r"\[partitions.low\] may have checkpoint only"),
        ("[partitions.low]\ncheckpoint = true", r"\[partitions.low\]: checkpoint must be in quotes, not true"),
        ('[partitions.low]\ncheckpoint = "timeuot"', r"partitions.low\]: checkpoint: 'timeuot' is no value"),
    ],
)
def test_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ShimError, match=said):
        config.load(written(tmp_path, text))


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ShimError, match="Is a directory"):
        config.load(str(tmp_path))


def printed(tool: str) -> str:
    """Return the output of a program in tools/."""
    return subprocess.run([sys.executable, "-B", ROOT / "tools" / tool], stdout=PIPE, text=True, check=True).stdout


def test_shipped_file_shows_every_setting_with_its_default(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    assert text == printed("config_toml"), "run: tools/config_toml >etc/config.toml"
    assert max(map(len, text.splitlines())) <= 100
    assert tomllib.loads(text) == {}
    shown = "".join(f"{line[1:]}\n" for line in text.splitlines() if line[:1] == "#" and line[1:2] not in " ")
    partitions = {"low": {"checkpoint": "preempt,timeout"}}
    assert tomllib.loads(shown) == config.DEFAULTS | {"partitions": partitions}
    assert config.load(written(tmp_path, shown)).when("low") == "preempt,timeout"


def test_settings_are_of_the_types_that_are_annotated() -> None:
    settings = config.Settings(config.DEFAULTS)
    hints = get_type_hints(config.Settings)
    assert {name: type(value) for name, value in vars(settings).items()} == {
        name: get_origin(hint) or hint for name, hint in hints.items()
    }


@pytest.mark.skipif(not shutil.which("groff"), reason="there is no groff")
def test_manual_page_has_every_setting() -> None:
    argv = ["groff", "-man", "-Tutf8", "-P-cbou", "-ww"]
    done = subprocess.run(argv, input=printed("man_config"), capture_output=True, text=True, check=True)
    assert done.stderr == ""  # warnings
    words = " ".join(done.stdout.split())
    for setting in config.SETTINGS.values():
        assert f"{' '.join(setting.lines().split())} {setting.text.replace('`', '')}" in words


@pytest.mark.parametrize(
    ("text", "wanted"), [("", ""), ("#backend = 'runc'", ""), ("keep = 3", ""), ("keep = 3\n backend = 'runc'", "runc")]
)
def test_backend(tmp_path: Path, text: str, wanted: str) -> None:
    assert config.backend(written(tmp_path, text)) == wanted
    assert config.backend(str(tmp_path / "none")) == ""


def test_backend_of_the_wrong_type(tmp_path: Path) -> None:
    with pytest.raises(ShimError, match=r"config.toml: backend is the name of a program.* in quotes, not 1"):
        config.backend(written(tmp_path, "backend = 1"))


def test_one_setting_whatever_the_others_are(tmp_path: Path) -> None:
    assert config.backend(written(tmp_path, "keep = 'two'\nbackend = 'runc'\nnonsense = 1\n")) == "runc"


def closed(*_: object, **_named: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("read", [config.load, config.backend, config.increments])
def test_who_may_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[str], object]) -> None:
    path = written(tmp_path, "")
    monkeypatch.setattr("builtins.open", closed)
    with pytest.raises(ShimError, match=r"config.toml: Permission denied$") as caught:
        read(path)
    assert caught.value.hint == f"chmod 644 {path}"


def test_a_hint_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ShimError) as caught:
        config.load(written(tmp_path, "checkpoint = 'preemt'"))
    assert "preempt, timeout, interval:30m" in caught.value.hint


def test_what_differs_from_the_defaults(tmp_path: Path) -> None:
    text = "keep = 2\nquota = '20G'\n[partitions.low]\ncheckpoint = 'none'\n"
    assert config.read(written(tmp_path, text))[1] == {"quota": "20G", "partitions": {"low": {"checkpoint": "none"}}}


class Person:
    """A user of the system's, with another HOME in the environment: that of the slurmd, say."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.entry = ["alice", "x", "4242", "4242", "", "/home/alice", "/bin/sh"]
        patch.setattr(os, "geteuid", lambda: 4242)
        patch.setattr(pwd, "getpwuid", self.get)
        patch.setenv("HOME", "/root")
        patch.setenv("USER", "root")

    def get(self, uid: int) -> list[str]:
        if not self.entry:
            raise KeyError(uid)
        return self.entry


@pytest.fixture
def alice(monkeypatch: pytest.MonkeyPatch) -> Person:
    return Person(monkeypatch)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("~", "/home/alice"),
        ("~/ck", "/home/alice/ck"),
        ("$HOME/ck", "/home/alice/ck"),
        ("/scratch/$USER/ck", "/scratch/alice/ck"),
        ("/scratch/${USER}s/ck", "/scratch/alices/ck"),
        ("/shared/ck~", "/shared/ck~"),
    ],
)
def test_a_directory_of_each_user(tmp_path: Path, alice: Person, text: str, wanted: str) -> None:
    assert config.load(written(tmp_path, f'checkpoint-dir = "{text}"')).checkpoint_dir == wanted
    assert values.is_each_users(text) == ("alice" in wanted)


@pytest.mark.parametrize(
    "text", ["relative", "", "~bob/ck", "$USER/ck", "/a/$USERS", "/a/$PATH", "/a/$", "/a/${HOME", "/a/$(id)", "/a/$1"]
)
def test_not_a_directory_for_all(tmp_path: Path, alice: Person, text: str) -> None:
    with pytest.raises(ShimError, match=r"checkpoint-dir must be absolute or begin with ~/, .*\$USER and \$HOME, not"):
        config.load(written(tmp_path, f'checkpoint-dir = "{text}"'))


@pytest.mark.parametrize("name", ["..", "a/b", ""])
def test_a_name_that_would_lead_elsewhere(tmp_path: Path, alice: Person, name: str) -> None:
    alice.entry[0] = name
    os.environ["USER"] = name
    with pytest.raises(ShimError, match=r"checkpoint-dir: user 4242 has no \$USER on this node"):
        config.load(written(tmp_path, 'checkpoint-dir = "/scratch/$USER"'))


def test_a_user_that_nobody_knows(tmp_path: Path, alice: Person) -> None:
    alice.entry = []
    os.environ["HOME"] = "/home/from/environment"
    assert config.load(written(tmp_path, "")).checkpoint_dir.startswith("/home/from/environment/.local")
    del os.environ["HOME"]
    with pytest.raises(ShimError, match=r"user 4242 has no \$HOME on this node"):
        config.load(written(tmp_path, ""))
