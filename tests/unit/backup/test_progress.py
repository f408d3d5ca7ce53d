"""Progress is told every five seconds, with what a person wants to know."""

from saltext.openhim.backup.progress import Progress, Reporter


def reporter(total, told):
    now = [100.0]
    return Reporter(told.append, total, lambda: now[0]), now


def test_at_most_every_five_seconds():
    told = []
    report, now = reporter(1000, told)
    for _ in range(100):
        now[0] += 0.5
        report.add("openhim.users", 10)
    assert 9 <= len(told) <= 11


def test_it_has_rate_and_time_left():
    told = []
    report, now = reporter(1000, told)
    now[0] += 2
    report.add("openhim.users", 200)
    assert told == [Progress("openhim.users", 200, 1000, 100.0, 8.0)]


def test_the_last_word_says_that_nothing_is_left_however_wrong_the_estimate_was():
    told = []
    report, now = reporter(1000, told)
    now[0] += 1
    report.add("a.b", 1500)
    report.finish("a.b")
    assert told[-1] == Progress("a.b", 1500, 1500, 1500.0, 0.0)


def test_without_a_total_there_is_no_time_left():
    told = []
    report, now = reporter(0, told)
    now[0] += 1
    report.add("a.b", 5)
    assert (told[0].total_bytes, told[0].seconds_left) == (None, None)


def test_nobody_needs_to_listen():
    report = Reporter(None, 5)
    report.add("a.b", 5)
    report.finish("a.b")
    assert report.done_bytes == 5
