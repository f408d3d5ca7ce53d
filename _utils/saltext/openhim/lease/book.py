"""What a witness has granted: kept on its disk before it answers, and counted by its own clock.

All times are seconds of CLOCK_BOOTTIME, which nobody can set and which goes on while a host is
suspended. It begins anew with each boot; then what was granted before was granted before the boot,
so it counts from the boot's beginning: never too short. A book that is not there, or cannot be
read, may have held a lease for anybody until now.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from saltext.openhim import gate
from saltext.openhim.errors import OpenHIMError

FILE = "/var/lib/openhim-witness/granted.json"


@dataclass(frozen=True)
class Given:
    """The newest lease of one host.

    site: its site; None for whoever may hold one that this witness does not know of. at: when it
    was granted. seconds: for how long; 0 once it was given back.
    """

    host: str
    site: str | None
    at: float
    seconds: float

    @property
    def until(self) -> float:
        """When it ends, by the clock of the witness."""
        return self.at + self.seconds


@dataclass(frozen=True)
class Book:
    """All that a witness has granted, the newest lease of each host."""

    given: tuple[Given, ...]

    def granted(self, given: Given) -> Book:
        """The book with one more lease."""
        return Book((*(one for one in self.given if one.host != given.host), given))

    def left(self, site: str, now: float, holders: Collection[str] = ()) -> float | None:
        """Seconds until the last lease of a site ends, negative once it has.

        holders: hosts of the site that must each have been granted one.

        None when it is not known: this witness has never granted one to the site, which does not
        mean that nobody has. Or it never has to one of the ``holders``: a host that never held a
        lease is open without one.
        """
        own = [one for one in self.given if one.site == site]
        if not own or set(holders) - {one.host for one in own}:
            return None
        return max(one.until - now for one in self.given if one.site in (site, None))

    def elsewhere(self, site: str, now: float, max_skew: float) -> float:
        """Seconds until no other site than this one can hold a lease; 0 when none can."""
        ends = [one.until - now + max_skew for one in self.given if one.site != site]
        return max([0.0, *ends])

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that were ever granted a lease."""
        return tuple(sorted({one.site for one in self.given if one.site is not None}))


def now() -> float:
    """The clock of all leases, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot() -> str:
    """Which boot this is."""
    return Path(gate.BOOT_ID).read_text(encoding="ascii").strip()


def read(path: str = FILE) -> Book:
    """The book as it is on the disk, in times of this boot.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when there is none, or it cannot be read.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        book = Book(tuple(_given(entry) for entry in found["given"]))
        written_in = str(found["boot"])
    except FileNotFoundError:
        raise OpenHIMError(
            f"{path} is not there: this witness has never granted a lease, and does not know who "
            "holds one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OpenHIMError(
            f"{path}, what this witness has granted, cannot be read ({error!r}), so it does not "
            "know who holds a lease"
        ) from error
    if written_in == boot():
        return book
    return Book(tuple(replace(given, at=0.0) for given in book.given))


def begun(seconds: float, path: str = FILE) -> tuple[Book, str | None]:
    """The book with which a witness begins, and what was wrong with the one on the disk.

    seconds: for how long somebody may hold a lease of whom a lost book would have told.
    """
    try:
        return read(path), None
    except OpenHIMError as error:
        return Book((Given("", None, now(), seconds),)), str(error)


def write(book: Book, path: str = FILE) -> None:
    """Keeps the book: it is on the disk when this returns."""
    plain = {"boot": boot(), "given": [asdict(given) for given in book.given]}
    gate.write(Path(path), json.dumps(plain, indent=1) + "\n")


def _given(entry: Mapping[str, Any]) -> Given:
    site = entry["site"]
    return Given(
        str(entry["host"]),
        None if site is None else str(site),
        float(entry["at"]),
        float(entry["seconds"]),
    )
