"""An account for the emergency: what may be asked for, and what may not. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from saltext.openhim.errors import Refused
from saltext.openhim.mongo import users

#: The longest time for which an account is opened, in seconds: a week.
LONGEST = 7 * 86400

OPENING, OPEN, CLOSING = "opening", "open", "closing"

_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]{0,63}(@[a-z0-9][a-z0-9.-]{0,190})?")


@dataclass(frozen=True)
class Account:
    """One account. Times are ISO 8601 in UTC.

    name: an e-mail address where it is a user of OpenHIM. groups: OpenHIM's; none where it is no
    user of OpenHIM. roles: pairs of MongoDB's role and database; none where it is no user of
    MongoDB. valid_for: seconds. openhim, mongodb: where and with what this host removes it, paths
    and names only. handover: the file with its password. recipient: the key to which that is
    encrypted; empty for root's own file.
    """

    name: str
    stack: str
    host: str
    by: str
    reason: str
    valid_for: int
    opened_at: str
    until: str
    groups: tuple[str, ...] = ()
    roles: tuple[tuple[str, str], ...] = ()
    phase: str = OPENING
    openhim: Mapping[str, Any] = field(default_factory=dict)
    mongodb: Mapping[str, Any] = field(default_factory=dict)
    handover: str = ""
    recipient: str = ""

    @property
    def slug(self) -> str:
        """The account's name as a part of files' and units' names."""
        return slug(self.name)

    @property
    def ends(self) -> datetime:
        """``until`` as a time."""
        return datetime.fromisoformat(self.until)

    @property
    def words(self) -> str:
        """Whose it is, why, and until when."""
        return f"opened at {self.opened_at} by {self.by} ({self.reason}), until {self.until}"

    def is_due(self, now: datetime | None = None) -> bool:
        """Whether its time is over."""
        return (now or datetime.now(timezone.utc)) >= self.ends

    def plain(self) -> dict[str, Any]:
        """As it is stored; there is no secret in it."""
        return asdict(self)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Account:
        """What :meth:`plain` gave; keys of newer versions are passed over."""
        known = {key: stored[key] for key in cls.__dataclass_fields__ if key in stored}
        roles = tuple((role, database) for role, database in stored["roles"])
        return cls(**{**known, "groups": tuple(stored["groups"]), "roles": roles})


def slug(name: str) -> str:
    """A name as a part of files' and units' names; two names never share one."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def asked(
    name: str,
    stack: str,
    host: str,
    by: str,
    reason: str,
    valid_for: int,
    groups: Iterable[str] = (),
    roles: Iterable[str | Mapping[str, str]] = (),
    now: datetime | None = None,
) -> Account:
    """The account that somebody asks for.

    Raises :class:`~saltext.openhim.errors.Refused` with everything that is wrong.
    """
    groups = [groups] if isinstance(groups, str) else list(groups or ())
    problems = []
    for key, value, what in (("by", by, "who opens it"), ("reason", reason, "why")):
        if not isinstance(value, str) or not value.strip():
            problems.append(f"{key}: found {value!r}; say {what}, for the record")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append(f"name: found {name!r}; a user's name or e-mail address in small letters")
    elif groups and "@" not in name:
        problems.append(f"name: found {name!r}; OpenHIM's users are e-mail addresses")
    if isinstance(valid_for, bool) or not isinstance(valid_for, int) or valid_for < 1:
        problems.append(f"valid_for: found {valid_for!r}; a whole number of seconds is needed")
    elif valid_for > LONGEST:
        problems.append(
            f"valid_for: found {valid_for} s; {LONGEST} s (a week) is the longest. What lasts "
            "longer is no emergency: declare a user"
        )
    if not groups and not roles:
        problems.append("found neither groups (of OpenHIM) nor roles (of MongoDB): for what is it?")
    if problems:
        raise Refused("no account was opened:\n" + "\n".join(problems))
    begin = (now or datetime.now(timezone.utc)).replace(microsecond=0)
    return Account(
        name,
        stack,
        host,
        by,
        reason,
        valid_for,
        begin.isoformat(),
        (begin + timedelta(seconds=valid_for)).isoformat(),
        tuple(groups),
        users.normalized(roles or (), "admin"),
    )


def differences(there: Account, wanted: Account) -> list[str]:
    """In what a request differs from the account that is there, in words."""
    return [
        f"{key}: it has {getattr(there, key)!r}, asked for is {getattr(wanted, key)!r}"
        for key in ("valid_for", "by", "reason", "groups", "roles", "recipient")
        if getattr(there, key) != getattr(wanted, key)
    ]


def require_same(there: Account, wanted: Account) -> None:
    """Raises :class:`~saltext.openhim.errors.Refused` unless the same is asked for again.

    An account is never made longer or mightier: who needs that closes it and opens another one,
    and so says why.
    """
    if found := differences(there, wanted):
        raise Refused(
            f"the account {there.name} was {there.words}; it is not extended or changed: "
            + "; ".join(found)
            + ". Remove it (openhim_break_glass.absent), and open another one"
        )


def require_new(wanted: Account, entries: Iterable[Mapping[str, Any]]) -> None:
    """Raises :class:`~saltext.openhim.errors.Refused` when the same was opened before, and ended.

    A state that stays in a tree must not open the account again at every run.
    """
    for one in entries:
        same = all(one.get(key) == getattr(wanted, key) for key in ("name", "by", "reason"))
        if same and one.get("what") == "closed":
            raise Refused(
                f"the account {wanted.name} was opened for this reason before, and ended at "
                f"{one['at']}; it is not opened again by the same words. If it is needed again, "
                "say in `reason` why"
            )
