"""The doctor's view of Slurm: a healthy site, and one fault at a time."""

from __future__ import annotations

import os
import subprocess
import time
from io import StringIO
from pathlib import Path
from typing import NoReturn

import pytest

from oci_criu_shim import config
from oci_criu_shim.cli import doctor
from oci_criu_shim.cli.doctor import installation, lines, node, oci, plugstack, roots, site
from oci_criu_shim.cli.doctor.installation import PLUGIN
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.slurm import commands, controller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.cli.doctor.verdicts import Result

Patch = pytest.MonkeyPatch
Dict = dict[str, str]

HEALTHY = {
    "PrologFlags": "Alloc,Contain",
    "ProctrackType": "proctrack/cgroup",
    "PreemptType": "preempt/partition_prio",
    "JobRequeue": "1",
    "JobFileAppend": "1",
    "MaxBatchRequeue": "1000",
    "KillWait": "30 sec",
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
RUN = 'RunTimeRun="exec {program} --root=/run/oci-criu-shim/%j run --bundle %b %n.%u.%j.%s.%t"\n'
END = "".join(f'{key}="{oci.GUARD} exec {{program}} --root=/run/oci-criu-shim/%j x %n"\n' for key in oci.BY_ROOT)
SPOOL = 'MountSpoolDir="/var/run/slurm/"\n'
OCI = RUN + END + SPOOL


@pytest.fixture
def healthy(monkeypatch: Patch, tmp_path: Path) -> Path:
    """/etc/slurm of a node where all is well."""
    plugin, program = tmp_path / PLUGIN, tmp_path / oci.PROGRAM
    plugin.touch()
    (tmp_path / "config.toml").touch()
    (tmp_path / "slurm.conf").write_text("ClusterName=one\n")
    program.touch(mode=0o755)
    (tmp_path / "plugstack.conf").write_text(f"# the plugin\nrequired {plugin} # ours\n")
    (tmp_path / "oci.conf").write_text(OCI.format(program=program))
    monkeypatch.setattr(controller, "conf_directory", lambda: str(tmp_path))
    monkeypatch.setattr(controller, "configuration", lambda: dict(HEALTHY))
    monkeypatch.setattr(controller, "partitions", lambda: PARTITIONS)
    monkeypatch.setattr(controller, "asked_by", lambda: "its commands")
    monkeypatch.setattr(config, "PATH", str(tmp_path / "config.toml"))
    monkeypatch.setattr(config.read, "__defaults__", (config.PATH,))
    monkeypatch.setattr(plugstack, "slurmd", lambda: None)
    monkeypatch.setattr(roots, "require", lambda path, why: None)
    monkeypatch.setattr(roots, "require_readable", lambda path, why: None)
    return tmp_path


def results() -> dict[str, Result]:
    return {name: doctor.examine(name, check) for name, check in site.checks()}


def one_wrong(name: str, status: str = "failed") -> Result:
    """The result of the one check that something is wrong with."""
    found = results()
    wrong = {key: result["status"] for key, result in found.items() if result["status"] in ("failed", "warning")}
    assert wrong == {name: status}
    return found[name]


def test_healthy(healthy: Path) -> None:
    skipped = {name for name, result in results().items() if result["status"] == "skipped"}
    assert skipped == {"slurmd", "names in config.toml", "submission"}
    assert {result["status"] for result in results().values()} == {"ok", "skipped"}


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
    (healthy / "plugstack.conf").write_text(f"required {PLUGIN}\n")  # in PluginDir, which is not known then
    assert results()["plugstack.conf"]["status"] == "skipped"


@pytest.mark.parametrize(
    ("key", "value", "status"),
    [
        ("PrologFlags", "Alloc", "failed"),
        ("PrologFlags", "(null)", "failed"),
        ("ProctrackType", "proctrack/linuxproc", "failed"),
        ("PreemptType", "preempt/none", "warning"),
        ("JobRequeue", "0", "failed"),
        ("JobFileAppend", "0", "warning"),
    ],
)
def test_rules(monkeypatch: Patch, healthy: Path, key: str, value: str, status: str) -> None:
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, key: value})
    result = one_wrong(key, status)
    assert result["found"].startswith(f"{key}={value}: ")
    assert result["hint"].startswith(f"slurm.conf: {key}=") and result["hint"].endswith(", then scontrol reconfigure")
    (healthy / "more.conf").write_text(f"{key} = {HEALTHY[key]}\n")
    (healthy / "slurm.conf").write_text(f"{key}={value}\ninclude more.conf\n")
    assert one_wrong(key, status)["hint"] == "slurm.conf says so already, slurmctld does not: scontrol reconfigure"


def test_a_site_without_preemption(monkeypatch: Patch, healthy: Path) -> None:
    """It may have jobs checkpointed before their limit, and at intervals: nothing fails."""
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, "PreemptType": "preempt/none"})
    assert "need no preemption" in one_wrong("PreemptType", "warning")["found"]
    assert results()["preemption"]["status"] == "skipped"


@pytest.mark.parametrize(
    ("limit", "status", "said"),
    [
        ("5", "warning", "a job that is preempted more than 3 times may be started once more when it has ended"),
        ("2", "warning", "more than 0 times"),
        ("1", "failed", "a job that was preempted is held when it has ended"),
    ],
)
def test_how_often_a_job_is_requeued(monkeypatch: Patch, healthy: Path, limit: str, status: str, said: str) -> None:
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, "MaxBatchRequeue": limit})
    result = one_wrong("requeues", status)
    assert result["found"].startswith(f"MaxBatchRequeue={limit}: ") and said in result["found"]
    assert result["hint"] == "slurm.conf: MaxBatchRequeue=1000, then scontrol reconfigure"
    (healthy / "slurm.conf").write_text("maxbatchrequeue=500 # of a job\n")
    assert one_wrong("requeues", status)["hint"].startswith("slurm.conf says so already")


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ({}, 120),
        ({"AuthInfo": "socket=/run/munge,cred_expire=60"}, 60),
        ({"AuthInfo": "cred_expire=60", "SchedulerParameters": "bf_interval=1,requeue_delay=2"}, 2),
    ],
)
def test_for_how_long_a_requeued_job_is_held_back(monkeypatch: Patch, healthy: Path, more: Dict, seconds: int) -> None:
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, **more})
    assert f"waits {seconds} s before it starts again" in results()["requeues"]["found"]


def test_signals_for_all_that_is_in_a_step(monkeypatch: Patch, healthy: Path) -> None:
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, "SignalChildrenProcesses": "yes"})
    assert one_wrong("cgroup.conf")["hint"] == "cgroup.conf: SignalChildrenProcesses=no, then scontrol reconfigure"


def test_kill_wait(monkeypatch: Patch, healthy: Path) -> None:
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, "KillWait": "1 sec"})
    result = one_wrong("KillWait", "warning")
    assert result["found"].startswith("KillWait=1: ") and "slurm.conf: KillWait=30" in result["hint"]


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
    monkeypatch.setattr(controller, "grace_times", lambda: {"normal": 60, "scavenger": 2})
    assert one_wrong("preemption", "warning")["hint"] == "sacctmgr modify qos scavenger set GraceTime=60"

    def silent() -> dict[str, int]:
        raise ShimError("sacctmgr show qos: Connection refused")

    monkeypatch.setattr(controller, "grace_times", silent)
    result = one_wrong("preemption", "warning")
    assert "no job is warned of one that is too short: sacctmgr show qos: Conn" in result["found"]
    assert "slurmdbd" in result["hint"]


@pytest.mark.parametrize(
    ("low", "status", "said"),
    [
        ({"GraceTime": "0"}, "failed", "GraceTime=0 of low"),
        ({"GraceTime": "2"}, "warning", "GraceTime=2 of partition low: hardly any"),
        ({"PreemptMode": "CANCEL"}, "warning", "low CANCEL, high OFF"),
        ({"PriorityTier": "10"}, "warning", "no partition below another one"),
    ],
)
def test_preemption(monkeypatch: Patch, healthy: Path, low: dict[str, str], status: str, said: str) -> None:
    monkeypatch.setattr(controller, "partitions", lambda: [{**PARTITIONS[0], **low}, PARTITIONS[1]])
    result = one_wrong("preemption", status)
    assert said in result["found"] and result["hint"].startswith("slurm.conf: PartitionName=")


def test_a_grace_time_that_slurmctld_has_not_read(monkeypatch: Patch, healthy: Path) -> None:
    monkeypatch.setattr(controller, "partitions", lambda: [{**PARTITIONS[0], "GraceTime": "2"}, PARTITIONS[1]])
    lines = (
        "PartitionName=DEFAULT GraceTime=2\nPartitionName=low Nodes=n1 GraceTime=60\nPartitionName=high GraceTime=0\n"
    )
    (healthy / "slurm.conf").write_text(lines)
    assert one_wrong("preemption", "warning")["hint"].startswith("slurm.conf says so already")


@pytest.mark.parametrize(
    ("text", "status", "said", "hint"),
    [
        (
            "feature = 'old'",
            "failed",
            'feature = "old": no node has it',
            "name one that nodes have (big, new), or none",
        ),
        ("feature = 'new'", "", "feature new", ""),
        (
            "[partitions.lwo]\ncheckpoint = 'none'",
            "warning",
            "[partitions.lwo] has no eff",
            "its partitions: high, low",
        ),
        ("[partitions.low]\ncheckpoint = 'none'", "", "low", ""),
        ("keep = 'two'", "", "config.toml can't be used", ""),
    ],
)
def test_names(monkeypatch: Patch, healthy: Path, text: str, status: str, said: str, hint: str) -> None:
    monkeypatch.setattr(controller, "features", lambda: {"big", "new"})
    (healthy / "config.toml").write_text(text)
    result = one_wrong("names in config.toml", status) if status else results()["names in config.toml"]
    assert said in result["found"] and result["hint"] == hint


def test_what_sinfo_says(monkeypatch: Patch) -> None:
    monkeypatch.setattr(commands, "run", lambda *argv: "big,new\n(null)\nnew\n")
    assert commands.Commands().features() == {"big", "new"}


def test_plugstack_includes(healthy: Path) -> None:
    own = (healthy / "plugstack.conf").read_text()
    (healthy / "plugstack.conf.d").mkdir()
    (healthy / "plugstack.conf.d/ours.conf").write_text(own)
    (healthy / "plugstack.conf").write_text("optional other.so\ninclude plugstack.conf.d/*.conf\n")
    assert results()["plugstack.conf"]["status"] == "ok"
    with (healthy / "plugstack.conf").open("a") as stream:
        stream.write(f"\nrequired {healthy / PLUGIN}\n")
    result = one_wrong("plugstack.conf")
    places = f"line 2 of {healthy}/plugstack.conf.d/ours.conf, line 4 of {healthy}/plugstack.conf"
    assert result["found"] == f"{PLUGIN} is named 2 times, and loaded as often: {places}"
    assert result["hint"] == "leave one of these lines, then scontrol reconfigure"


def test_a_file_that_includes_itself(healthy: Path) -> None:
    with (healthy / "plugstack.conf").open("a") as stream:
        stream.write("include plugstack.conf\n")
    assert "times, and loaded as often" in one_wrong("plugstack.conf")["found"]


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("required other.so", "failed", "does not name"),
        (f"# required {PLUGIN}", "failed", "does not name"),
        (f"required /nonexistent/{PLUGIN}", "failed", "which is not there"),
        (f"required {PLUGIN}", "failed", f"/usr/lib/slurm/{PLUGIN}, which is not there"),
        (f"optional {{directory}}/{PLUGIN}", "warning", "left out in silence"),
        (f"required {{directory}}/{PLUGIN} metrics=/nonexistent", "warning", "no such directory"),
        (f"required {{directory}}/{PLUGIN} metrics={{directory}}/open", "warning", "so nothing is counted"),
        (f"required {{directory}}/{PLUGIN} metric={{directory}}", "warning", "means nothing to the plugin"),
        (f"required {{directory}}/{PLUGIN} metrics=here", "warning", "means nothing to the plugin"),
        ("required 'x", "failed", "line 1: No closing quotation"),
    ],
)
def test_plugstack(healthy: Path, line: str, status: str, said: str) -> None:
    (healthy / "open").mkdir()
    (healthy / "open").chmod(0o777)
    (healthy / "plugstack.conf").write_text(line.format(directory=healthy) + "\n")
    result = one_wrong("plugstack.conf", status)
    assert said in result["found"] and result["hint"]


def test_metrics(healthy: Path) -> None:
    (healthy / "plugstack.conf").write_text(f"required {healthy / PLUGIN} metrics={healthy}\n")
    result = results()["plugstack.conf"]
    assert result["status"] == "ok" and result["found"].endswith(f" metrics={healthy}")


@pytest.mark.parametrize(
    ("argument", "limit", "said"),
    [
        ("", "65534", "30 s are all that there is"),
        ("local-seconds=0", "65534", "30 s are all that there is"),
        ("local-seconds=600", "629", "EpilogTimeout=629: Slurm ends the epilog before 600 s"),
        ("local-seconds=600", "630", ""),
        ("local-seconds=600", "65534", ""),
        ("local-seconds=86401", "65534", "means nothing to the plugin"),
        ("local-seconds=soon", "65534", "means nothing to the plugin"),
    ],
)
def test_the_time_to_copy(monkeypatch: Patch, healthy: Path, argument: str, limit: str, said: str) -> None:
    (healthy / "config.toml").write_text('local-dir = "/local"\n')
    (healthy / "plugstack.conf").write_text(f"required {healthy / PLUGIN} {argument}\n")
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, "EpilogTimeout": f"{limit} sec"})
    found = results()["plugstack.conf"]
    assert found["status"] == ("warning" if said else "ok")
    assert said in found["found"]


def test_the_time_to_copy_by_settings_that_are_wrong(healthy: Path) -> None:
    (healthy / "config.toml").write_text("local-dir = 1\n")
    assert results()["plugstack.conf"]["status"] == "ok"


def test_where_the_plugin_is(monkeypatch: Patch, healthy: Path, tmp_path: Path) -> None:
    own = tmp_path / "lib"
    own.mkdir()
    monkeypatch.setattr(plugstack, "LIBDIR", str(own))
    monkeypatch.setattr(installation, "is_one", lambda: True)
    (healthy / "plugstack.conf").write_text(f"required /opt/{PLUGIN}\n")
    assert one_wrong("plugstack.conf")["hint"] == "make install on this node, or install its packages again"
    (own / PLUGIN).touch()
    assert one_wrong("plugstack.conf")["hint"] == f"correct the path: it is {own}/{PLUGIN}"
    (healthy / "plugstack.conf").write_text(f"required {healthy}/{PLUGIN}\n")
    assert f"it is not the one of {own}" in one_wrong("plugstack.conf", "warning")["found"]
    (healthy / "plugstack.conf").write_text(f"required {own}/{PLUGIN}\n")
    assert results()["plugstack.conf"]["status"] == "ok"
    (own / PLUGIN).unlink()
    assert results()["plugstack.conf"]["status"] == "skipped"  # `installation` fails


MAPS = "7f00-7f10 r--p 00000000 00:1f 12  /usr/lib/slurm/auth_munge.so\n"
OURS = f"7f20-7f30 r-xp 00001000 00:1f 13  /usr/lib/oci-criu-shim/{PLUGIN}"


@pytest.mark.parametrize(
    ("maps", "status", "said"),
    [
        (f"{MAPS}{OURS}\n", "ok", "process 77 has loaded the plugin"),
        (f"{MAPS}{OURS} (deleted)\n", "ok", "process 77 has loaded the plugin"),
        (MAPS, "failed", "has not loaded the plugin: no container starts here"),
    ],
)
def test_what_slurmd_has_loaded(monkeypatch: Patch, healthy: Path, maps: str, status: str, said: str) -> None:
    monkeypatch.setattr(plugstack, "slurmd", lambda: 77)
    monkeypatch.setattr(plugstack, "open", lambda path, **_: StringIO(maps), raising=False)
    result = results()["slurmd"] if status == "ok" else one_wrong("slurmd", status)
    assert result["status"] == status and said in result["found"]
    assert result["hint"] == ("" if status == "ok" else "scontrol reconfigure")
    (healthy / "plugstack.conf").write_text("")
    assert results()["slurmd"]["status"] == "skipped"  # `plugstack.conf` fails


def closed(path: str, **_: str) -> NoReturn:
    raise PermissionError(13, "Permission denied", path)


@pytest.mark.parametrize(
    ("later", "again", "status"),
    [(60, None, "warning"), (5, None, "ok"), (-60, None, "ok"), (60, 61, "ok"), (60, 40, "warning")],
)
def test_when_slurmd_was_started(monkeypatch: Patch, healthy: Path, later: int, again: int | None, status: str) -> None:
    """All that a user can tell; a node that is sent its configuration writes it just after the start.

    `slurmd -D` begins `again` in the same process.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(plugstack, "slurmd", lambda: 77)
    monkeypatch.setattr(plugstack, "open", closed, raising=False)
    monkeypatch.setattr(process, "start_time", lambda pid: 1000 * ticks)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 4000.0)
    monkeypatch.setitem(HEALTHY, "SlurmdPidFile", str(healthy / "slurmd.pid"))
    started = time.time() - 3000
    if again is not None:
        (healthy / "slurmd.pid").touch()
        os.utime(healthy / "slurmd.pid", (started + again,) * 2)
    os.utime(healthy / "plugstack.conf", (started + later,) * 2)
    result = one_wrong("slurmd", status) if status != "ok" else results()["slurmd"]
    assert result["status"] == status
    assert result["hint"] == ("" if status == "ok" else "root: scontrol reconfigure")


STATUS = "Name:\t{}\nUid:\t{}\t0\t0\t0\nPPid:\t{}\nNSpid:\t{}\n"


def test_which_process_is_slurmd(monkeypatch: Patch) -> None:
    """Root's, not its children, nor that of a container."""
    known = {
        "1": STATUS.format("systemd", 0, 0, "1"),
        "20": STATUS.format("slurmd", 4242, 1, "20"),
        "30": STATUS.format("slurmd", 0, 1, "30\t6"),
        "41": STATUS.format("slurmd", 0, 40, "41"),
        "40": STATUS.format("slurmd", 0, 1, "40"),
    }

    def status(pid: int) -> dict[str, list[str]]:
        if str(pid) not in known:
            raise ProcessLookupError(pid)
        return {name: rest.split() for name, _, rest in (line.partition(":") for line in known[str(pid)].splitlines())}

    monkeypatch.setattr(process, "status", status)
    monkeypatch.setattr(os, "listdir", lambda path: [*known, "99", "self"])
    assert plugstack.slurmd() == 40
    del known["40"], known["41"]
    assert plugstack.slurmd() is None


def test_files_that_are_missing(healthy: Path) -> None:
    plugstack_conf, oci_conf = healthy / "plugstack.conf", healthy / "oci.conf"
    for path, name in ((plugstack_conf, "plugstack.conf"), (oci_conf, "oci.conf")):
        path.unlink()
        assert "No such file" in results()[name]["found"]
    line = f"cat /usr/share/oci-criu-shim/plugstack.conf >>{plugstack_conf}"
    assert results()["plugstack.conf"]["hint"] == f"{line}; scontrol reconfigure"
    assert results()["oci.conf"]["hint"] == f"cp /etc/oci-criu-shim/oci.conf.d/oci-criu-shim.conf {oci_conf}"


@pytest.mark.parametrize("name", ["plugstack.conf", "oci.conf"])
def test_a_file_that_users_cannot_read(monkeypatch: Patch, healthy: Path, name: str) -> None:
    monkeypatch.setattr(lines, "open", closed, raising=False)
    result = results()[name]
    assert (result["status"], result["hint"]) == ("failed", f"chmod 644 {healthy / name}")


@pytest.mark.parametrize(("name", "status"), [("plugstack.conf", "failed"), ("oci.conf", "warning")])
def test_what_root_says_of_such_a_file(monkeypatch: Patch, healthy: Path, name: str, status: str) -> None:
    def require(path: str, why: str) -> None:
        if path == str(healthy / name):
            raise ShimError(f"{path} is closed to users: {why}", f"chmod 644 {path}")

    monkeypatch.setattr(roots, "require_readable", require)
    assert one_wrong(name, status)["hint"] == f"chmod 644 {healthy / name}"


@pytest.mark.parametrize("name", [PLUGIN, oci.PROGRAM, "plugstack.conf", "oci.conf"])
def test_files_that_others_may_write(monkeypatch: Patch, healthy: Path, name: str) -> None:
    def require(path: str, why: str) -> None:
        if path == str(healthy / name):
            raise ShimError(f"{path} can be written by others: {why}", "chmod")

    monkeypatch.setattr(roots, "require", require)
    check = "plugstack.conf" if name in (PLUGIN, "plugstack.conf") else "oci.conf"
    assert f"{healthy / name} can be written by others: " in one_wrong(check)["found"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('RunTimeRun="exec crun run --bundle %b %n"\n' + END, "RunTimeRun is not by oci-criu-shim: exec crun run"),
        (END, "sets neither"),
        ('RunTimeRun="exec {program} --root=/tmp run %n"\n' + END, "does not name /run/oci-criu-shim/%j"),
        (OCI.replace("{program} ", "/nonexistent/oci-criu-shim ", 1), "is not there"),
        (OCI + 'RunTimeDelete="crun delete"', "RunTimeDelete is not by"),
        (RUN, "lacks RunTimeQuery, RunTimeKill, RunTimeDelete"),
        (OCI.replace("RunTimeRun", "RunTimeCreate"), "lacks RunTimeStart"),
        (OCI.replace(" run --", " --backend=nosuch run --"), "has --backend=nosuch: no nosuch in /usr"),
        (OCI.replace(" run --", " --backend /nosuch run --"), "has --backend=/nosuch: no /nosuch"),
    ],
)
def test_oci(healthy: Path, text: str, said: str) -> None:
    (healthy / "oci.conf").write_text(text.format(program=healthy / oci.PROGRAM))
    result = one_wrong("oci.conf")
    assert said in result["found"] and result["hint"]


def test_backends_that_are_there(monkeypatch: Patch, healthy: Path) -> None:
    monkeypatch.setattr(process, "find", lambda name: f"/x/{name}")
    monkeypatch.setattr(process, "output", lambda argv, env: (0, "version 1\n", ""))
    text = OCI.format(program=healthy / oci.PROGRAM).replace(" run --", " --backend=runc run --")
    (healthy / "oci.conf").write_text(text)
    assert results()["oci.conf"]["found"].endswith("RunTimeDelete; /x/runc: version 1")


def test_oci_without_exec(healthy: Path) -> None:
    """slurmstepd's signals would reach a shell."""
    (healthy / "oci.conf").write_text(OCI.format(program=healthy / oci.PROGRAM).replace("exec ", ""))
    assert "begin it with: exec /" in one_wrong("oci.conf", "warning")["hint"]


def test_spool_directories(healthy: Path) -> None:
    """What Slurm 24.11 has by itself, and 25.05 no longer."""
    conf = healthy / "oci.conf"
    conf.write_text(conf.read_text().replace("MountSpoolDir", "#MountSpoolDir"))
    result = one_wrong("oci.conf", "warning")
    assert f"{conf} has no MountSpoolDir" in result["found"]
    assert result["hint"] == f"add the line: {SPOOL}".strip()
    (healthy / "slurm-oci").mkdir()
    (healthy / "slurm-oci/run").touch(mode=0o755)
    line = 'RunTimeRun="exec {program} %b {spool} %u"\n'
    conf.write_text(line.format(program=healthy / "slurm-oci/run", spool="%m"))
    assert one_wrong("oci.conf", "warning")["hint"] == "put there: $(dirname %e)"
    conf.write_text(line.format(program=healthy / "slurm-oci/run", spool="$(dirname %e)"))
    assert results()["oci.conf"]["status"] == "ok"


def test_oci_by_the_shell(healthy: Path) -> None:
    command = f"d=/run/oci-criu-shim/%j; [ -e $d/%n ] && exec {healthy}/oci-criu-shim state %n"
    script = f'RunTimeQuery="{oci.GUARD} {command}"\n'  # the last one counts
    with (healthy / "oci.conf").open("a") as stream:
        stream.write(script)
    assert results()["oci.conf"]["found"].endswith("RunTimeRun, RunTimeQuery, RunTimeKill, RunTimeDelete")


def unguarded(text: str) -> str:
    for guard in oci.guards("RunTimeQuery"):
        text = text.replace(f"{guard} ", "")
    return text


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_root_has_no_business_in_a_jobs_directory(monkeypatch: Patch, healthy: Path, file: Path) -> None:
    """As it is in our own files. A site's copy of an earlier one is told which lines to put there."""
    monkeypatch.setattr(node, "program_version", lambda name: f"/x/{name}: version 1")
    program = str(healthy / oci.PROGRAM)
    text = file.read_text().replace("/usr/bin/oci-criu-shim", program)
    chooser = healthy / "slurm-oci/run"
    chooser.parent.mkdir()
    chooser.touch(mode=0o755)
    text = text.replace("/etc/oci-criu-shim/slurm-oci/run", str(chooser))
    (healthy / "oci.conf").write_text(text)
    assert results()["oci.conf"]["status"] == "ok"
    ours = [line for line in text.splitlines() if line.startswith(oci.BY_ROOT) and program in line]
    assert len(ours) == (0 if "multi" in file.stem else 3)
    (healthy / "oci.conf").write_text(unguarded(text))
    if not ours:
        assert results()["oci.conf"]["status"] == "ok"
        return
    result = one_wrong("oci.conf")
    assert "slurmstepd runs RunTimeQuery, RunTimeKill, RunTimeDelete as root, too" in result["found"]
    assert result["hint"].splitlines() == ["replace on all nodes:", *ours]
    (healthy / "oci.conf").write_text(text.replace(f"{oci.GUARD} ", "", 1))
    assert one_wrong("oci.conf")["hint"].splitlines() == ["replace on all nodes:", ours[1]]
    quiet, plain = oci.guards("RunTimeQuery")
    (healthy / "oci.conf").write_text(text.replace(quiet, plain))  # of version 0.2
    assert results()["oci.conf"]["status"] == "ok"


def test_a_test_that_is_another_one(healthy: Path) -> None:
    """The directory itself says what its user wants it to."""
    words = f"[ -O /run/oci-criu-shim/%j ] || exit 1; exec {healthy}/oci-criu-shim --root=/run/oci-criu-shim/%j"
    with (healthy / "oci.conf").open("a") as stream:
        stream.write(f'RunTimeKill="{words} kill %n"\nRunTimeDelete=\'{words} delete "%n"\'\n')
    kill, delete = one_wrong("oci.conf")["hint"].splitlines()[1:]
    assert kill == f'RunTimeKill="{oci.GUARD} {words} kill %n"'
    assert delete == f"RunTimeDelete='{oci.GUARD} {words} delete \"%n\"'"


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
    command = oci.GUARD.replace("%U", user).replace("/run/oci-criu-shim", str(tmp_path / owner))
    assert subprocess.run([shell, "-c", f"{command} exit 3"], check=False).returncode == status
    command = oci.guards("RunTimeQuery")[0].replace("%U", user).replace("/run/oci-criu-shim", str(tmp_path / owner))
    done = subprocess.run([shell, "-c", f"{command} exit 3"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == ((0, b"{}\n") if status == 1 else (3, b""))


def test_oci_by_create_and_start(healthy: Path) -> None:
    line = "runtime{} = 'exec {} --root /run/oci-criu-shim/%j \\\n {} %n'\n"
    texts = [line.format(verb, healthy / oci.PROGRAM, verb) for verb in ("create", "start")]
    (healthy / "oci.conf").write_text("".join(texts) + END.format(program=healthy / oci.PROGRAM) + SPOOL)
    assert "RunTimeCreate, RunTimeStart, RunTimeQuery" in results()["oci.conf"]["found"]


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
    result = results()["submission"]
    assert (result["status"], result["found"]) == (
        "skipped",
        "off: sbatch gives no warning when GraceTime is too short",
    )
    assert "CliFilterPlugins=lua" in result["hint"]
    monkeypatch.setattr(controller, "configuration", lambda: {**HEALTHY, "CliFilterPlugins": "user_defaults,lua"})
    assert "nothing can be submitted" in one_wrong("submission")["found"]
    path = healthy / "cli_filter.lua"
    path.write_text("function slurm_cli_pre_submit(options, offset) end")
    assert results()["submission"]["found"] == f"off: {path} does not call oci_criu_shim_foresee(options)"
    path.write_text((Path(__file__).parents[2] / "etc/cli_filter.lua").read_text())
    assert results()["submission"]["found"] == str(path)
