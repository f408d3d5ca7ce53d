"""A command that leads clients to a site: a load balancer's, an anycast router's, a provider's.

It runs on the master, as its user, without a shell. Whether it worked is known only if a second
command tells where clients are led; without one the result says that nobody looked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saltext.openhim import programs
from saltext.openhim.cut_over import decision
from saltext.openhim.cut_over.decision import Moved, Pointing
from saltext.openhim.errors import OpenHIMError


@dataclass(frozen=True)
class Command:
    """The commands of a stack, each a list of arguments.

    run: by site. tells: prints the name of the site to which clients are led, or nothing when to
    none; empty where there is no such command. timeout: seconds for one of them.
    """

    stack: str
    run: Mapping[str, Sequence[str]]
    tells: Sequence[str]
    timeout: float

    def points_to(self) -> Pointing:
        """Where the second command says that clients are led; ``unknown`` without one."""
        if not self.tells:
            return Pointing(
                decision.UNKNOWN,
                because="a command leads clients, and openhim:cut_over:command:points_to, which "
                "would tell where to, is not declared",
            )
        try:
            return self._pointing(self._run(self.tells, "").split())
        except OpenHIMError as error:
            return Pointing(decision.UNKNOWN, because=str(error))

    def move(self, site: str, test: bool = False) -> Moved:
        """Run the site's command, unless clients are led there already; then look.

        Raises Refused for a site without a command, OpenHIMError when the command fails or clients
        are not led there afterwards.
        """
        path = "openhim:cut_over:command:run"
        decision.require_site(site, self.run, path, "command")
        before = self.points_to()
        if before.site == site:
            comment = f"clients are led to {site} already"
            return Moved(False, before.told(), before.told(), 0, True, comment)
        if test:
            comment = f"{self.run[site][0]} would be run"
            return Moved(False, before.told(), {"site": site}, None, False, comment)
        self._run(self.run[site], site)
        after = self.points_to()
        if self.tells and after.site != site:
            why = after.because or f"they are led to {', '.join(after.sites)}"
            raise OpenHIMError(
                f"{self.run[site][0]} ended well, and clients are not led to {site}: {why}"
            )
        comment = f"{self.run[site][0]} ended well"
        comment += "" if self.tells else "; whether clients are led there was not looked at"
        return Moved(True, before.told(), after.told(), None, bool(self.tells), comment)

    def _pointing(self, told: list[str]) -> Pointing:
        strangers = sorted(set(told) - set(self.run))
        if strangers:
            because = (
                f"{self.tells[0]} told {', '.join(strangers)}, which is no site with a command"
            )
            return Pointing(decision.ELSEWHERE, because=because)
        sites = tuple(sorted(set(told)))
        if not sites:
            return Pointing(decision.NONE, because=f"{self.tells[0]} told no site")
        if len(sites) > 1:
            return Pointing(decision.SEVERAL, sites, f"{self.tells[0]} told several")
        return Pointing(decision.SITE, sites)

    def _run(self, command: Sequence[str], site: str) -> str:
        about = {"OPENHIM_STACK": self.stack, "OPENHIM_SITE": site}
        return programs.run(command, about, self.timeout)
