"""Text of the files in /etc/slurm: settings in, text out."""

from __future__ import annotations

from pathlib import Path

from .settings import CONTROLLER, Settings

SHIM_OCI_CONF = Path("etc/oci-criu-shim/oci.conf.d/oci-criu-shim.conf")
"""The project's own oci.conf, below its layer."""
SHIM_PLUGSTACK = Path("usr/share/oci-criu-shim/plugstack.conf")
"""The project's own line of plugstack.conf, below its layer."""

_CRUN = "exec crun --rootless=true --root=/run/user/%U/"
_ID = "%n.%u.%j.%s.%t"

PATIENT = ("SlurmdTimeout=300", "BatchStartTimeout=120", "UnkillableStepTimeout=180")
"""On a busy machine a node, a job or a process may be slow without being lost."""

PLAIN_CRUN = f"""\
EnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
RunTimeEnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
RunTimeQuery="{_CRUN} state {_ID}"
RunTimeKill="{_CRUN} kill -a {_ID}"
RunTimeDelete="{_CRUN} delete --force {_ID}"
RunTimeRun="{_CRUN} run --bundle %b {_ID}"
"""


def slurm_conf(settings: Settings) -> str:
    """slurm.conf: two partitions over the same nodes, of which `high` preempts `low` by requeueing."""
    nodes = f"n[1-{settings.nodes}]"
    grace = f"GraceTime={settings.grace_time}"
    lines = (
        *("ClusterName=oci-criu-shim", f"SlurmctldHost={CONTROLLER}"),
        *("AuthType=auth/munge", "CredType=cred/munge", f"AuthInfo=cred_expire={settings.requeue_delay}"),
        *("SlurmUser=slurm", "StateSaveLocation=/var/lib/slurm/slurmctld", "SlurmdSpoolDir=/var/spool/slurmd"),
        *("SlurmctldPidFile=/run/slurmctld.pid", "SlurmdPidFile=/run/slurmd.pid"),
        *("SlurmctldLogFile=/var/log/slurm/slurmctld.log", "SlurmdLogFile=/var/log/slurm/slurmd.log"),
        *("SlurmctldDebug=info", "SlurmdDebug=info", "AccountingStorageType=accounting_storage/none"),
        *("MpiDefault=none", "SwitchType=switch/none", "JobCompType=jobcomp/none", "MailProg=/bin/true"),
        *("ProctrackType=proctrack/cgroup", "TaskPlugin=task/cgroup", "PrologFlags=Contain"),
        *("SchedulerType=sched/backfill", "SelectType=select/cons_tres", "SelectTypeParameters=CR_CPU"),
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_resolution=1",
        *("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE", "JobRequeue=1", "JobFileAppend=1"),
        *(f"KillWait={settings.kill_wait}", "InactiveLimit=0", "Waittime=0", "ReturnToService=2"),
        *PATIENT,
        "SlurmdParameters=config_overrides",
        f"NodeName={nodes} CPUs={settings.cpus} RealMemory={settings.memory} State=UNKNOWN",
        f"PartitionName=low Nodes={nodes} Default=YES PriorityTier=1 PreemptMode=REQUEUE {grace}",
        f"PartitionName=high Nodes={nodes} PriorityTier=10 PreemptMode=OFF",
        *settings.slurm_conf,
    )
    return "\n".join(lines) + "\n"


def cgroup_conf(settings: Settings, *, v2: bool) -> str:
    """cgroup.conf; nothing is constrained by default: the nodes share one machine's processors and memory."""
    # Nobody answers for systemd in a node, so Slurm makes its scope by itself.
    version = ("CgroupPlugin=cgroup/v2", "IgnoreSystemd=yes") if v2 else ("CgroupPlugin=cgroup/v1",)
    return "\n".join((*version, *settings.cgroup_conf)) + "\n"


def oci_conf(settings: Settings, layer: Path) -> str:
    if settings.oci_conf is not None:
        return settings.oci_conf
    return _installed(layer / SHIM_OCI_CONF, PLAIN_CRUN)


def plugstack_conf(settings: Settings, layer: Path) -> str:
    if settings.plugstack is not None:
        return settings.plugstack
    return _installed(layer / SHIM_PLUGSTACK, "")


def hosts(addresses: dict[str, str]) -> str:
    """/etc/hosts of every node."""
    return "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())


def _installed(path: Path, otherwise: str) -> str:
    return path.read_text() if path.is_file() else otherwise


def write(settings: Settings, layer: Path, target: Path, *, v2: bool) -> None:
    """Write /etc/slurm into the directory target."""
    target.mkdir(parents=True, exist_ok=True)
    texts = {
        "slurm.conf": slurm_conf(settings),
        "cgroup.conf": cgroup_conf(settings, v2=v2),
        "oci.conf": oci_conf(settings, layer),
        "plugstack.conf": plugstack_conf(settings, layer),
        **({"job_container.conf": settings.job_container} if settings.job_container else {}),
    }
    for name, text in texts.items():
        (target / name).write_text(text)
