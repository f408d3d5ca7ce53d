"""Reading ahead: in order, in bounded memory, and with every error told."""

import threading
import time

import pytest
from saltext.openhim.backup import ahead


class Source:
    def __init__(self, items, gate=None):
        self.items, self.gate = items, gate
        self.given = self.alive = self.closed = 0

    def __iter__(self):
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            self.given += 1
            yield item

    def keep_alive(self):
        self.alive += 1

    def close(self):
        self.closed += 1


def reading(sources, limit=10, workers=2):
    return ahead.ReadAhead(sources, len, limit, workers)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("limit", [0, 3, 100])
def test_all_items_come_in_order_whatever_the_room(workers, limit):
    sources = [Source([f"{n}{i}" for i in range(20)]) for n in range(7)]
    read = reading(sources, limit, workers)
    found = [item for n in range(7) for item in read.take(n)]
    read.close()
    assert found == [item for source in sources for item in source.items]
    assert all(source.closed == 1 for source in sources)


def test_what_waits_is_bounded(monkeypatch):
    sources = [Source(["xx"] * 50) for _ in range(3)]
    monkeypatch.setattr(ahead, "IDLE", 0.01)
    read = reading(sources, limit=10, workers=2)
    first = read.take(0)
    next(first)
    while not (sources[0].alive and sources[1].alive):
        threading.Event().wait(0.001)
    # Ten units wait: five items. Each worker has one more in its hand, and one was taken.
    assert sources[0].given + sources[1].given <= 5 + 2 + 1
    assert sources[2].given == 0
    read.close()


def test_who_waits_long_says_that_it_is_still_there(monkeypatch):
    monkeypatch.setattr(ahead, "IDLE", 0.01)
    source = Source(["xx"] * 3)
    read = reading([source], limit=0, workers=1)
    while source.alive < 2:
        threading.Event().wait(0.001)
    assert list(read.take(0)) == ["xx"] * 3
    read.close()


def test_who_waits_long_says_so_though_others_are_served_meanwhile(monkeypatch):
    monkeypatch.setattr(ahead, "IDLE", 0.3)
    waiting = Source(["xx"])
    read = reading([Source(["xx"] * 100_000), waiting], limit=0)
    deadline = time.monotonic() + 10
    for taken in read.take(0):
        assert taken == "xx" and time.monotonic() < deadline
        threading.Event().wait(0.001)
        if waiting.alive:
            break
    else:
        pytest.fail("it never said so")
    read.close()


def test_who_says_so_slowly_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(ahead, "IDLE", 0.001)
    asked, answer = threading.Event(), threading.Event()

    class Slow(Source):
        def keep_alive(self):
            asked.set()
            assert answer.wait(20)

    gate = threading.Event()

    class Gated(Source):
        def __iter__(self):
            assert gate.wait(20)
            yield from super().__iter__()

    read = reading([Gated(["a"] * 3), Slow(["b"])], limit=0)
    assert asked.wait(20)
    gate.set()
    found = []
    taker = threading.Thread(target=lambda: found.extend(read.take(0)))
    taker.start()
    taker.join(10)
    told = list(found)
    answer.set()
    taker.join()
    read.close()
    assert told == ["a"] * 3


def test_an_error_comes_after_what_was_read_before_it_and_only_there():
    read = reading([Source(["a", KeyError("lost")]), Source(["b"])])
    first = read.take(0)
    assert next(first) == "a"
    with pytest.raises(KeyError, match="lost"):
        next(first)
    assert list(read.take(1)) == ["b"]
    read.close()


def test_closing_early_ends_the_threads_and_the_sources():
    sources = [Source(["xx"] * 100) for _ in range(3)]
    read = reading(sources, limit=4)
    next(read.take(0))
    read.close()
    assert not any(thread.is_alive() for thread in read._threads)
    assert [source.closed for source in sources[:2]] == [1, 1]
