"""Tests cli_filter.lua: sbatch warns at submission if a checkpoint won't fit the grace time."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.cluster import Cluster
from tests.slurm.conftest import GRACE_TIME

CONF = "/home/alice/submit"
FILTER = "/etc/oci-criu-shim/cli_filter.lua"
SITES = f"""\
dofile("{FILTER}")
function slurm_cli_pre_submit(options, offset)
	oci_criu_shim_foresee(options)
	error("a mistake of the site's")
end
"""
SAID = (
    "oci-criu-shim: a checkpoint of up to 6.8 GiB takes about 36 s, "
    f"but a preemption in partition low gives {GRACE_TIME} s"
)
SLURMS = re.compile(r"(sbatch|srun|salloc): (?!error)")
ASKED = ("--checkpoint", "--checkpoint-dir=/home/alice/none", "--mem=7000")


@pytest.fixture(scope="module")
def filtering(shim_cluster: Cluster) -> Iterator[Cluster]:
    """Give the shared cluster a configuration with the filter, for alice's SLURM_CONF."""
    script = f"mkdir {CONF}; cp /etc/slurm/* {FILTER} {CONF}; echo CliFilterPlugins=lua >>{CONF}/slurm.conf"
    shim_cluster.exec("n1", ["sh", "-ec", script])
    yield shim_cluster
    shim_cluster.exec("n1", ["rm", "-r", CONF])


def submit(cluster: Cluster, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """See if it could be submitted; salloc can't but do it."""
    command = {
        "sbatch": ("--test-only", "--wrap", "true"),
        "srun": ("--test-only", "--container=/b", "true"),
        "salloc": ("true",),
    }
    argv = ["env", f"SLURM_CONF={CONF}/slurm.conf", program, *words, *command[program]]
    return cluster.exec("n1", argv)


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert not done.stdout
    return [line for line in done.stderr.splitlines() if not SLURMS.match(line)]


@pytest.mark.parametrize("program", ["sbatch", "srun", "salloc"])
def test_too_short(filtering: Cluster, program: str) -> None:
    (line,) = told(submit(filtering, program, *ASKED))
    assert line == f"{SAID}; --checkpoint-interval limits the loss"
    (line,) = told(submit(filtering, program, *ASKED[:2], "--mem-per-cpu=3500", "-c2", "--checkpoint-interval=1h"))
    assert line == SAID
    for words in (ASKED[2:], (*ASKED[:2], "--mem=100"), (*ASKED, "-p", "high"), (*ASKED[1:], "--checkpoint=timeout")):
        assert told(submit(filtering, program, *words)) == []


def test_what_the_script_asks_for(filtering: Cluster) -> None:
    """It is a real submission; Slurm's own line is all that there is on standard output."""
    script = "#!/bin/sh\n" + "".join(f"#SBATCH {word}\n" for word in ASKED)
    argv = ["env", f"SLURM_CONF={CONF}/slurm.conf", "sbatch", "--hold", "--parsable", "--output=/dev/null"]
    done = filtering.exec("n1", argv, input=script)
    assert told(subprocess.CompletedProcess(argv, 0, "", done.stderr))[0].startswith(SAID)
    filtering.exec("n1", ["scancel", str(int(done.stdout))])


@contextmanager
def replaced(cluster: Cluster, path: str, text: str | None) -> Iterator[None]:
    """A file with another text, or not there."""
    cluster.exec("n1", ["mv", path, f"{path}.old"], "root")
    if text is not None:
        cluster.exec("n1", ["tee", path], "root", input=text)
    try:
        yield
    finally:
        cluster.exec("n1", ["mv", f"{path}.old", path], "root")


def test_it_holds_nobody_up(filtering: Cluster) -> None:
    """Nothing that a user writes is a command; and what is wrong with ours or the site's is nobody's error."""
    strange = submit(filtering, "sbatch", *ASKED[:1], "--mem=7000", "--checkpoint-dir=x'$(touch /home/alice/x)`id`\n")
    assert [line.startswith(SAID) for line in told(strange)].count(True) == 1
    assert filtering.exec("n1", ["test", "-e", "/home/alice/x"], check=False).returncode
    with replaced(filtering, "/usr/bin/oci-criu-shim", None):
        assert told(submit(filtering, "sbatch", *ASKED)) == []
    with replaced(filtering, "/etc/oci-criu-shim/config.toml", "nonsense = 1\n"):
        assert told(submit(filtering, "sbatch", *ASKED)) == []
    with replaced(filtering, f"{CONF}/cli_filter.lua", SITES):
        lines = told(submit(filtering, "sbatch", *ASKED))
        assert lines[0].startswith(SAID) and "a mistake of the site's" in lines[1]
