"""What a user is told of a job's grace time before it is submitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_criu_shim import config
from oci_criu_shim.cli import parse
from oci_criu_shim.cli.job.foresee import memory
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import controller

Capture = pytest.CaptureFixture[str]
NONE = {"DefMemPerNode": "0", "DefMemPerCPU": "0"}
LOW = {"PartitionName": "low", "Default": "YES", "GraceTime": "20", **NONE}
LONG = {"PartitionName": "long", "Default": "NO", "GraceTime": "60", **NONE, "DefMemPerCPU": "8000"}
HIGH = {"PartitionName": "high", "Default": "NO", "GraceTime": "0", **NONE}
ASKED = ("--checkpoint=set", "--mem=8G")  # at 200 MiB/s: 41 s
SAID = "oci-criu-shim: a checkpoint of up to 8.0 GiB takes about 41 s, but "


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> config.Settings:
    settings = config.Settings({**config.DEFAULTS, "checkpoint-dir": str(tmp_path)})
    monkeypatch.setattr(config, "load", lambda: settings)
    monkeypatch.setattr(controller, "partitions", lambda: [HIGH, LOW, LONG])
    monkeypatch.setattr(controller, "configuration", dict)
    return settings


def told(capfd: Capture, *words: str, quiet: bool = True) -> str:
    assert parse.main(["job", "foresee", *["--quiet"][: int(quiet)], *words]) == 0
    said = capfd.readouterr()
    assert not said.out
    return said.err


def test_too_short(capfd: Capture) -> None:
    advice = "; --checkpoint-interval limits the loss\n"
    assert told(capfd, *ASKED) == f"{SAID}a preemption in partition low gives 20 s{advice}"
    assert told(capfd, *ASKED, "--partition=long,low") == f"{SAID}a preemption in partition low gives 20 s{advice}"
    for words in (("--checkpoint=preempt,interval:1h", "--mem=8G"), (*ASKED, "--checkpoint-interval=1h")):
        assert told(capfd, *words) == f"{SAID}a preemption in partition low gives 20 s\n"


def test_by_qos(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which one it is where none is named, only slurmctld knows."""
    monkeypatch.setattr(controller, "configuration", lambda: {"PreemptType": "preempt/qos"})
    monkeypatch.setattr(controller, "grace_times", lambda: {"long": 60, "short": 30})
    assert "a preemption in partition low gives 30 s" in told(capfd, *ASKED, "--qos=short")
    for words in ((), ("--qos=long",), ("--qos=other",)):
        assert told(capfd, *ASKED, *words) == ""


@pytest.mark.parametrize(
    "words",
    [
        ("--mem=1G",),
        ("--mem=0?",),
        ("--mem=64G", "--partition=high"),
        ("--partition=long",),
        ("--mem=64G", "--checkpoint=timeout"),
        ("--mem=64G", "--checkpoint=none"),
        ("--mem=64G", "--partition=no-such"),
        ("--mem=64G", "--checkpoint=nonsense"),
        (),
    ],
)
def test_nothing_to_warn_of(capfd: Capture, words: tuple[str, ...]) -> None:
    assert told(capfd, "--checkpoint=set", *words) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mem=1G", "--checkpoint=preempt"), "a checkpoint of up to 1.0 GiB takes about 6 s, and a preemption in "
                                               "partition low gives 20 s"),
        (("--mem=64G",), "without --checkpoint nothing is checkpointed: give --checkpoint=preempt, say"),
        (("--mem=1G", "--checkpoint=timeout"), "--checkpoint=timeout takes no checkpoint at a preemption"),
        (("--checkpoint=preempt",), "how much memory the job may use is not known (--mem); a preemption gives 20 s"),
        (("--checkpoint=preempt", "--partition=lwo"), "there is no partition lwo"),
        (("--checkpoint=preempt", "--partition=high"), "a preemption in partition high gives no time for a "
                                                       "checkpoint, or there is none"),
        (("--checkpoint=preemt",), "'preemt' is "),
    ],
)  # fmt: skip
def test_all_is_well_or_why_nothing_is_foreseen(capfd: Capture, words: tuple[str, ...], said: str) -> None:
    assert told(capfd, *words, quiet=False).startswith(f"oci-criu-shim: {said}")


def test_what_the_site_means_by_it(capfd: Capture, site: config.Settings) -> None:
    site.checkpoint = "timeout"
    assert told(capfd, *ASKED) == ""
    site.partitions = {"low": {"checkpoint": "preempt"}}
    assert told(capfd, *ASKED)


def test_the_slowest_node_that_is_known(capfd: Capture, tmp_path: Path) -> None:
    rates = tmp_path / "own" / "rates"
    rates.mkdir(parents=True)
    for node, rate in (("n1", 1 << 30), ("n2", 2 << 30), ("n3", "")):
        (rates / node).write_text(f"[[{rate}, 1.5]]")
    assert told(capfd, *ASKED, f"--checkpoint-dir={tmp_path}/own") == ""
    (rates / "n4").write_text(f"[[{1 << 30}, 10.74]]")
    assert "takes about 82 s" in told(capfd, *ASKED, f"--checkpoint-dir={tmp_path}/own")


def test_it_holds_nobody_up(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ShimError("slurmctld does not answer")

    for module, name in ((controller, "partitions"), (config, "load")):
        monkeypatch.setattr(module, name, fails)
        assert told(capfd, *ASKED) == ""


@pytest.mark.parametrize(
    ("options", "gibibytes"),
    [
        ({"mem": "4096"}, 4),
        ({"mem": "4G", "mem-per-cpu": "1G", "ntasks": "9"}, 4),
        ({"mem-per-cpu": "2G", "cpus-per-task": "3", "ntasks": "1"}, 6),
        ({"mem-per-cpu": "2048", "ntasks": "5", "nodes": "2"}, 6),
        ({"mem-per-cpu": "1G", "ntasks": "8", "nodes": "4-8", "ntasks-per-node": "-2", "cpus-per-task": "unset"}, 2),
        ({"mem-per-cpu": "1G", "ntasks-per-node": "7"}, 7),
        ({"ntasks": "2"}, 3),
        ({"mem": "0?"}, 0),
    ],
)
def test_memory(options: dict[str, str], gibibytes: int) -> None:
    assert memory(options, {**NONE, "DefMemPerCPU": "1536"}) == gibibytes << 30


def test_a_nodes_default() -> None:
    each = {**NONE, "DefMemPerNode": "1024"}
    assert memory({"ntasks": "4"}, each) == 1 << 30
    assert memory({"mem-per-cpu": "2G"}, each) == 2 << 30
    assert memory({}, LOW) == 0
