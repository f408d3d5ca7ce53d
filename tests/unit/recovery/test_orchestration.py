"""What the orchestrations do in which order. (That they do it, shows in the lab.)"""

import json
from pathlib import Path

import jinja2
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[3] / "salt" / "orch"
REQUEST = {"to_site": "south", "confirm": "example", "declared_by": "Ada", "reason": "fire"}
PLAN = {
    "refusals": [],
    "unseen": ["north-core", "north-db1"],
    "promote": {"openhim": "south-db1"},
    "hosts": ["south-core", "south-db1"],
    "cores": ["south-core"],
    "bundled_by": ["master"],
    "runbook_at": ["master", "west-backup"],
    "overlay": {"epoch": 1},
}
CORE = {**PLAN, "in_place": False, "counted": ["south-db1", "west-db1"]}
IN_PLACE = {**CORE, "in_place": True, "overlay": {}}
MOVE = {**PLAN, "handing_over": ["north-db1", "south-db1"]}
BACKUP = {"refusals": [], "taken_by": "south-db1", "first": ["near"], "copies": {"far": "west"}}
RESTORE = {
    "refusals": [],
    "words": "OpenHIM stops.",
    "cores": ["north-core"],
    "stop": ["north-core", "south-core"],
    "hosts": ["north-core", "south-db1"],
    "host": "south-db1",
    "archiver": "south-db1",
    "bundled_by": ["master"],
    "runbook_at": ["master", "west-backup"],
    "point": "20260131T120000Z-000000",
    "to_time": None,
    "what": "20260131T120000Z-000000",
    "keep": True,
    "untouched": True,
    "replaced": False,
    "epoch": 1,
}
RESTORING = {"confirm": "example", "reason": "a bad script", "declared_by": "Ada"}


def rendered(name, plan, **request):
    """The steps of an orchestration by name, and what each calls with what; without its notes."""
    steps = with_notes(name, plan, **request)
    return {name: step for name, step in steps.items() if not name.startswith("On record: ")}


def with_notes(name, plan, **request):
    """The same, with what puts their times on record."""
    loader = jinja2.FileSystemLoader(FOLDER.parent)
    environment = jinja2.Environment(loader=loader)  # noqa: S701
    environment.filters["json"] = json.dumps
    text = environment.from_string((FOLDER / f"{name}.sls").read_text()).render(
        pillar={name: request}, salt={"saltutil.runner": lambda *_, **__: plan}
    )
    found = {}
    for step_name, step in yaml.safe_load(text).items():
        ((kind, arguments),) = step.items()
        entry = {key: value for each in arguments for key, value in each.items()}
        found[step_name] = (kind, entry)
    return found


@pytest.fixture
def steps():
    """Those of a failover."""
    return rendered("failover", PLAN, **REQUEST)


def test_nothing_is_promoted_before_every_host_was_seen_to_know_the_epoch(steps):
    order = list(steps)
    kind, known = steps["Every host that is left knows it"]
    assert (kind, known["name"]) == ("salt.runner", "openhim_dr.tell")
    step = "every host that is left knows it"
    assert known["kwarg"] == {"stack": "example", "hosts": PLAN["hosts"], "step": step}
    # Other sites are closed meanwhile, and who promotes waits for both.
    assert known["parallel"] is True
    _, promoting = steps["The distant member of openhim is the primary"]
    assert {"salt": "Every host that is left knows it"} in promoting["require"]
    before = order.index("The decision is on record")
    promoted = order.index("The distant member of openhim is the primary")
    assert before < order.index("Every host that is left knows it") < promoted


@pytest.mark.parametrize(
    ("name", "plan", "more"),
    # Nothing looks before OpenHIM alone is started, but the decision itself.
    [("failover", PLAN, {"planned_within": 15}), ("core", CORE, {})],
)
def test_nobody_waits_again_for_who_was_silent_for_the_plan(name, plan, more):
    steps = rendered(name, plan, **REQUEST)
    _, declared = steps["The decision is on record"]
    assert declared["kwarg"] == {**REQUEST, "silent": PLAN["unseen"], **more}
    (secured,) = (one for _, one in steps.values() if one.get("name") == "openhim_dr.secure")
    assert secured["kwarg"] == {**REQUEST, "verb": name, "silent": PLAN["unseen"]}


def test_nobody_is_promoted_before_no_other_site_takes_writes(steps):
    order = list(steps)
    kind, secured = steps["No other site takes writes"]
    assert (kind, secured["name"]) == ("salt.runner", "openhim_dr.secure")
    assert secured["kwarg"] == {**REQUEST, "verb": "failover", "silent": PLAN["unseen"]}
    before = order.index("The decision is on record")
    promoted = order.index("The distant member of openhim is the primary")
    assert before < order.index("No other site takes writes") < promoted


def test_clients_are_led_to_the_site_once_openhim_serves_there(steps):
    order = list(steps)
    kind, led = steps["Clients are led to south"]
    assert (kind, led["name"]) == ("salt.runner", "openhim_dr.cut_over")
    assert led["kwarg"] == {"stack": "example", "site": "south", "if_declared": True}
    before = order.index("OpenHIM serves at south")
    proven = order.index("A transaction goes through and is found again")
    assert before < order.index("Clients are led to south") < proven


def test_what_fails_ends_it(steps):
    *those_that_recover, _, _ = steps.values()
    in_turn = [arguments for _, arguments in those_that_recover if not arguments.get("parallel")]
    assert all(arguments["failhard"] for arguments in in_turn)
    assert len(in_turn) == len(those_that_recover) - 1, "only one runs beside, and is required"


@pytest.mark.parametrize(
    ("name", "plan"), [("failover", PLAN), ("failback", MOVE), ("restore", RESTORE)]
)
def test_who_has_no_part_in_it_is_told_once_the_record_is_complete(name, plan):
    request = {**REQUEST, **RESTORING}
    steps = rendered(name, plan, **request)
    done, bundle, runbook = list(steps)[-3:]
    assert done == f"The {name} is done"
    assert bundle == "The start bundle knows of it"
    assert (steps[bundle][1]["tgt"], steps[bundle][1]["sls"]) == (["master"], "backup.bundle")
    assert runbook == "Every other host has the runbook of the new reality"
    assert (steps[runbook][1]["tgt"], steps[runbook][1]["sls"]) == (
        ["master", "west-backup"],
        "plan",
    )
    assert not any("failhard" in steps[step][1] for step in (bundle, runbook))


def test_clients_are_led_to_the_new_site_before_service_is_proved(steps):
    order = list(steps)
    led = order.index("Clients are led to south")
    assert order[led - 1 : led + 2] == [
        "OpenHIM serves at south",
        "Clients are led to south",
        "A transaction goes through and is found again",
    ]
    assert steps[order[led]][1]["kwarg"] == {
        "stack": "example",
        "site": "south",
        "if_declared": True,
    }


@pytest.mark.parametrize("verb", ["switchover", "failback"])
def test_a_move_stops_openhim_before_the_primary_hands_over_and_serves_after(verb):
    steps = rendered(verb, MOVE, **REQUEST)
    order = [name for name in steps if "south" in name or "transaction" in name]
    assert order == [
        "OpenHIM is stopped elsewhere, and south has all writes",
        "The primaries hand over to south",
        "OpenHIM serves at south",
        "Clients are led to south",
        "A transaction goes through and is found again",
    ]
    assert steps[order[0]][1]["kwarg"]["verb"] == verb
    assert steps[order[1]][1]["tgt"] == MOVE["handing_over"]
    assert next(iter(steps)) == "The decision is on record"


def test_where_only_openhim_moves_nobody_is_promoted_and_the_sets_count_on_who_is_left_first():
    steps = rendered("core", CORE, **REQUEST, attest={"north": "off"})
    assert list(steps)[:-2] == [
        "The decision is on record",
        "Every host that is left knows it",
        "No other site takes writes",
        "MongoDB counts on those who are left",
        "OpenHIM serves at south",
        "Clients are led to south",
        "A transaction goes through and is found again",
        "Every host that is left confirms the new reality",
        "The move of OpenHIM is done",
    ]
    secured = steps["No other site takes writes"][1]["kwarg"]
    silent = PLAN["unseen"]
    assert secured == {**REQUEST, "attest": {"north": "off"}, "verb": "core", "silent": silent}
    counted = steps["MongoDB counts on those who are left"][1]
    assert (counted["tgt"], counted["sls"]) == (["south-db1", "west-db1"], "mongodb.counted")
    assert steps["OpenHIM serves at south"][1]["tgt"] == ["south-core"]
    assert all(arguments["failhard"] for _, arguments in list(steps.values())[:-2])


def test_openhim_that_stays_at_its_site_has_no_epoch_to_tell_of_to_conclude_or_to_note():
    steps = with_notes("core", IN_PLACE, **{**REQUEST, "to_site": "north"})
    assert list(steps) == [
        "It is allowed still",
        "OpenHIM serves at north",
        "Clients are led to north",
        "A transaction goes through and is found again",
        "Its host confirms it",
    ]
    assert steps["A transaction goes through and is found again"][1]["name"] == "openhim.synthetic"
    later = with_notes("core", {**IN_PLACE, "overlay": {"epoch": 1}}, **REQUEST)
    assert "Every host that is left knows it" in later, "one that is made anew may not know it"


def test_a_site_rejoins_on_record_before_its_services_start():
    steps = rendered("rejoin", MOVE, site="north", confirm="example")
    prepared, started, finished, *_ = steps
    assert steps[prepared][1]["name"] == "openhim_dr.rejoin_prepare"
    assert steps[started][1]["highstate"] is True
    assert steps[finished][1]["name"] == "openhim_dr.rejoin_finish"


def test_what_a_site_wrote_alone_is_kept_before_its_members_join():
    plan = {**MOVE, "lost_by": 1}
    steps = rendered("rejoin", plan, site="north", confirm="example")
    kept, prepared, *_ = steps
    assert steps[prepared][1]["name"] == "openhim_dr.rejoin_prepare"
    _, step = steps[kept]
    assert step["name"] == "openhim_dr.ledger"
    assert step["kwarg"] == {"stack": "example", "epoch": 1, "brief": True}
    assert step["failhard"] is True


@pytest.mark.parametrize(
    ("name", "plan", "noted"),
    [
        ("failover", PLAN, ["no other site takes writes", "the primaries are at south",
                            "OpenHIM runs at south", "every host that is left has confirmed it"]),
        ("switchover", MOVE, ["every host knows it",
                              "OpenHIM is stopped elsewhere, and south has all writes",
                              "the primaries have handed over", "OpenHIM runs at south",
                              "every host has confirmed it"]),
        ("core", CORE, ["every host that is left knows it", "no other site takes writes",
                        "MongoDB counts on those who are left", "OpenHIM runs at south",
                        "every host that is left has confirmed it"]),
        ("restore", RESTORE, ["every host knows it", f"the data is that of {RESTORE['what']}",
                              "OpenHIM runs on it", "every host has confirmed it"]),
    ],
)  # fmt: skip
def test_the_time_of_each_step_goes_on_record_after_it_and_a_note_that_fails_ends_nothing(
    name, plan, noted
):
    steps = with_notes(name, plan, **{**REQUEST, **RESTORING})
    notes = [step for step in steps if step.startswith("On record: ")]
    assert notes == [f"On record: {one}" for one in noted]
    order = list(steps)
    for note, words in zip(notes, noted, strict=True):
        kind, arguments = steps[note]
        assert (kind, arguments["name"]) == ("salt.runner", "openhim_dr.reached")
        assert arguments["kwarg"] == {"stack": "example", "step": words}
        assert "failhard" not in arguments
        # Beside the next step only where that is not what ends the recovery, and refuses notes.
        assert arguments["parallel"] is (name == "failover" and note != notes[-1])
        assert steps[order[order.index(note) - 1]][1]["failhard"] is True
    led = with_notes(name, {**plan, "leads_clients": True}, **{**REQUEST, **RESTORING})
    assert ("On record: clients are led to south" in led) is (name != "restore")


KEPT, DECIDED = "What is there is kept aside", "The decision is on record"
REPLACED = f"The data is that of {RESTORE['what']}"


def _requires(steps, name):
    return [value for one in steps[name][1].get("require", ()) for value in one.values()]


def test_nothing_is_replaced_before_openhim_is_stopped_what_is_there_kept_and_it_is_on_record():
    steps = rendered("restore", RESTORE, **RESTORING)
    assert _requires(steps, KEPT) == ["OpenHIM is stopped"]
    assert _requires(steps, DECIDED) == [KEPT]
    assert _requires(steps, "Every host knows it") == [DECIDED]
    assert _requires(steps, REPLACED) == ["Every host knows it"]
    order = list(steps)
    assert order.index(KEPT) < order.index(DECIDED) < order.index(REPLACED)


def test_a_restore_that_is_refused_once_openhim_is_stopped_lets_it_serve_again():
    steps = rendered("restore", RESTORE, **RESTORING)
    again = "OpenHIM serves again what there was"
    failed = [value for one in steps[again][1]["onfail"] for value in one.values()]
    assert failed == ["OpenHIM is stopped", KEPT, DECIDED]
    for name in failed:  # or it would end there
        assert "failhard" not in steps[name][1]
    half = rendered("restore", {**RESTORE, "keep": False, "untouched": False}, **RESTORING)
    assert again not in half
    assert _requires(half, DECIDED) == ["OpenHIM is stopped"]


def test_data_that_was_replaced_already_is_not_replaced_again_nor_openhim_stopped():
    steps = rendered("restore", {**RESTORE, "replaced": True}, **RESTORING)
    assert list(steps)[:2] == ["What is done", "OpenHIM serves it"]


def test_an_archive_that_does_not_go_on_keeps_nobody_from_being_served():
    steps = rendered("restore", RESTORE, **RESTORING)
    archive = "The oplog archive begins a new timeline"
    assert "failhard" not in steps[archive][1]
    assert archive not in _requires(steps, REPLACED)
    assert list(steps).index(archive) < list(steps).index(REPLACED)


@pytest.mark.parametrize(
    "steps",
    [
        rendered("failover", PLAN, **REQUEST),
        rendered("switchover", MOVE, **REQUEST),
        rendered("core", IN_PLACE, **REQUEST),
        rendered("rejoin", MOVE, site="north", confirm="example"),
        rendered("backup", BACKUP, stack="example"),
        rendered("restore", RESTORE, **RESTORING),
    ],
    ids=["failover", "switchover", "core", "rejoin", "backup", "restore"],
)
def test_a_function_that_only_some_hosts_answer_is_a_failure(steps):
    """``salt.function`` counts those that do not answer only when it is told to."""
    for kind, arguments in steps.values():
        assert kind != "salt.function" or arguments["expect_minions"]


@pytest.mark.parametrize(
    "name", ["failover", "switchover", "failback", "core", "rejoin", "backup", "restore"]
)
def test_what_is_refused_does_nothing_else_and_is_no_success(name):
    steps = rendered(name, {"refusals": ["a reason"]})
    assert list(steps) == ["Refused: a reason"]
    assert steps["Refused: a reason"][0] == "test.fail_without_changes"
