"""A dead lock keeps slices from being removed once, and not for ever; mocked: what restic does."""

from types import SimpleNamespace

import pytest
from saltext.openhim.backup.failures import Locked
from saltext.openhim.backup.oplog import tidy
from saltext.openhim.backup.repository import Repository


@pytest.mark.parametrize(("confirm", "unlocked"), [(True, 1), (False, 0)])
def test_a_dead_lock_is_removed_once_and_only_where_it_is_confirmed(monkeypatch, confirm, unlocked):
    asked = []

    def freed(*_):
        asked.append("free")
        raise Locked("still")

    monkeypatch.setattr(tidy, "_freed", freed)
    monkeypatch.setattr(Repository, "unlock_stale", lambda _: asked.append("unlock"))
    store = SimpleNamespace(repository=Repository("/nowhere", "a password"))
    with pytest.raises(Locked, match="still"):
        tidy._tidied(store, {}, confirm)
    assert asked == ["free", *["unlock", "free"] * unlocked]
