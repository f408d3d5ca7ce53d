"""What can be wrong with a repository, each in its own words.

restic 0.14 ends with code 1 whatever happened and says why in its error output; from 0.17 on some
codes have a meaning of their own. Here is what its sentences mean, and what to do then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from saltext.openhim.errors import OpenHIMError, Refused, Unauthorized, Unreachable


class RepositoryError(OpenHIMError):
    """Something about a repository; the subclasses say what."""


class ResticMissing(RepositoryError):
    """The restic program is not installed on this host."""


class WrongPassword(RepositoryError, Unauthorized):
    """No key of the repository opens with the password."""


class AccessDenied(RepositoryError, Unauthorized):
    """The storage does not accept the credentials, or does not let them do this."""


class NoRepository(RepositoryError):
    """The storage answers, and there is no repository at that place."""


class RepositoryUnreachable(RepositoryError, Unreachable):
    """The storage does not answer, or no longer."""


class ReadOnly(RepositoryError):
    """The storage takes no writes."""


class AppendOnly(RepositoryError, Refused):
    """The storage lets these credentials add, and not delete or change."""


class Full(RepositoryError):
    """The storage has no room left."""


class Locked(RepositoryError):
    """Another process holds the repository; or one died and left its lock."""


class LockGone(Locked):
    """Another process took its lock away just as it was to be read; asked again, it is no more."""


class Damaged(RepositoryError):
    """The repository, or what was read from it, is not what was stored."""


class NotStored(RepositoryError):
    """The repository holds no such snapshot, or no such file in it."""


# The order counts: an earlier one explains what a later one would only describe.
_CAUSES: tuple[tuple[type[RepositoryError], tuple[str, ...]], ...] = (
    (WrongPassword, (r"wrong password or no key found",)),
    (
        Full,
        (
            r"no space left on device",
            r"disk quota exceeded",
            r"quota ?exceeded",
            r"insufficient storage",
            r"StorageFull",
            r"response \(507\)",
        ),
    ),
    (ReadOnly, (r"read-only file system",)),
    (
        AppendOnly,
        (r"(Remove\(|not removed|DeleteObject|unable to remove).*(403|Forbidden|denied)",),
    ),
    (
        AccessDenied,
        (
            r"response( \(|: )40[13]",
            r"Forbidden",
            r"Access ?Denied",
            r"SignatureDoesNotMatch",
            r"InvalidAccessKeyId",
            r"Access Key Id",
            r"Permission denied",
            r"Host key verification failed",
            r"no credentials",
            r"x509",
        ),
    ),
    (
        RepositoryUnreachable,
        (
            r"connection refused",
            r"no such host",
            r"i/o timeout",
            r"connection reset",
            r"no route to host",
            r"network is (unreachable|down)",
            r"broken pipe",
            r"unable to start the sftp session",
            r"ssh: connect to host",
            r"subprocess ssh",
            r"deadline exceeded",
            r"handshake timeout",
            r"timed out",
            r"Could not resolve hostname",
            r"connection (closed|lost)",
            r"server misbehaving",
            r"response \(50\d\)",
            r"Client\.Timeout",
            r"ssh command exited",
            r"(Get|Put|Post|Head|Delete) \"http\S+: EOF",
            r"http.*unexpected EOF",
        ),
    ),
    (Locked, (r"already locked", r"unable to create lock")),
    (
        NoRepository,
        (
            r"unable to open config file",
            r"Is there a repository at the following",
            r"bucket does not exist",
            r"repository does not exist",
        ),
    ),
    (
        NotStored,
        (r"no matching ID", r"not found in snapshot", r"no snapshot found", r"invalid id"),
    ),
    (
        Damaged,
        (
            r"ciphertext verification failed",
            r"invalid data returned",
            r"contains errors",
            r"invalid repository",
            r"ID does not match",
            r"does not exist",
            r"no such file",
            r"hash (does not match|mismatch)",
            r"not found in",
            r"panic:",
            r"invalid character",
            r"decompress",
            r"ReadFull",
            r"unmarshal",
            r"EOF",
            r"could not load",
        ),
    ),
)
_CODES: dict[int, type[RepositoryError]] = {10: NoRepository, 11: Locked, 12: WrongPassword}

_WORDS: dict[type[RepositoryError], str] = {
    WrongPassword: (
        "wrong password: no key of the repository opens with it. "
        "Check the secret that the repository is declared with; the recovery key opens it too"
    ),
    AccessDenied: (
        "the storage does not accept this host's credentials, or does not let them do this. "
        "Check them, and the storage's certificate or host key"
    ),
    NoRepository: (
        "there is no repository here. Check its location (and that its disk is mounted), "
        "or initialise it if it is new"
    ),
    RepositoryUnreachable: (
        "the storage cannot be reached; check the network and the storage's server"
    ),
    ReadOnly: "the storage is read-only: nothing can be stored or removed. Make it writable",
    AppendOnly: (
        "the storage lets these credentials add and not delete: it is append-only. "
        "Remove from where the credential for pruning is"
    ),
    Full: "the storage is full. Make room (prune, or a larger disk), and do it again",
    Locked: (
        "the repository is locked by another process. Wait for it; "
        "if that process died, remove its stale lock"
    ),
    LockGone: "another process ended just as its lock was to be read. Do it again",
    Damaged: (
        "the repository is damaged: what it holds is not what was stored. "
        "Use another repository, and check this one with all its data"
    ),
    NotStored: "the repository does not hold that snapshot, or not that file in it",
    RepositoryError: "restic failed",
}

_RETRYING = re.compile(r"returned error, retrying")
_EOF = re.compile(r"EOF|ReadFull", re.IGNORECASE)
#: What no retry changes.
_FINAL = (Full, ReadOnly, AppendOnly, AccessDenied)
_CONTENTS_MISSING = re.compile(
    r"Load\(<(data|index)/.*(no such file|does not exist|not found)", re.IGNORECASE
)
#: Until 0.17 restic looks 43 s for a lock that another process took away (its issue 1523).
_LOCK_GONE = re.compile(
    r"Load\(<lock/.*(no such file|does not exist|not found|NoSuchKey)", re.IGNORECASE
)
#: A file is where a folder of the repository should be; over a network others may see to it.
_IN_THE_WAY = re.compile(r"(Save|Load)\(<\w+/.*not a directory")
#: From a disk that is final; over a network it may be the line.
_CUT_SHORT = re.compile(r"Load\(<(data|index)/.*EOF")
_REMOTE = re.compile(r"(sftp|rest|s3|b2|azure|gs|swift|rclone):")
#: Lines of Go's stack traces.
_TRACE = re.compile(r"(github\.com|golang\.org|runtime|main|goroutine)\b\S*|\S+\.go:\d+")


def cause(text: str, code: int | None = None) -> type[RepositoryError]:
    """What restic's error output and exit code mean."""
    if code in _CODES:
        return _CODES[code]
    # What was tried again is past; what restic said at the end is why it ended. But the end of a
    # stream alone says little: what was tried before may tell whose fault that was.
    last = "\n".join(line for line in text.splitlines() if not _RETRYING.search(line))
    kind = _described(last)
    return _described(text) if kind is RepositoryError or _vague(kind, last) else kind


def _vague(kind: type[RepositoryError], text: str) -> bool:
    return kind is Damaged and _described(_EOF.sub("", text)) is RepositoryError


def _described(text: str) -> type[RepositoryError]:
    for kind, patterns in _CAUSES:
        if any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns):
            return kind
    return RepositoryError


def failure(
    where: str, text: str, code: int | None = None, secrets: Sequence[str] = ()
) -> RepositoryError:
    """The error to raise for what restic said; nothing of ``secrets`` is in it."""
    return _worded(cause(text, code), where, text, code, secrets)


def final(where: str, line: str, secrets: Sequence[str] = ()) -> RepositoryError | None:
    """The error, when a line says that restic retries what cannot succeed; else None."""
    if not _RETRYING.search(line):
        return None
    if _LOCK_GONE.search(line):
        return _worded(LockGone, where, line, None, secrets)
    on_disk = _CUT_SHORT.search(line) or _IN_THE_WAY.search(line)
    damaged = bool((on_disk and not _REMOTE.match(where)) or _CONTENTS_MISSING.search(line))
    kind = Damaged if damaged else cause(line)
    if not damaged and kind not in _FINAL:
        return None
    return _worded(kind, where, line, None, secrets)


def scrubbed(text: str, secrets: Sequence[str] = ()) -> str:
    """The text without secrets, and without passwords in URLs."""
    for secret in sorted({one for one in secrets if len(one) > 3}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"(\w+://[^/@\s:]*):[^/@\s]+@", r"\1:***@", text)


def said(text: str) -> str:
    """The lines that say something: neither Go's stack traces nor repeated retries."""
    lines: list[str] = []
    for raw in text.splitlines():
        line = re.sub(r"\x1b\[[0-9;]*\w", "", raw).strip()
        if not line or _TRACE.match(line) or line.startswith("{") or line in lines:
            continue
        if _RETRYING.search(line) and any(_RETRYING.search(old) for old in lines):
            continue
        lines.append(line)
    return "; ".join(lines[:6])[:1000]


def _worded(
    kind: type[RepositoryError], where: str, text: str, code: int | None, secrets: Sequence[str]
) -> RepositoryError:
    words = scrubbed(said(text), secrets)
    tail = f" (restic: {words})" if words else f" (restic ended with code {code})"
    return kind(f"{where}: {_WORDS[kind]}{tail}")
