"""A disaster that is talked through: questions, their right answers, and how many were right. Pure.

No answer is written down by hand. Those about the machine are the recovery model's for this stack;
those about people are the plan's (``openhim:plan``). Each says where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saltext.openhim.disasters import judged, world
from saltext.openhim.disasters.case import STATUSES, Case, CaseError
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.plan import declared
from saltext.openhim.plan.words import duration
from saltext.openhim.recovery.observations import Status
from saltext.openhim.recovery.verdicts import VERBS
from saltext.openhim.schema.kinds import did_you_mean

#: How many per cent of the answers must be right.
PASS_PERCENT = 80

YES, NO = "yes", "no"

NOTHING = "nothing of these"


@dataclass(frozen=True)
class Question:
    """One question. choices: of which one is to be named, or several. right: those. source: where
    the answer comes from. because: it in words. vital: a wrong answer fails the whole exercise, for
    it would do harm."""

    id: str
    text: str
    choices: tuple[str, ...]
    right: tuple[str, ...]
    source: str
    because: str = ""
    several: bool = False
    vital: bool = False

    @property
    def asked(self) -> dict[str, Any]:
        """It without its answer."""
        return {"text": self.text, "choices": list(self.choices), "several": self.several}


@dataclass(frozen=True)
class Answered:
    """A question with what was answered to it; nothing where it was left out."""

    question: Question
    given: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether that is the right answer, all of it."""
        return set(self.given) == set(self.question.right)

    @property
    def told(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "question": self.question.text,
            "given": list(self.given),
            "right": list(self.question.right),
            "ok": self.ok,
            "vital": self.question.vital,
            "source": self.question.source,
            "because": self.question.because,
        }


@dataclass(frozen=True)
class Score:
    """How it went."""

    answers: tuple[Answered, ...]
    pass_percent: float = PASS_PERCENT

    @property
    def right(self) -> int:
        """How many answers were right."""
        return sum(one.ok for one in self.answers)

    @property
    def wrong(self) -> tuple[Answered, ...]:
        """Those that were not."""
        return tuple(one for one in self.answers if not one.ok)

    @property
    def passed(self) -> bool:
        """Whether enough were right, and none would have done harm."""
        enough = self.right * 100 >= self.pass_percent * len(self.answers)
        return enough and not any(one.question.vital for one in self.wrong)

    @property
    def words(self) -> str:
        """The result in one line, with what was wrong."""
        line = f"{self.right} of {len(self.answers)} right"
        wrong = [
            f"{one.question.id}{' (vital)' if one.question.vital else ''}" for one in self.wrong
        ]
        return f"{line}; wrong: {', '.join(wrong)}" if wrong else line


def questions(case: Case) -> list[Question]:
    """What is asked about a disaster to the stack that it is about.

    Raises :class:`~saltext.openhim.errors.Refused` when that stack has no plan.
    """
    openhim = case.pillar["openhim"]
    plan = declared.plan(openhim)
    found = judged.answer(case)
    return [
        *_machine(case, found),
        *_way(case),
        *_people(case, plan),
        *_business(openhim, plan),
    ]


def _machine(case: Case, found: Mapping[str, Any]) -> Iterator[Question]:
    """What each thing counts as, and what may be done now."""
    words = tuple(status.value for status in Status)
    one_set = len(case.stack.replica_sets) == 1
    members = {
        f"{name}/{member.name}": member.host.id if one_set else f"{name}/{member.host.id}"
        for name, replica_set in case.stack.replica_sets.items()
        for member in replica_set.members
    }
    for kind, what in (("member", "The member on"), ("core", "OpenHIM on")):
        for name, one in found[f"{kind}s"].items():
            place = members.get(name, name)
            yield Question(
                f"{kind}:{place}", f"{what} {place}: what is known of it?", words,
                (words[STATUSES.index(one["status"])],), f"the preflight: {kind}s", one["words"],
            )  # fmt: skip
    for one in found["verdicts"]:
        here = one["site"] == found["active_site"]
        if (one["verb"], here) not in (("failover", False), ("restore", True)):
            continue
        yield Question(
            f"may:{one['verb']}:{one['site']}",
            f"May one {_infinitive(one)} now, without doing anything before?",
            (YES, NO),
            (YES if one["allowed"] else NO,),
            f"the preflight: {one['verb']} {one['site']}",
            "; ".join(one["reasons"]) or "nothing speaks against it",
            vital=one["verb"] == "failover",
        )


def _infinitive(one: Mapping[str, Any]) -> str:
    if one["verb"] == "failover":
        return f"fail over to {one['site']}"
    return f"restore a restore point at {one['site']}"


def _way(case: Case) -> Iterator[Question]:
    """What ends it; only where that is so on this stack, too."""
    way = case.expected.way_forward
    verb = way.then.split(" ")[0] if way.then else NOTHING
    if way.then and not _leads_there(case):
        return
    yield Question(
        "way",
        "The way forward: which of these is allowed at its end?",
        (*VERBS, NOTHING),
        (verb,),
        f"the disaster {case.name}: way_forward",
        way.words,
    )


def _leads_there(case: Case) -> bool:
    way = case.expected.way_forward
    try:
        evidence = world.after(case, way.happens).evidence()
        return judged.asked(evidence, way.then, way.resync).allowed
    except (CaseError, world.Impossible, ValueError):
        return False


def _people(case: Case, plan: Mapping[str, Any]) -> Iterator[Question]:
    """Who decides, who comes next, who opens the door, whom one tells."""
    names = {key: one["name"] for key, one in plan["contacts"].items()}
    people = tuple(sorted(names.values()))
    verb = case.expected.way_forward.then.split(" ")[0]
    for number, one in enumerate(plan["activation"]):
        if one["verb"] != verb:
            continue
        role = plan["roles"][one["decided_by"]]["holders"]
        where = f"openhim:plan:roles:{one['decided_by']}:holders"
        yield Question(
            f"decides:{number}", f"{one['when']}. Who decides?", people, (names[role[0]],),
            f"openhim:plan:activation:{number}:decided_by, {where}", one["decided_by"],
        )  # fmt: skip
        if len(role) > 1:
            yield Question(
                f"succeeds:{number}", f"{names[role[0]]} cannot be reached. Who decides then?",
                people, (names[role[1]],), where, "the holders succeed in this order",
            )  # fmt: skip
    for site in _touched(case):
        facility = (plan.get("facilities") or {}).get(site)
        if facility:
            yield Question(
                f"access:{site}", f"Who lets people in at {site}, and is called first?", people,
                (names[facility["access"][0]],), f"openhim:plan:facilities:{site}:access",
                facility["address"],
            )  # fmt: skip
    for number, one in enumerate(plan["communication"][:1]):
        known = {**{role: role for role in plan["roles"]}, **names}
        yield Question(
            f"told:{number}", f"{one['when']}. Who is told first?", tuple(sorted(known.values())),
            tuple(known[who] for who in one["whom"]), f"openhim:plan:communication:{number}:whom",
            f"by {one['by']}", several=True,
        )  # fmt: skip


def _touched(case: Case) -> list[str]:
    """The sites to which something happened, in the order in which it did."""
    hosts = {host.id: host.site for host in case.stack.hosts.values()}
    sites = [
        hosts.get(value, value)
        for happening in case.happens
        if happening.word not in ("recovered", "new_master")
        for value in happening.values.values()
        if isinstance(value, str) and hosts.get(value, value) in case.stack.sites
    ]
    return list(dict.fromkeys(sites))


def _business(openhim: Mapping[str, Any], plan: Mapping[str, Any]) -> Iterator[Question]:
    """What comes first, how soon, and what stays on meanwhile."""
    tiers = declared.tiers(openhim)
    first, tier = tiers[0]
    where = f"openhim:plan:tiers:{first}"
    if len(tiers) > 1:
        yield Question(
            "first", "Which tier is restored first?", tuple(name for name, _ in tiers), (first,),
            f"{where}:order", tier["impact"],
        )  # fmt: skip
    times = {
        one[key]
        for _, one in tiers
        for key in ("rpo_seconds", "rto_seconds", "max_downtime_seconds")
    }
    choices = tuple(duration(seconds) for seconds in sorted(times))
    for key, text in (
        ("rto_seconds", f"How long may {first} be down, as it was promised?"),
        ("rpo_seconds", f"How much of {first} may be lost?"),
    ):
        if len(choices) > 1:
            yield Question(
                key, text, choices, (duration(tier[key]),), f"{where}:{key}", tier.get("sla", "")
            )
    mode = plan.get("emergency_mode")
    channels = tuple(sorted((openhim.get("objects") or {}).get("channels") or {}))
    if mode and len(channels) > 1:
        yield Question(
            "emergency", "Emergency mode is entered. Which channels stay on?", channels,
            tuple(mode["channels"]), "openhim:plan:emergency_mode:channels",
            f"entered by {mode['entered_by']}", several=True,
        )  # fmt: skip


def scored(
    asked: Sequence[Question], answers: Mapping[str, Any], pass_percent: float = PASS_PERCENT
) -> Score:
    """How answers were.

    answers: question's ID → a choice, or a list of them; one that is left out is wrong.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` that names every answer which is none.
    """
    known = {one.id: one for one in asked}
    problems = [
        f"answers:{name}: found an unknown question{did_you_mean(name, tuple(known))}; allowed "
        f"{', '.join(known)}"
        for name in answers
        if name not in known
    ]
    given: dict[str, tuple[str, ...]] = {}
    for name, question in known.items():
        try:
            given[name] = parsed(question, answers[name]) if name in answers else ()
        except OpenHIMError as error:
            problems.append(f"answers:{name}: {error}")
    if problems:
        raise OpenHIMError("\n".join(problems))
    return Score(tuple(Answered(one, given[one.id]) for one in asked), pass_percent)


def parsed(question: Question, answer: Any) -> tuple[str, ...]:
    """An answer as choices of its question: by their number (from 1), or by their words.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` for what is no choice.
    """
    if isinstance(answer, bool):
        # YAML makes one of a yes.
        answer = YES if answer else NO
    parts = answer if isinstance(answer, (list, tuple)) else [answer]
    if question.several and isinstance(answer, str):
        parts = answer.split(",")
    chosen = tuple(_choice(question, str(part).strip()) for part in parts)
    if not question.several and len(chosen) != 1:
        raise OpenHIMError(f"found {len(chosen)} answers; allowed one")
    return chosen


def _choice(question: Question, text: str) -> str:
    by_number = {str(number): one for number, one in enumerate(question.choices, 1)}
    by_words = {one.casefold(): one for one in question.choices}
    found = by_words.get(text.casefold()) or by_number.get(text)
    if found is None:
        near = did_you_mean(text, question.choices)
        raise OpenHIMError(f"found {text!r}; allowed {', '.join(question.choices)}{near}")
    return found


def sheet(case: Case, asked: Iterable[Question]) -> dict[str, Any]:
    """What happens and what is asked, without the answers."""
    return {
        "disaster": case.name,
        "title": case.title,
        "happens": [happening.words for happening in case.happens],
        "questions": {one.id: one.asked for one in asked},
    }


def require_one(names: Sequence[str], wanted: str) -> None:
    """Raises :class:`~saltext.openhim.errors.Refused` when a disaster is not there."""
    if wanted not in names:
        near = did_you_mean(wanted, tuple(names))
        raise Refused(
            f"disaster: found {wanted!r}{near}; allowed {', '.join(names) or 'none: none is there'}"
        )
