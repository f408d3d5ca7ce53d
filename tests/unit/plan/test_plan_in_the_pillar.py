"""Every way in which the declared plan can be wrong, named by its path."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from saltext.openhim import schema

from tests.unit.test_schema import DELETED, EXAMPLE, changed


@pytest.fixture
def openhim() -> dict[str, Any]:
    """The example's declaration."""
    return yaml.safe_load(EXAMPLE.read_text())["openhim"]


CONTACTS = "ada, ben, chi, laboratory, north-desk, south-desk"
ROLES = "communications, coordinator, technical-lead"

BAD = [
    ({"plan:roles:coordinator:holders": ["ada"]},
     "openhim:plan:roles:coordinator:holders: found 'ada' and no successor; allowed two contacts or "
     "more: the first is in charge, the others succeed in this order"),
    ({"plan:roles:coordinator:holders": ["ada", "ada"]},
     "openhim:plan:roles:coordinator:holders: found 'ada' and no successor"),
    ({"plan:roles:coordinator:holders": ["ada", "ben", "ada"]},
     "openhim:plan:roles:coordinator:holders: found 'ada' twice; allowed each contact once"),
    ({"plan:roles:coordinator:holders": ["ada", "bem"]},
     f"openhim:plan:roles:coordinator:holders:1: found 'bem'; allowed {CONTACTS}"),
    ({"plan:contacts:chi": {"name": "Chikondi Banda"}},
     "openhim:plan:contacts:chi: found no way to reach; allowed a phone, an email or another way, "
     "best two of them"),
    ({"plan:contacts:chi:phone": "202 555 0103"},
     "openhim:plan:contacts:chi:phone: found '202 555 0103'; allowed a phone number with its country "
     "code such as '+1 202 555 0100'"),
    ({"plan:contacts:chi:phone": 12025550103},
     "openhim:plan:contacts:chi:phone: found the number 12025550103; allowed a phone number with its "
     "country code such as '+1 202 555 0100' (in quotes)"),
    ({"plan:tiers:critical:rpo_seconds": DELETED},
     "openhim:plan:tiers:critical:rpo_seconds: found nothing; allowed a whole number from 0 (required)"),
    ({"plan:tiers:critical:rto_seconds": DELETED},
     "openhim:plan:tiers:critical:rto_seconds: found nothing; allowed a whole number from 0 (required)"),
    ({"plan:tiers:critical:rto_seconds": 20000},
     "openhim:plan:tiers:critical:rto_seconds: found 20000, more than max_downtime_seconds; allowed "
     "at most 14400: what is tolerable is the limit of what is aimed at"),
    ({"plan:tiers:records:order": 1},
     "openhim:plan:tiers:records:order: found 1, which 'critical' has; allowed an order of its own"),
    ({"plan:tiers:records:databases": DELETED},
     "openhim:plan:tiers: found no tier for the audit database; allowed 'audit' under databases of "
     "exactly one tier"),
    ({"plan:tiers:records:databases": ["audit", "main"]},
     "openhim:plan:tiers:records:databases:1: found 'main', which is at "
     "openhim:plan:tiers:critical:databases:0 too; allowed one tier for it"),
    ({"plan:tiers:critical:channels": ["Laboratory order"]},
     "openhim:plan:tiers:critical:channels:0: found 'Laboratory order'; allowed Laboratory orders (did "
     "you mean 'Laboratory orders'?)"),
    ({"plan:tiers:critical:strategy": "hot"},
     "openhim:plan:tiers:critical:strategy: found 'hot'; allowed backup and restore or pilot light or "
     "warm standby"),
    ({"plan:facilities:nort": {"address": "x", "access": ["ada"]}},
     "openhim:plan:facilities:nort: found 'nort'; allowed north, south, west (did you mean 'north'?)"),
    ({"plan:facilities:north:access": ["adda"]},
     f"openhim:plan:facilities:north:access:0: found 'adda'; allowed {CONTACTS} (did you mean 'ada'?)"),
    ({"plan:facilities:north:access": []},
     "openhim:plan:facilities:north:access: found an empty list; allowed a list with at least 1 item"),
    ({"plan:activation:0:decided_by": "boss"},
     f"openhim:plan:activation:0:decided_by: found 'boss'; allowed {ROLES}"),
    ({"plan:activation:0:verb": "failoverr"},
     "openhim:plan:activation:0:verb: found 'failoverr'; allowed failover or core or restore"),
    ({"plan:communication:1:whom": ["laboratry"]},
     "openhim:plan:communication:1:whom:0: found 'laboratry'; allowed ada, ben, chi, communications, "
     "coordinator, laboratory, north-desk, south-desk, technical-lead (did you mean 'laboratory'?)"),
    ({"plan:emergency_mode:channels": ["Results"]},
     "openhim:plan:emergency_mode:channels:0: found 'Results'; allowed Laboratory orders"),
    ({"plan:emergency_mode:entered_by": "nobody"},
     f"openhim:plan:emergency_mode:entered_by: found 'nobody'; allowed {ROLES}"),
    ({"plan:tests:phones:owner": "nobody"},
     f"openhim:plan:tests:phones:owner: found 'nobody'; allowed {ROLES}"),
    ({"plan:retention_years": 5},
     "openhim:plan:retention_years: found the number 5; allowed a whole number from 6"),
    ({"plan:copies:1:host": "west-bakcup"},
     "openhim:plan:copies:1:host: found 'west-bakcup'; allowed master, north-core, north-db1, "
     "north-db2, south-core, south-db1, west-backup (did you mean 'west-backup'?)"),
    ({"plan:encryption_at_rest": {"north-db9": "the provider's volumes"}},
     "openhim:plan:encryption_at_rest:north-db9: found 'north-db9'; allowed master"),
    ({"plan:roles": DELETED}, "openhim:plan:roles: found nothing; allowed a mapping"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "text"), BAD, ids=lambda value: str(value)[:60])
def test_a_wrong_plan_is_told_by_its_path(
    openhim: dict[str, Any], changes: dict[str, Any], text: str
) -> None:
    said = schema.check(changed(openhim, changes))
    assert any(one.startswith(text) for one in said), said


@pytest.mark.parametrize("changes", [one for one, _ in BAD[3:8]], ids=str)
def test_one_mistake_is_told_once(openhim: dict[str, Any], changes: dict[str, Any]) -> None:
    assert len(schema.check(changed(openhim, changes))) == 1


def test_a_stack_without_a_plan_is_allowed(openhim: dict[str, Any]) -> None:
    """The report says that there is none; hosts are provisioned all the same."""
    del openhim["plan"]
    assert schema.check({"openhim": openhim}) == []


@pytest.mark.parametrize("plan", [None, [], "x", {}, {"roles": None}, {"tiers": {"a": None}}])
def test_a_plan_of_any_wrong_form_is_told_and_never_a_traceback(
    openhim: dict[str, Any], plan: Any
) -> None:
    assert schema.check({"openhim": {**openhim, "plan": plan}})
