"""The table of the examples that are not typed as they are written has no entry for nothing."""

import pytest

from tests.lab import examples
from tests.unit.docs import written

SHOWN = written.examples()


def test_examples_are_found_in_lists_too_and_each_once():
    typed = [one.typed for one in SHOWN]
    assert "salt '*-db*' state.highstate" in typed
    assert len(set(typed)) == len(typed) > 70


@pytest.mark.parametrize("entry", examples.TABLE, ids=lambda one: one.begins[:60])
def test_an_entry_says_why_and_fits_an_example(entry):
    assert entry.why
    fits = [one for one in SHOWN if examples.otherwise(one) is entry]
    assert fits, f"no example begins with {entry.begins}"
    for one in fits:
        assert set(entry.instead) <= set(one.words)


def test_what_acts_is_only_previewed():
    for one in SHOWN:
        typed = examples.typed(one, {})
        acts = any(word in examples.PREVIEWED for word in typed)
        assert ("test=True" in typed) is acts or "test=True" in one.words
