"""What the pillar may say, and every way in which it says something else.

:mod:`.table` lists the keys, :mod:`.rules` what must fit together, :mod:`.needs` which host needs
which secret; :mod:`.plan_table` and :mod:`.plan_rules` the same for the disaster recovery plan. The
reference page of the pillar is written from the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saltext.openhim.errors import PillarError
from saltext.openhim.schema import needs, plan_rules, rules
from saltext.openhim.schema.kinds import DROPPED
from saltext.openhim.schema.table import OPENHIM


def check(pillar: Mapping[str, Any], minion_id: str | None = None) -> list[str]:
    """All problems of a pillar, each as ``path: found X; allowed Y``; empty when it is fine.

    pillar: the whole pillar, with the key ``openhim``. minion_id: also check that this host is
    declared and that its pillar holds every secret that its roles need. No text shows a secret.
    """
    problems: list[str] = []
    declared = OPENHIM.check(pillar.get("openhim"), "openhim", problems)
    if declared is DROPPED:
        return problems
    problems += rules.check(declared)
    problems += plan_rules.check(declared, problems)
    problems += needs.check(declared, minion_id)
    return problems


def require(pillar: Mapping[str, Any], minion_id: str | None = None) -> None:
    """Raise :class:`~saltext.openhim.errors.PillarError` with all problems, if there is one.

    pillar, minion_id: as for :func:`check`.
    """
    problems = check(pillar, minion_id)
    if problems:
        raise PillarError(problems)
