"""Debian packages of this checkout: built, installed on a cluster, upgraded and purged, as docs/install.md says.

The tests on the cluster are the steps of one way: each goes on where the one before it has ended.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from oci_criu_shim import __version__
from oci_criu_shim.host import linux
from tests import NAME
from tests.harness import jobs, leftovers
from tests.harness.cluster import Cluster, layer, wait_for
from tests.harness.cluster.bundle import quiet
from tests.harness.cluster.cache import kept
from tests.harness.cluster.packages import PACKAGING
from tests.harness.cluster.rootfs import ensure
from tests.harness.cluster.settings import CONTROLLER, REPOSITORY
from tests.harness.jobs import SETTINGS, Work, quoting
from tests.harness.pages import DOCS, README, blocks

INSTALL = DOCS / "install.md"
BUILD, PUT, PURGE = blocks(INSTALL, "Packages")
PRODUCTS = "/var/tmp/packages"
SOURCE = f"{PRODUCTS}/source"
COPY = f"mkdir -p {SOURCE}; tar -C /src --exclude=.git --exclude=.venv --exclude=build -c . | tar -C {SOURCE} -x"
LIBRARY = "/usr/lib/oci-criu-shim"
# The same packages as those of an earlier version, whose config.toml had one more comment.
OLDER = f"""
mkdir older
for package in oci-criu-shim_*.deb oci-criu-shim-slurm_*.deb; do
    dpkg-deb -R $package tree
    sed -i 's/{__version__}/&~older/' tree/DEBIAN/control
    ! test -e tree{SETTINGS} || echo '# No longer there.' >>tree{SETTINGS}
    dpkg-deb -b tree older
    rm -r tree
done
"""
# Build a package, list what is in it, install it, remove it as long as Slurm names it, and then.
RPM = f"""
{{build}} --nodeps --define '_topdir /tmp'
rpm -qp --requires --list /tmp/RPMS/*/*.rpm
rpm -i --nodeps /tmp/RPMS/*/*.rpm
oci-criu-shim --version
echo keep = 5 >>{SETTINGS}
mkdir -p /etc/slurm
grep ^required /usr/share/oci-criu-shim/plugstack.conf >/etc/slurm/plugstack.conf
if rpm -e oci-criu-shim; then exit 1; fi
oci-criu-shim --version
rm /etc/slurm/plugstack.conf
rpm -e oci-criu-shim
echo left:
find /etc /usr /var/lib -path '*oci*criu*shim*'
"""
HOSTS = "/shared/packages"
CHANGE = "keep = 5"
YES = """echo 'APT::Get::Assume-Yes "true";' >/etc/apt/apt.conf.d/yes"""
# Paths on a host that are other hosts', too, or where other programs write for themselves.
SHARED = ("/etc/slurm", "/home", "/shared", "/src", "/dev", "/proc", "/sys")
OTHERS = ("/run/crun", "/run/user", "/tmp", "/var/cache", "/var/log", "/var/spool/slurmd")
STATES = tuple(f"/var/lib/{name}" for name in ("apt", "dpkg", "slurm"))
PRUNED = " -o ".join(f"-path {path}" for path in (*SHARED, *OTHERS, *STATES))
FILES = rf"find / \( {PRUNED} \) -prune -o -print"


@dataclass(frozen=True)
class Workshop:
    """Where packages are made."""

    root: Path
    directory: Path

    @property
    def products(self) -> Path:
        """The host's path of what is made."""
        return self.directory / f"upper{PRODUCTS}"

    def run(self, script: str, directory: str = SOURCE) -> str:
        """Run a script; return its output and errors. Raise ClusterError if a command fails."""
        argv = ["/bin/sh", "-ec", f"exec 2>&1\ncd {directory}\n{script}"]
        return layer.inside(self.root, self.directory, REPOSITORY, argv).stdout


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """One with the source in it."""
    directory = tmp_path_factory.mktemp("packages")
    with kept(ensure(PACKAGING, quiet)) as root:
        made = Workshop(root, directory)
        made.run(COPY, "/")
        yield made
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def built(workshop: Workshop) -> Workshop:
    """The same with the packages of this version, and with those of an earlier one in `older`."""
    [_, build] = BUILD.splitlines()  # the root has what the first line installs
    workshop.run(build)
    workshop.run(OLDER, PRODUCTS)
    return workshop


def test_lintian(built: Workshop) -> None:
    built.run("lintian --allow-root --fail-on error *.changes", PRODUCTS)


def test_for_rpm(workshop: Workshop) -> None:
    """Nothing runs: rpm knows nothing of what else is in a root of Debian's."""
    [build] = blocks(INSTALL, "Other ways")
    said = workshop.run(RPM.format(build=build.strip()))
    begin, end = workshop.run("tools/slurm_release").split()
    wanted = {f"slurm >= {begin}", f"slurm < {end}", SETTINGS, f"{LIBRARY}/oci_criu_shim_spank.so"}
    assert wanted < set(said.splitlines())
    assert f"plugstack.conf:1:required {LIBRARY}/oci_criu_shim_spank.so" in said
    assert said.rpartition("left:\n")[2].splitlines() == ["/etc/oci-criu-shim", f"{SETTINGS}.rpmsave"]


def test_for_another_processor(workshop: Workshop) -> None:
    """The C compiles without a warning, and the system calls have the numbers that Python takes them to have."""
    workshop.run("make -C spank CC=aarch64-linux-gnu-gcc BUILD=/tmp/build")
    names = "SYS_keyctl SYS_seccomp SYS_ioprio_get SYS_ioprio_set SYS_kcmp"
    said = workshop.run(f"printf '#include <sys/syscall.h>\n{names}\n' | aarch64-linux-gnu-gcc -E -P - | tail -n 1")
    single, ioprio = (linux.KEYCTL, linux.SECCOMP, linux.KCMP), linux.IOPRIO["aarch64"]
    keyctl, seccomp, kcmp = (table["aarch64"] for table in single)
    assert [int(number) for number in said.split()] == [keyctl, seccomp, *ioprio, kcmp]


def everywhere(cluster: Cluster, script: str, directory: str = "/", check: bool = True) -> list[str]:
    """Run a script as root on all hosts; return what each says."""

    def on(node: str) -> str:
        argv = ["sh", "-ec", f"exec 2>&1\n{script}"]
        return cluster.exec(node, argv, "root", check=check, cwd=directory).stdout

    with ThreadPoolExecutor() as pool:
        return list(pool.map(on, cluster.all_nodes()))


def files(cluster: Cluster) -> list[set[str]]:
    """Return the paths of each host's files."""
    return [set(said.splitlines()) for said in everywhere(cluster, FILES)]


@pytest.fixture(scope="module")
def before() -> list[set[str]]:
    """What was there before the packages; packaged_cluster fills it."""
    return []


@pytest.fixture(scope="module")
def packaged_cluster(built: Workshop, before: list[set[str]]) -> Iterator[Cluster]:
    """Two nodes, and all hosts with the earlier version's packages and a setting of their own."""
    with Cluster(f"{NAME}-packages", install=False, oci_conf="", kill_wait=3) as running:
        shutil.copytree(built.products, running.shared / "packages", ignore=shutil.ignore_patterns("source"))
        everywhere(running, YES)
        before += files(running)
        everywhere(running, PUT, f"{HOSTS}/older")
        everywhere(running, f"echo {CHANGE} >>{SETTINGS}")
        [site] = [text for text in blocks(README, "Install") if "plugstack.conf" in text]
        running.exec(CONTROLLER, ["sh", "-ec", site], "root")
        running.reconfigure()
        yield running


def test_installed(packaged_cluster: Cluster) -> None:
    """As by `make install`."""
    for user in ("root", "alice"):
        for node in packaged_cluster.all_nodes():
            packaged_cluster.exec(node, ["oci-criu-shim", "doctor"], user)  # status 0: nothing has failed
    for source, path in (("launcher.py", "/usr/bin/oci-criu-shim"), ("task.py", f"{LIBRARY}/task")):
        packaged_cluster.exec("n1", ["cmp", f"/src/src/{source}", path])
    compiled(packaged_cluster)


def compiled(cluster: Cluster) -> None:
    """All modules have their byte code, for this Python only."""
    sources = f"find {LIBRARY}/oci_criu_shim -name '*.py' | wc -l"
    code = f"find {LIBRARY}/oci_criu_shim -name '*.pyc' | wc -l"
    [counts] = set(everywhere(cluster, f"{sources}; {code}"))
    assert len(set(counts.split())) == 1, counts


def test_only_for_its_release_of_slurm(packaged_cluster: Cluster) -> None:
    said = packaged_cluster.exec("n1", ["dpkg-query", "-Wf", "${Depends}", "oci-criu-shim-slurm"]).stdout
    slurm = packaged_cluster.exec("n1", ["dpkg-query", "-Wf", "${Version}", "slurm-wlm-basic-plugins"]).stdout
    begin, end = re.findall(r"slurm-wlm-basic-plugins \(\S+ ([\d.~]+)\)", said)
    year, month = map(int, slurm.split(".")[:2])
    assert (begin, end) == (f"{year}.{month:02}", f"{year}.{month + 1:02}~")


def test_upgrade(packaged_cluster: Cluster) -> None:
    """The earlier version has written the checkpoint from which this one goes on; settings stay."""
    bundle = jobs.prepare(packaged_cluster)
    options = "--parsable -p high -w n2 --exclusive --output=/dev/null".split()
    other = packaged_cluster.exec(CONTROLLER, ["sbatch", *options, "--wrap", "sleep 600"]).stdout.strip()
    job = jobs.batch(packaged_cluster, bundle, "packages", Work(), *jobs.OPTIONS)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(4)
        high = job.displace(600)
        wait_for(lambda: runs(packaged_cluster, high), 60, "the job that preempts")
        everywhere(packaged_cluster, f"DPKG_FORCE=confold {PUT}", HOSTS)
        packaged_cluster.reconfigure()
        packaged_cluster.exec(CONTROLLER, ["scancel", other])
        job.wait_restart()
        job.wait_end()
        assert not job.failures()
    packaged_cluster.exec(CONTROLLER, ["scancel", high])
    [said] = set(everywhere(packaged_cluster, f"tail -n 1 {SETTINGS}; dpkg-query -Wf '${{Version}} ' 'oci-criu-shim*'"))
    assert said == f"{CHANGE}\n{__version__} {__version__} "
    compiled(packaged_cluster)


def runs(cluster: Cluster, number: str) -> bool:
    return "RUNNING" in cluster.exec(CONTROLLER, ["squeue", "-hj", number, "-o", "%T"], check=False).stdout


def test_purge(packaged_cluster: Cluster, before: list[set[str]]) -> None:
    """Not as long as Slurm's files name any of it; afterwards nothing is left."""
    for said in everywhere(packaged_cluster, PURGE, check=False):
        assert re.search(
            r"error: nothing is removed.*plugstack.conf:\d+:required /usr/lib/oci-criu-shim", said, re.DOTALL
        )
    packaged_cluster.exec("n1", ["srun", "-w", "n1", "--checkpoint", "hostname"])
    leftovers.wait_idle(packaged_cluster)
    site, reload, _ = blocks(INSTALL, "Uninstalling")
    packaged_cluster.exec(CONTROLLER, ["sh", "-ec", site], "root")
    assert reload == "scontrol reconfigure\n"
    packaged_cluster.reconfigure()
    users = sorted(packaged_cluster.home.rglob("*"))
    everywhere(packaged_cluster, PURGE)
    assert sorted(packaged_cluster.home.rglob("*")) == users
    assert [sorted(after - there) for after, there in zip(files(packaged_cluster), before, strict=True)] == [[]] * 3
    assert packaged_cluster.exec(CONTROLLER, ["srun", "-w", "n1", "hostname"]).stdout == "n1\n"
