"""What restic's sentences mean. Each is as restic 0.14 printed it; no secret gets through."""

import pytest
from saltext.openhim.backup import failures
from saltext.openhim.backup.failures import (
    AccessDenied,
    AppendOnly,
    Damaged,
    Full,
    Locked,
    LockGone,
    NoRepository,
    NotStored,
    ReadOnly,
    RepositoryError,
    RepositoryUnreachable,
    WrongPassword,
)

MISSING = "Is there a repository at the following location?\nrest:http://u:***@h/"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (WrongPassword, "Fatal: wrong password or no key found"),
        (NoRepository, f"Fatal: unable to open config file: <config/> does not exist\n{MISSING}"),
        (NoRepository, f"Fatal: unable to open config file: stat r/config: no such file\n{MISSING}"),
        (NoRepository, f"unable to open config file: Stat: The specified bucket does not exist\n{MISSING}"),
        (
            RepositoryUnreachable,
            'unable to open config file: client.Head: Head "http://h/config": dial tcp 127.0.0.1:9: '
            f"connect: connection refused\n{MISSING}",
        ),
        (
            RepositoryUnreachable,
            "subprocess ssh: ssh: connect to host h port 9: Connection refused\n"
            "Fatal: unable to open repository at sftp:h:/x: unable to start the sftp session, error: EOF",
        ),
        (AccessDenied, f"unable to open config file: unexpected HTTP response (401): 401 U\n{MISSING}"),
        (AccessDenied, "subprocess ssh: root@h: Permission denied (publickey)."),
        (AccessDenied, "subprocess ssh: Host key verification failed."),
        (AppendOnly, "Remove(<snapshot/d6>) failed: blob not removed, server response: 403 Forbidden (403)"),
        (Full, "Fatal: unable to save snapshot: write r/data/43/x: no space left on device"),
        (ReadOnly, "open r/locks/1: read-only file system\nunable to create lock in backend"),
        (Locked, "unable to create lock in backend: repository is already locked by PID 1 on vm"),
        (NotStored, 'cannot dump file: path "/nofile" not found in snapshot'),
        (NotStored, 'invalid id "dead": no matching ID found for prefix "dead"'),
        (Damaged, "cannot dump file: decrypting blob 7d failed: ciphertext verification failed"),
        (Damaged, "Fatal: load <index/3c>: invalid data returned"),
        (Damaged, "could not load snapshot 49: load <snapshot/49>: invalid data returned"),
        (Damaged, "pack 3f: does not exist\nFatal: repository contains errors"),
        (Damaged, "config file has zero size, invalid repository?"),
        (RepositoryError, "Fatal: something that nobody has seen yet"),
        (RepositoryError, ""),
    ],
)  # fmt: skip
def test_each_cause_has_its_own_error(kind, text):
    error = failures.failure("somewhere", text, 1)
    assert type(error) is kind
    assert str(error).startswith("somewhere: ")


@pytest.mark.parametrize(
    ("code", "kind"), [(10, NoRepository), (11, Locked), (12, WrongPassword), (1, RepositoryError)]
)
def test_codes_of_newer_versions_count_more_than_words(code, kind):
    assert type(failures.failure("somewhere", "words of a later version", code)) is kind


RETRY = "returned error, retrying after 1.5s: "


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (f"Save(<data/1>) {RETRY}write x: no space left on device", Full),
        (f"Save(<lock/1>) {RETRY}open x: read-only file system", ReadOnly),
        (f"Remove(<snapshot/1>) {RETRY}blob not removed, server response: 403", AppendOnly),
        (f"Load(<data/1>, 1, 2) {RETRY}open r/data/1: no such file or directory", Damaged),
        (f"Load(<data/1>, 1, 2) {RETRY}ReadFull: unexpected EOF", Damaged),
        (f"Load(<lock/1>, 0, 0) {RETRY}open r/locks/1: no such file or directory", LockGone),
        (f"Load(<lock/1>, 0, 0) {RETRY}<lock/1> does not exist", LockGone),
        (f"Load(<lock/1>, 0, 0) {RETRY}The specified key does not exist.", LockGone),
        (f"Load(<lock/1>, 0, 0) {RETRY}dial tcp: connection refused", None),
        (f"Save(<data/1>) {RETRY}open r/data/1: not a directory", Damaged),
        (f"Save(<data/1>) {RETRY}dial tcp: connection refused", None),
        ("write x: no space left on device", None),
    ],
)
def test_only_what_cannot_succeed_is_not_retried(line, kind):
    found = failures.final("/srv/repository", line)
    assert (type(found) if found else None) is kind


@pytest.mark.parametrize(
    ("retried", "last", "kind"),
    [
        (
            "connection reset by peer",
            "cannot dump file: decrypting blob 7d failed: ciphertext verification failed",
            Damaged,
        ),
        ("connection reset by peer", "Fatal: load <index/3c>: invalid data returned", Damaged),
        ("connection reset by peer", "Fatal: wrong password or no key found", WrongPassword),
        ("connection reset by peer", "Fatal: ReadFull: unexpected EOF", RepositoryUnreachable),
        ("connection reset by peer", "Fatal: context canceled", RepositoryUnreachable),
        ("no space left on device", "Fatal: unable to save snapshot: context canceled", Full),
        ("ReadFull: unexpected EOF", "Fatal: context canceled", Damaged),
    ],
)
def test_why_it_ended_counts_more_than_what_was_tried_before(retried, last, kind):
    text = f"Load(<data/7d>, 1, 2) {RETRY}{retried}\n{last}"
    assert type(failures.failure("somewhere", text, 1)) is kind


@pytest.mark.parametrize("said", ["unexpected EOF", "open /r/data/1: not a directory"])
def test_over_a_network_what_may_be_the_line_is_retried(said):
    line = f"Load(<data/1>, 1, 2) {RETRY}{said}"
    assert failures.final("rest:http://h/", line) is None


def test_no_secret_is_in_a_message():
    text = "Fatal: rest:http://user:p4ss@h/: cannot use key-of-s3 with the-password\n"
    text += "github.com/restic/restic/cmd.main\n\t/build/main.go:98\nruntime.goexit\n"
    error = str(failures.failure("r", text, 1, ["the-password", "key-of-s3", ""]))
    assert error.endswith("(restic: Fatal: rest:http://user:***@h/: cannot use *** with ***)")
