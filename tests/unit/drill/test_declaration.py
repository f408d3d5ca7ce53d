"""What a pillar may say of drills, and which secrets the host that holds them needs."""

import pytest
import yaml
from saltext.openhim.schema import needs, rules

from tests.unit.test_schema import EXAMPLE

DRILLS = {"run_by": "west-backup", "max_age_seconds": {"functional": 86400}}


def declared(**drills):
    openhim = yaml.safe_load(EXAMPLE.read_text())["openhim"]
    return {**openhim, "drills": {**DRILLS, **drills}}


def test_the_declaration_is_allowed():
    assert rules.check(declared(schedule={"functional": 3600})) == []


@pytest.mark.parametrize(
    ("drills", "problem"),
    [
        ({"run_by": "east"}, "openhim:drills:run_by: found 'east'; allowed master,"),
        ({"run_by": "south-db1"}, "found 'south-db1', which takes the backups; allowed another"),
        (
            {"schedule": {"functional": 60}, "max_age_seconds": {"full": 60}},
            "openhim:drills:max_age_seconds:functional: found nothing",
        ),
    ],
)
def test_what_does_not_fit_is_told(drills, problem):
    (found,) = rules.check(declared(**drills))
    assert problem in found


def test_without_backups_there_is_nothing_to_drill():
    openhim = declared()
    del openhim["backup"]
    assert any("openhim:backup: found nothing" in each for each in rules.check(openhim))


def test_who_drills_reads_every_repository_and_signs_and_removes_nothing():
    openhim = declared(run_by="south-core")
    found = needs.by_file(openhim, "south-core")["backup_keeper"]
    assert set(found) == {"backup_store", "backup_store_producer", "backup_copy"}
    assert "backup_keeper" not in needs.by_file({**openhim, "drills": {}}, "south-core")
