"""Send a container to the node to which its job migrates, in a child of its supervisor, and have the job go there.

Until the other node has all of it, any failure has the container run on where it is.
"""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial

from oci_criu_shim import files, units
from oci_criu_shim.container import node_fit
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.container.record import MIGRATION, SENT, STAGE_LINK
from oci_criu_shim.dump.precopy import Precopy
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.host import criu, process
from oci_criu_shim.slurm import controller
from oci_criu_shim.task import requeue
from oci_criu_shim.task.departure import Departure
from oci_criu_shim.task.policy import TAKEN
from oci_criu_shim.task.schedule import MIGRATE
from oci_criu_shim.task.take import Taker
from oci_criu_shim.transfer.sender import Peer, Sender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.slurm.job import Job
    from oci_criu_shim.task.policy import Policy
    from oci_criu_shim.transfer.sender import Invitation
    from oci_criu_shim.transfer.stream import Hello


class Migration:
    """Sees to a container whose user wants its job on another node."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.container = policy.container
        self.task = policy.task
        self.log = policy.log
        self.taker = Taker(policy)
        self.departure = Departure(policy)

    def go(self) -> int:
        """Send the container to the place in its MIGRATION; return one of policy's results."""
        connection = self.taker.connect_early()
        try:
            place: Invitation = files.read_json(self.container.path(MIGRATION))
            found = controller.job(self.task.job)
            with closing(Sender(place, self._hello(found))) as sender:
                try:
                    if place.get("precopy"):
                        self._send_ahead(sender)
                    said = self.taker.dump(MIGRATE, connection, Peer(sender, partial(self._delivered, place, found)))
                except ShimError as error:
                    if error.hint == criu.FULL:
                        error.hint = ""  # that is no directory of checkpoints
                    sender.give_up(error.line())
                    raise
            said, status = f"sent {self.task.describe()} to {place['node']}'s memory: {said}", TAKEN
            self.log.event(said)
        except (ShimError, OSError, ValueError) as error:
            said, status = self.taker.failed(error if isinstance(error, ShimError) else ShimError(line_of(error)))
        if status == TAKEN:
            self._depart()
        elif self.container.alive("init"):
            files.remove_if_there(self.container.path(SENT))
            self.departure.directory.forget_destination()
        self.taker.answer(status, said)
        return status

    def _send_ahead(self, sender: Sender) -> None:
        """Send memory while the program runs on, if that is worth it."""
        link, init = self.container.path(f"{STAGE_LINK}{os.getpid()}"), self.container.alive("init")

        def made(path: str) -> None:
            files.remove_if_there(link)
            os.symlink(path, link)  # if this process is killed, the job's epilog finds by it what is to be removed

        if init is None:
            return  # the dump will say so
        precopy = Precopy(init, sender, made, self.policy.urgent)
        try:
            self.taker.known = precopy.run()
        finally:
            files.remove_if_there(link)
        if precopy.sent:
            sizes = " and then ".join(map(units.size, precopy.sent))
            vain = "" if self.taker.known else ", in vain: it writes too much, and is sent anew while it is frozen"
            self.log.event(f"sent memory of {self.task.describe()} while it ran: {sizes}{vain}")

    def _delivered(self, place: Invitation, found: Job, sent: Checkpoint) -> None:
        """Note that the other node has all: if this process is killed from now on, the job goes on there."""
        self.departure.directory.note_destination(place["node"])
        self.policy.note_elsewhere(sent.path, sent)
        required = requeue.required(self.policy.store.directory, found)
        self.log.note("migrated", to=place["node"], required=required)

    def _depart(self) -> None:
        """Have the job requeued to go on there; a batch script that has started the step ends with it."""
        try:
            self.departure.have_all_go()
        except OSError as error:
            self.log.error(f"the rest of job {self.task.job} may not end now: {line_of(error)}")
        self.departure.mark(MIGRATE, "taken")

    def _hello(self, found: Job) -> Hello:
        """Say what it is: a node that it doesn't fit refuses it before anything is frozen."""
        init = self.container.alive("init")
        if init is None:
            raise ShimError(f"container {self.container.name!r} is not running")
        record, pids = self.container.load(), process.tree(init)
        return {
            "token": "",
            "task": self.task.key,
            "directory": os.path.abspath(self.policy.store.directory),
            "required": requeue.required(self.policy.store.directory, found),
            "seq": max(self.policy.store.numbers(), default=0) + 1,
            "bytes": process.memory(init),
            "node": os.uname().nodename,
            "criu": ".".join(map(str, criu.version(process.ENVIRONMENT))),
            "needs": node_fit.needs(Bundle(record["bundle"], record["config"]), pids),
        }
