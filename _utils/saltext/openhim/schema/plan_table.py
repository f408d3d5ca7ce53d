"""Every key of ``openhim:plan``: the disaster recovery plan, as far as people must decide it.

What the pillar, the records and the hosts know by themselves is not declared here a second time.
"""

from __future__ import annotations

from saltext.openhim.schema.kinds import Flag, Key, ListOf, MapOf, Number, Text, Tree, choice

NAME = Text("a name of letters, digits, '.', '_' and '-'", pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAMES = ListOf(NAME, at_least=1)
MINION_ID = Text("a minion ID", pattern=r"[^\s/:]+")
SECONDS = Number(0)
PHONE = Text(
    "a phone number with its country code such as '+1 202 555 0100'", pattern=r"\+[0-9][0-9 ()/-]+"
)
EMAIL = Text("an e-mail address", pattern=r"[^\s@]+@[^\s@]+")

#: What ends a disaster: the verbs of the recovery model.
VERBS = ("failover", "core", "restore", "rebuild", "rejoin", "switchover", "failback")

#: What a test of the plan may be.
TESTS = ("drill", "verification", "tabletop", "contacts")

#: From when the deadline of a message counts: when it is declared, when OpenHIM serves again, when
#: every host that is left has confirmed it.
MOMENTS = ("declaration", "service", "completion")

STRATEGIES = ("backup and restore", "pilot light", "warm standby")

#: A covered entity keeps what it documents for six years: 45 CFR 164.316(b)(2)(i).
RETENTION_YEARS = 6

CONTACT = Tree(
    {
        "name": Key(Text(), "Who it is: a person, or a desk that is always manned.", required=True),
        "phone": Key(PHONE, "The phone."),
        "email": Key(EMAIL, "The e-mail address; not one that this stack's sites serve."),
        "other": Key(Text(), "Another way: a radio channel, a pager, a door to knock at."),
    }
)

FACILITY = Tree(
    {
        "address": Key(Text(), "Where it is, so that a driver finds it.", required=True),
        "access": Key(NAMES, "The contacts who let people in, in their order.", required=True),
        "instructions": Key(Text(), "How one gets in by night, and when the power is out."),
    }
)

ROLE = Tree(
    {
        "duties": Key(Text(), "What the role decides and does.", required=True),
        "holders": Key(
            NAMES,
            "Contacts: the first is in charge, the others succeed in this order. Two or more.",
            required=True,
        ),
    }
)

CRITERION = Tree(
    {
        "when": Key(Text(), "What is seen: the symptom.", required=True),
        "after_seconds": Key(SECONDS, "How long it must last before the plan is activated."),
        "verb": Key(choice(*VERBS), "What ends it.", required=True),
        "decided_by": Key(NAME, "The role that declares the disaster.", required=True),
    }
)

TIER = Tree(
    {
        "order": Key(Number(1), "Which tier is restored first; 1 before 2.", required=True),
        "rpo_seconds": Key(SECONDS, "How much may be lost.", required=True),
        "rto_seconds": Key(SECONDS, "How long it may be down.", required=True),
        "max_downtime_seconds": Key(
            SECONDS, "After this the harm is not made good: maximum tolerable downtime.",
            required=True,
        ),
        "impact": Key(Text(), "Whom it harms when it is down, and how.", required=True),
        "sla": Key(Text(), "What was promised to whom."),
        "strategy": Key(choice(*STRATEGIES), "How it comes back.", required=True),
        "cost": Key(Text(), "What the strategy costs, and what the next better one would."),
        "databases": Key(ListOf(choice("main", "audit")), "OpenHIM's databases in it."),
        "channels": Key(ListOf(Text()), "Channels in it, by the names of `objects:channels`."),
        "services": Key(ListOf(Text()), "What else is in it, in words."),
    }
)  # fmt: skip

MESSAGE = Tree(
    {
        "when": Key(Text(), "At which moment.", required=True),
        "whom": Key(NAMES, "Roles and contacts.", required=True),
        "by": Key(NAME, "The role that sends it.", required=True),
        "within_seconds": Key(SECONDS, "How soon; the after-action report judges it."),
        "counts_from": Key(
            choice(*MOMENTS),
            "From when: the declaration of the disaster, the first transaction that OpenHIM takes "
            "again, or the completion of the recovery.",
            default="declaration",
        ),
        "template": Key(Text(), "What is said.", required=True),
        "acknowledged": Key(
            Flag(), "Whether each of them must confirm it; else the next way is tried.",
            default="false",
        ),
    }
)  # fmt: skip

TEST = Tree(
    {
        "kind": Key(choice(*TESTS), "What is done.", required=True),
        "every_days": Key(Number(1, 3660), "How often at least.", required=True),
        "owner": Key(NAME, "The role that sees to it.", required=True),
        "scenario": Key(Text(), "What is assumed to have happened."),
    }
)

COPY = Tree(
    {
        "where": Key(Text(), "Where it is, in words.", required=True),
        "host": Key(MINION_ID, "The declared host that holds it, if one does."),
        "kept_by": Key(NAME, "The contact who sees to it.", required=True),
    }
)

PLAN = Tree(
    {
        "organisation": Key(Text(), "Whose plan it is.", required=True),
        "contacts": Key(
            MapOf(CONTACT, NAME, at_least=1),
            "People, by a short name. Each is reached in at least one way.",
            required=True,
        ),
        "facilities": Key(
            MapOf(FACILITY, NAME, at_least=1), "By the name of the site.", required=True
        ),
        "roles": Key(MapOf(ROLE, NAME, at_least=1), "By name.", required=True),
        "activation": Key(
            ListOf(CRITERION, at_least=1), "When the plan is activated, by whom.", required=True
        ),
        "tiers": Key(
            MapOf(TIER, NAME, at_least=1),
            "Criticality, by the tier's name. Each database is in exactly one.",
            required=True,
        ),
        "communication": Key(
            ListOf(MESSAGE, at_least=1), "Who is told what, and when.", required=True
        ),
        "emergency_mode": Key(
            Tree(
                {
                    "channels": Key(
                        ListOf(Text(), at_least=1),
                        "The channels that stay on, by the names of `objects:channels`; all others "
                        "are off.",
                        required=True,
                    ),
                    "entered_by": Key(NAME, "The role that enters and ends it.", required=True),
                }
            ),
            "What still works when not all can.",
        ),
        "tests": Key(MapOf(TEST, NAME), "The calendar of tests, by name."),
        "retention_years": Key(
            Number(RETENTION_YEARS),
            "How long plans, records and evidence are kept.",
            default=str(RETENTION_YEARS),
        ),
        "copies": Key(ListOf(COPY), "Where copies of the plan are kept, beside the hosts."),
        "encryption_at_rest": Key(
            MapOf(Text(), MINION_ID),
            "What encrypts the disks of a host where the host itself cannot see it (the provider's "
            "storage), in words.",
        ),
    }
)
