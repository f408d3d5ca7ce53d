"""
Tabletop exercises
==================

A disaster is talked through: a part of the runner ``openhim_dr``. It asks who decides, what may be
done and what may not; the right answers are the plan's and the recovery model's. Nothing is done to
any host but that the exercise is put on record as a drill.
"""

import sys
from datetime import datetime, timezone
from pathlib import Path

import salt.fileclient
import yaml
from salt.exceptions import CommandExecutionError
from saltext.openhim import fleet
from saltext.openhim.disasters import case as cases
from saltext.openhim.disasters import tabletop as exercise
from saltext.openhim.drill.records import FAILED, PASSED
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.plan import declared

__virtualname__ = "openhim_dr"

#: Where the disasters are when nothing else is said.
DISASTERS = "salt://disasters"


def __virtual__():
    return __virtualname__


def disasters(folder=DISASTERS):
    """
    The disasters that can be talked through: name → title.

    folder
        Where they are: on the master's file server, or a folder of the master's disk.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.disasters
    """
    try:
        return {name: cases.title(path) for name, path in _found(folder).items()}
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def tabletop(
    stack,
    disaster,
    by="",
    answers=None,
    names=None,
    folder=DISASTERS,
    pass_percent=exercise.PASS_PERCENT,
    record=True,
):
    """
    Talk a disaster through. A person at ``salt-run`` is asked one question after the other. With
    ``answers`` nobody is asked, and without a person and without answers it returns the questions.

    It is passed when enough answers are right, and none is wrong that would do harm. The result is
    recorded as a drill of the kind tabletop, where ``openhim:drills`` has its records. The exit
    code is 0 when it is passed, 1 otherwise.

    stack
        The stack's name. The questions are about this stack, with its own plan, as it was declared
        before any recovery.

    disaster
        The name of the disaster (:py:func:`disasters`).

    by
        Who holds the exercise, for the record.

    answers
        A mapping from a question's ID to a choice, its number, or a list of choices; or the path of
        a YAML or JSON file that holds one. A question that is left out counts as wrong.

    names
        A mapping from the names of sites and hosts in the disaster to those of this stack, where
        they are not called the same.

    folder
        Where the disasters are: on the master's file server, or a folder of the master's disk.

    pass_percent
        How many per cent of the answers must be right.

    record
        False to practise: nothing is recorded.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.tabletop example primary-site-is-cut-off by=Ada
        salt-run openhim_dr.tabletop example dead-minion by=Ada answers=/root/answers.yaml
        salt-run openhim_dr.tabletop example dead-minion names='{north: dublin, north-db1: db1}'
    """
    try:
        pillar = fleet.declaration(__opts__, stack, "stack")
        chosen = _chosen(folder, disaster, pillar, names)
        questions = exercise.questions(chosen)
        person = _a_person_is_there()
        if answers is None and not person:
            return exercise.sheet(chosen, questions)
        given = None if answers is None else _answers(answers)
        host = _recorder(pillar["openhim"], by) if record else None
        began = _now()
        if given is None:
            given = _asked(chosen, questions)
        score = exercise.scored(questions, given, _percent(pass_percent))
        found = {
            "disaster": chosen.name,
            "passed": score.passed,
            "words": score.words,
            "answers": {one.question.id: one.told for one in score.answers},
            "way_forward": chosen.expected.way_forward.words,
            "drill": _recorded(host, by, chosen, score, began) if host else None,
            "retcode": int(not score.passed),
        }
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    if person:
        print(_told(found))
        return {"retcode": found["retcode"]}
    return found


def _found(folder):
    """The folder of each disaster, by its name."""
    if str(folder).startswith("salt://"):
        client = salt.fileclient.FSClient(__opts__)
        # Only what is served now: the cache may still hold what was taken away.
        files = [Path(path) for path in client.cache_dir(folder)]
    else:
        files = list(Path(folder).glob(f"*/{cases.HAPPENS}"))
    found = {path.parent.name: path.parent for path in sorted(files) if path.name == cases.HAPPENS}
    if not found:
        raise Refused(
            f"folder: found no disaster in {folder}; serve the folder disasters/ of the package "
            "there (README, gitfs_remotes), or name a folder of this machine"
        )
    return found


def _chosen(folder, disaster, pillar, names):
    found = _found(folder)
    exercise.require_one(list(found), disaster)
    if names is not None and not isinstance(names, dict):
        raise OpenHIMError(f"names: found {names!r}; allowed a mapping such as '{{north: dublin}}'")
    known = declared.of(pillar["openhim"])
    return cases.read_for(found[disaster], {"openhim": known}, names or {})


def _answers(answers):
    """Answers as they were given, or out of a file."""
    if isinstance(answers, str):
        try:
            answers = yaml.safe_load(Path(answers).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise OpenHIMError(
                f"answers: the file cannot be read: {' '.join(str(error).split())}"
            ) from error
    if not isinstance(answers, dict):
        raise OpenHIMError(
            f"answers: found {answers!r}; allowed a mapping from a question's ID to its answer, or "
            "the path of a file that holds one"
        )
    return answers


def _percent(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 100:
        raise OpenHIMError(f"pass_percent: found {value!r}; allowed a number from 1 to 100")
    return value


def _recorder(openhim, by):
    """The host that keeps the record of drills; it must be there before anybody is asked."""
    if not str(by).strip():
        raise Refused("by: found nothing; say who holds the exercise, for the record")
    host = (openhim.get("drills") or {}).get("run_by")
    if host is None:
        raise Refused(
            "openhim:drills: found nothing, so nobody keeps a record of drills; declare it, or "
            "practise with record=False"
        )
    if not fleet.present(__opts__, [host]):
        raise Refused(
            f"{host} does not answer, and keeps the record of drills (openhim:drills:run_by); "
            "bring its minion back, or practise with record=False"
        )
    return host


def _recorded(host, by, chosen, score, began):
    """The drill as it was read back."""
    notes = f"{chosen.title} ({chosen.name}): {score.words}"
    given = ["tabletop", PASSED if score.passed else FAILED, str(by), notes, began]
    try:
        return fleet.ask(__opts__, [host], "openhim_drill.record", given)[host]
    except OpenHIMError as error:
        raise OpenHIMError(f"{notes}; this is not on record: {error}") from error


def _a_person_is_there():
    """Whether ``salt-run`` itself was told this function at a terminal, and not how to print."""
    asked = __opts__.get("fun") == "openhim_dr.tabletop" and not __opts__.get("output")
    return asked and sys.stdin is not None and sys.stdin.isatty()


def _asked(chosen, questions):
    """The answers of a person, one question after the other."""
    print(f"{chosen.title}\n")
    print("\n".join(f"  {number}. {one.words}" for number, one in enumerate(chosen.happens, 1)))
    given = {}
    for number, question in enumerate(questions, 1):
        print(f"\n({number} of {len(questions)}) {question.text}")
        print("\n".join(f"  {place}) {one}" for place, one in enumerate(question.choices, 1)))
        given[question.id] = _answer(question, f"broken off after {len(given)} answers")
    return given


def _answer(question, broken_off):
    """One answer; asked again until it is a choice."""
    prompt = "numbers, with commas between: " if question.several else "number: "
    while True:
        try:
            return exercise.parsed(question, input(prompt))
        except EOFError:
            raise Refused(f"{broken_off}; nothing was recorded") from None
        except OpenHIMError as error:
            print(error)


def _told(found):
    """The result, for a person."""
    lines = ["", f"{'PASSED' if found['passed'] else 'FAILED'}: {found['words']}", ""]
    for one in found["answers"].values():
        lines.append(f"{'right' if one['ok'] else 'WRONG'}  {one['question']}")
        if not one["ok"]:
            lines.append(f"       answered: {', '.join(one['given']) or 'nothing'}")
        lines.append(f"       {', '.join(one['right'])}, by {one['source']}")
        lines += [f"       {one['because']}"] if one["because"] else []
    lines += ["", f"The way forward: {found['way_forward']}"]
    drill = found["drill"]
    lines.append(f"On record as {drill['id']}." if drill else "Nothing was recorded.")
    return "\n".join(lines)


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
