"""The doctor's view of Slurm: a healthy site, and one fault at a time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from oci_criu_shim.cli import doctor
from oci_criu_shim.cli.doctor import site
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import commands, controller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.cli.doctor.verdicts import Result

Patch = pytest.MonkeyPatch

HEALTHY = {
    "PrologFlags": "Alloc,Contain",
    "ProctrackType": "proctrack/cgroup",
    "PreemptType": "preempt/partition_prio",
    "JobRequeue": "1",
    "JobFileAppend": "1",
    "MaxBatchRequeue": "1000",
    "PreemptParameters": "(null)",
    "SLURM_VERSION": "24.11.5",
    "PlugStackConfig": "(null)",
    "PluginDir": "/usr/lib/slurm",
}
PARTITIONS = [
    {"PartitionName": "low", "PriorityTier": "1", "PreemptMode": "REQUEUE", "GraceTime": "60"},
    {"PartitionName": "high", "PriorityTier": "10", "PreemptMode": "OFF", "GraceTime": "0"},
]
FILES = sorted((Path(__file__).parents[2] / "etc/oci.conf.d").glob("*.conf"))
OCI = 'RunTimeRun="exec {program} --root=/run/oci-criu-shim/%j run --bundle %b %n.%u.%j.%s.%t"\n'


@pytest.fixture
def healthy(monkeypatch: Patch, tmp_path: Path) -> Path:
    """/etc/slurm of a node where all is well."""
    plugin, program = tmp_path / site.PLUGIN, tmp_path / site.PROGRAM
    plugin.touch()
    program.touch(mode=0o755)
    (tmp_path / "plugstack.conf").write_text(f"# the plugin\nrequired {plugin} # ours\n")
    (tmp_path / "oci.conf").write_text(OCI.format(program=program))
    monkeypatch.setattr(controller, "conf_directory", lambda: str(tmp_path))
    monkeypatch.setattr(controller, "configuration", lambda: dict(HEALTHY))
    monkeypatch.setattr(controller, "partitions", lambda: PARTITIONS)
    monkeypatch.setattr(controller, "asked_by", lambda: "its commands")
    return tmp_path


def results() -> dict[str, Result]:
    return {name: doctor.examine(name, check) for name, check in site.checks()}


def one_wrong(name: str, status: str = "failed") -> Result:
    """The result of the one check that is not ok."""
    wrong = {key: result["status"] for key, result in results().items() if result["status"] != "ok"}
    assert wrong == {name: status}
    return results()[name]


def test_healthy(healthy: Path) -> None:
    assert {result["status"] for result in results().values()} == {"ok"}


def test_no_slurm(monkeypatch: Patch) -> None:
    monkeypatch.setattr(controller, "conf_directory", lambda: None)
    assert {(result["status"], result["found"]) for result in results().values()} == {
        ("skipped", "no slurm.conf on this machine")
    }


def no_answer() -> dict[str, str]:
    raise ShimError("Unable to contact slurm controller")


def test_no_answer(monkeypatch: Patch, healthy: Path) -> None:
    monkeypatch.setattr(controller, "configuration", no_answer)
    found = {name: result["status"] for name, result in results().items()}
    files = {name: found.pop(name) for name in ("plugstack.conf", "oci.conf")}
    assert set(files.values()) == {"ok"}
    assert found.pop("slurm") == "failed"
    assert set(found.values()) == {"skipped"}


@pytest.mark.parametrize(
    ("key", "value", "status"),
    [
        ("PrologFlags", "Alloc", "failed"),
        ("PrologFlags", "(null)", "failed"),
        ("ProctrackType", "proctrack/linuxproc", "failed"),
        ("PreemptType", "preempt/none", "failed"),
        ("JobRequeue", "0", "failed"),
        ("JobFileAppend", "0", "warning"),
    ],
)
def test_rules(monkeypatch: Patch, healthy: Path, key: str, value: str, status: str) -> None:
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, key: value})
    result = one_wrong(key, status)
    assert result["found"].startswith(f"{key}={value}: ")
    assert result["hint"].startswith(f"slurm.conf: {key}=")


@pytest.mark.parametrize(
    ("limit", "status", "said"),
    [
        ("5", "warning", "a job that is preempted more than 3 times is started once more when it has ended"),
        ("2", "warning", "more than 0 times"),
        ("1", "failed", "a job that was preempted is held when it has ended"),
    ],
)
def test_how_often_a_job_is_requeued(monkeypatch: Patch, healthy: Path, limit: str, status: str, said: str) -> None:
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, "MaxBatchRequeue": limit})
    result = one_wrong("requeues", status)
    assert result["found"].startswith(f"MaxBatchRequeue={limit}: ") and said in result["found"]
    assert result["hint"] == "slurm.conf: MaxBatchRequeue=1000"


@pytest.mark.parametrize(
    ("key", "value"),
    [("PreemptParameters", "youngest_first,send_user_signal"), ("SlurmctldParameters", "preempt_send_user_signal")],
)
def test_who_is_told_of_a_preemption(monkeypatch: Patch, healthy: Path, key: str, value: str) -> None:
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, key: value})
    assert one_wrong("preemption's signal", "warning")["found"].startswith(f"{key}={value}: ")


def test_a_partition_whose_jobs_are_cancelled(monkeypatch: Patch, healthy: Path) -> None:
    cut = {"PartitionName": "cut", "PriorityTier": "1", "PreemptMode": "CANCEL", "GraceTime": "60"}
    monkeypatch.setattr(controller, "partitions", lambda: [*PARTITIONS, cut])
    assert results()["preemption"]["found"] == "low GraceTime=60, cut is not requeued: PreemptMode=CANCEL"


def test_preemption_by_qos(monkeypatch: Patch, healthy: Path) -> None:
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, "PreemptType": "preempt/qos"})
    monkeypatch.setattr(controller, "grace_times", lambda: {"normal": 0, "scavenger": 60})
    result = results()["preemption"]
    assert (result["status"], result["found"]) == ("ok", "QOS scavenger GraceTime=60")
    monkeypatch.setattr(controller, "grace_times", lambda: {"normal": 0})
    assert "no QOS has a GraceTime" in one_wrong("preemption", "warning")["found"]

    def silent() -> dict[str, int]:
        raise ShimError("sacctmgr show qos: Connection refused")

    monkeypatch.setattr(controller, "grace_times", silent)
    result = one_wrong("preemption", "warning")
    assert "no job is warned of one that is too short: sacctmgr show qos: Conn" in result["found"]
    assert "slurmdbd" in result["hint"]


@pytest.mark.parametrize(
    ("low", "said"),
    [
        ({"GraceTime": "0"}, "GraceTime=0 of low"),
        ({"PreemptMode": "CANCEL"}, "low CANCEL, high OFF"),
        ({"PriorityTier": "10"}, "no partition below another one"),
    ],
)
def test_preemption(monkeypatch: Patch, healthy: Path, low: dict[str, str], said: str) -> None:
    monkeypatch.setattr(controller, "partitions", lambda: [{**PARTITIONS[0], **low}, PARTITIONS[1]])
    assert said in one_wrong("preemption")["found"]


def test_plugstack_includes(healthy: Path) -> None:
    own = (healthy / "plugstack.conf").read_text()
    (healthy / "plugstack.conf.d").mkdir()
    (healthy / "plugstack.conf.d/ours.conf").write_text(own)
    (healthy / "plugstack.conf").write_text("optional other.so\ninclude plugstack.conf.d/*.conf\n")
    assert results()["plugstack.conf"]["status"] == "ok"


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("required other.so", "failed", "does not name"),
        (f"# required {site.PLUGIN}", "failed", "does not name"),
        (f"required /nonexistent/{site.PLUGIN}", "failed", "which is not there"),
        (f"required {site.PLUGIN}", "failed", f"/usr/lib/slurm/{site.PLUGIN}, which is not there"),
        (f"optional {{directory}}/{site.PLUGIN}", "warning", "left out in silence"),
        (f"required {{directory}}/{site.PLUGIN} metrics=/nonexistent", "warning", "no such directory"),
        ("required 'x", "failed", "No closing quotation"),
    ],
)
def test_plugstack(healthy: Path, line: str, status: str, said: str) -> None:
    (healthy / "plugstack.conf").write_text(line.format(directory=healthy) + "\n")
    result = one_wrong("plugstack.conf", status)
    assert said in result["found"] and result["hint"]


def test_metrics(healthy: Path) -> None:
    (healthy / "plugstack.conf").write_text(f"required {healthy / site.PLUGIN} metrics={healthy}\n")
    assert results()["plugstack.conf"]["status"] == "ok"


def test_files_that_are_missing(healthy: Path) -> None:
    for name in ("plugstack.conf", "oci.conf"):
        (healthy / name).unlink()
        assert "No such file" in results()[name]["found"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('RunTimeRun="exec crun run --bundle %b %n"', "RunTimeRun is not by oci-criu-shim: exec crun run"),
        ('RunTimeQuery="exec {program} --root=/run/oci-criu-shim/%j state %n"', "sets neither"),
        ('RunTimeRun="exec {program} --root=/tmp run %n"', "does not name /run/oci-criu-shim/%j"),
        ('RunTimeRun="exec /nonexistent/oci-criu-shim --root=/run/oci-criu-shim/%j run %n"', "is not there"),
        (OCI + 'RunTimeDelete="crun delete"', "RunTimeDelete is not by"),
    ],
)
def test_oci(healthy: Path, text: str, said: str) -> None:
    (healthy / "oci.conf").write_text(text.format(program=healthy / site.PROGRAM))
    result = one_wrong("oci.conf")
    assert said in result["found"] and result["hint"]


def test_oci_without_exec(healthy: Path) -> None:
    """slurmstepd's signals would reach a shell."""
    (healthy / "oci.conf").write_text(OCI.format(program=healthy / site.PROGRAM).replace("exec ", ""))
    assert "begin it with: exec /" in one_wrong("oci.conf", "warning")["hint"]


def test_oci_by_the_shell(healthy: Path) -> None:
    command = f"d=/run/oci-criu-shim/%j; [ -e $d/%n ] && exec {healthy}/oci-criu-shim state %n"
    script = f'RunTimeQuery="{site.GUARD} {command}"\n'
    with (healthy / "oci.conf").open("a") as stream:
        stream.write(script)
    assert results()["oci.conf"]["found"].endswith("RunTimeRun, RunTimeQuery")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_root_has_no_business_in_a_jobs_directory(healthy: Path, file: Path) -> None:
    """As it is in our own files. A site's copy of an earlier one is told which lines to put there."""
    program = str(healthy / site.PROGRAM)
    text = file.read_text().replace("/usr/bin/oci-criu-shim", program)
    chooser = healthy / "slurm-oci/run"
    chooser.parent.mkdir()
    chooser.touch(mode=0o755)
    text = text.replace("/etc/oci-criu-shim/slurm-oci/run", str(chooser))
    (healthy / "oci.conf").write_text(text)
    assert results()["oci.conf"]["status"] == "ok"
    ours = [line for line in text.splitlines() if line.startswith(site.BY_ROOT) and program in line]
    assert len(ours) == (0 if "multi" in file.stem else 3)
    (healthy / "oci.conf").write_text(text.replace(f"{site.GUARD} ", ""))
    if not ours:
        assert results()["oci.conf"]["status"] == "ok"
        return
    result = one_wrong("oci.conf")
    assert "slurmstepd runs RunTimeQuery, RunTimeKill, RunTimeDelete as root, too" in result["found"]
    assert result["hint"].splitlines() == ["replace on all nodes:", *ours]
    (healthy / "oci.conf").write_text(text.replace(f"{site.GUARD} ", "", 1))
    assert one_wrong("oci.conf")["hint"].splitlines() == ["replace on all nodes:", ours[0]]


def test_a_test_that_is_another_one(healthy: Path) -> None:
    """The directory itself says what its user wants it to."""
    words = f"[ -O /run/oci-criu-shim/%j ] || exit 1; exec {healthy}/oci-criu-shim --root=/run/oci-criu-shim/%j"
    with (healthy / "oci.conf").open("a") as stream:
        stream.write(f'RunTimeKill="{words} kill %n"\nRunTimeDelete=\'{words} delete "%n"\'\n')
    kill, delete = one_wrong("oci.conf")["hint"].splitlines()[1:]
    assert kill == f'RunTimeKill="{site.GUARD} {words} kill %n"'
    assert delete == f"RunTimeDelete='{site.GUARD} {words} delete \"%n\"'"


SHELLS = [path for path in ("/bin/sh", "/bin/dash", "/bin/bash") if os.access(path, os.X_OK)]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("owner", "user", "status"), [("own", "7", 1), ("own", "0", 3), ("other", "7", 3), ("missing", "7", 3)]
)
def test_who_passes_the_guard(tmp_path: Path, shell: str, owner: str, user: str, status: int) -> None:
    """`own` is root, whose the directory is; where there is none, there is nothing in it."""
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "other", 7, 7)
    else:
        (tmp_path / "other").rmdir()
        (tmp_path / "other").symlink_to("/")
    command = site.GUARD.replace("%U", user).replace("/run/oci-criu-shim", str(tmp_path / owner))
    assert subprocess.run([shell, "-c", f"{command} exit 3"], check=False).returncode == status


def test_oci_by_create_and_start(healthy: Path) -> None:
    line = "runtime{} = 'exec {} --root /run/oci-criu-shim/%j \\\n {} %n'\n"
    texts = [line.format(verb, healthy / site.PROGRAM, verb) for verb in ("create", "start")]
    (healthy / "oci.conf").write_text("".join(texts))
    assert results()["oci.conf"]["found"].endswith("RunTimeCreate, RunTimeStart")


CONFIG = """Configuration data as of 2026-01-01T00:00:00
PrologFlags             = Alloc,Contain
PriorityFlags           = \n
Slurmctld(primary) at ctl is UP
"""
PARTITION = "PartitionName=low AllowGroups=ALL Default=YES QoS=N/A PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 \n"


def test_what_scontrol_says(monkeypatch: Patch) -> None:
    monkeypatch.setattr(commands, "run", lambda *argv: CONFIG if argv[2] == "config" else PARTITION)
    asked = commands.Commands()
    assert asked.configuration() == {"PrologFlags": "Alloc,Contain", "PriorityFlags": ""}
    assert asked.partitions()[0]["GraceTime"] == "20"


def test_where_slurm_conf_is(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(controller, "CONF", (str(tmp_path / "none"), str(tmp_path / "slurm.conf")))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    assert controller.conf_directory() is None
    (tmp_path / "slurm.conf").touch()
    assert controller.conf_directory() == str(tmp_path)
    monkeypatch.setenv("SLURM_CONF", "/nonexistent/slurm.conf")
    assert controller.conf_directory() is None


def test_submission(healthy: Path, monkeypatch: Patch) -> None:
    assert results()["submission"]["found"].startswith("off: sbatch does not warn")
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, "CliFilterPlugins": "user_defaults,lua"})
    assert "nothing can be submitted" in one_wrong("submission")["found"]
    path = healthy / "cli_filter.lua"
    path.write_text("function slurm_cli_pre_submit(options, offset) end")
    assert results()["submission"]["found"] == f"off: {path} does not call oci_criu_shim_foresee(options)"
    path.write_text((Path(__file__).parents[2] / "etc/cli_filter.lua").read_text())
    assert results()["submission"]["found"] == str(path)
