"""One Ethernet segment: a bridge in the keeper's network namespace, a veth pair to each node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from . import linux

BRIDGE = "br0"
PREFIX = 24


def address(index: int) -> str:
    """IPv4 address of the node at this place in Settings.all_nodes(). Instances do not see each other's."""
    return f"10.77.0.{index + 10}"


def make_bridge() -> None:
    """Make the bridge in the calling thread's network namespace."""
    with IPRoute() as route:
        route.link("set", index=route.link_lookup(ifname="lo")[0], state="up")
        route.link("add", ifname=BRIDGE, kind="bridge", br_stp_state=0)
        index = route.link_lookup(ifname=BRIDGE)[0]
        route.addr("add", index=index, address="10.77.0.1", prefixlen=PREFIX)
        route.link("set", index=index, state="up")


def connect(node: str, pid: int, index: int) -> None:
    """Give the network namespace of process pid an eth0 on the bridge. Raise pyroute2.NetlinkError."""
    with IPRoute() as route:
        # Always the same MAC: the others' ARP entries outlive a power loss of the node.
        peer = {"ifname": "eth0", "net_ns_pid": pid, "address": f"02:00:00:00:00:{index + 10:02x}"}
        route.link("add", ifname=node, kind="veth", peer=peer)
        port = route.link_lookup(ifname=node)[0]
        route.link("set", index=port, master=route.link_lookup(ifname=BRIDGE)[0], state="up")
    with inside_of(pid), IPRoute() as inside:
        inside.link("set", index=inside.link_lookup(ifname="lo")[0], state="up")
        eth0 = inside.link_lookup(ifname="eth0")[0]
        inside.addr("add", index=eth0, address=address(index), prefixlen=PREFIX)
        inside.link("set", index=eth0, state="up")


@contextmanager
def inside_of(pid: int) -> Iterator[None]:
    """Run the block in the network namespace of process pid.

    Not pyroute2's NetNS (0.9): it forks a copy of this process and ends it by SIGTERM, whose handler here takes the
    cluster down.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    away = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.setns(away, linux.CLONE_NEWNET)
        yield
    finally:
        linux.setns(home, linux.CLONE_NEWNET)
        os.close(home)
        os.close(away)
