"""The lab: real systemd hosts, a real network between them and real servers on one machine.

A person calls it as ``python -m lab``; tests and the demo import :class:`Lab`::

    from lab import HostSpec, Lab

    with Lab.start(hosts=[HostSpec("north-db1", site="north", address="10.20.1.11")]) as lab:
        lab.host("north-db1").run(["hostname"])

Only the standard library is used, so that the lab runs before anything is installed.
"""

from lab.errors import LabError
from lab.host import Host, HostSpec
from lab.lab import Lab
from lab.salt import SaltMaster

__all__ = ["Host", "HostSpec", "Lab", "LabError", "SaltMaster"]
