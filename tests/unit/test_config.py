"""The site's settings, and what is said of wrong ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from subprocess import PIPE
from typing import get_origin, get_type_hints

import pytest

from oci_criu_shim import config
from oci_criu_shim.errors import ShimError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "etc/config.toml"


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return str(path)


def test_defaults_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
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
        ('keep = "2"', "keep must be of type int, not '2'"),
        ("keep = true", "keep must be of type int, not True"),
        ('quota = "many"', "quota is a size such as 20G or 1.5T, not 'many'"),
        ('quota = "1.2.3G"', "quota is a size such as 20G or 1.5T, not '1.2.3G'"),
        ('margin = ""', "margin is a time such as 90s, 30m or 7d, not ''"),
        ("keep = 0", "keep must be at least 1, not 0"),
        ("max-restarts = -1", "max-restarts must be at least 0, not -1"),
        ("feature = 'a b'", "feature is a node's feature, not 'a b'"),
        ("layers = 'some'", "layers is auto, always or never, not 'some'"),
        ("fresh-start = 1", "fresh-start must be of type bool, not 1"),
        ("partitions = 1", "partitions must be of type dict, not 1"),
        ("[partitions]\nlow = 1", r"\[partitions.low\] may have checkpoint only"),
        ("[partitions.low]\nkeep = 1", r"\[partitions.low\] may have checkpoint only"),
        ("[partitions.low]\ncheckpoint = true", r"\[partitions.low\]: checkpoint must be of type str, not True"),
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
    with pytest.raises(ShimError, match="backend must be of type str"):
        config.backend(written(tmp_path, "backend = 1"))
