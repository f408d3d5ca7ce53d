"""A dead lock keeps slices from being removed once, and not for ever; mocked: the repository."""

from types import SimpleNamespace

import pytest
from saltext.openhim.backup.failures import Locked
from saltext.openhim.backup.oplog import tidy


@pytest.mark.parametrize(("confirm", "unlocked"), [(True, 1), (False, 0)])
def test_a_dead_lock_is_removed_once_and_only_where_it_is_confirmed(monkeypatch, confirm, unlocked):
    asked = []

    def tidied(*_):
        asked.append("tidy")
        raise Locked("still")

    monkeypatch.setattr(tidy, "_tidied", tidied)
    repository = SimpleNamespace(unlock_stale=lambda: asked.append("unlock"))
    with pytest.raises(Locked, match="still"):
        tidy._freed(SimpleNamespace(repository=repository), {}, confirm)
    assert asked == ["tidy", *["unlock", "tidy"] * unlocked]
