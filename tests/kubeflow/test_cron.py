"""Cron expressions: the next times against a clock that is read second by second, and what is said of them."""

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from model.errors import InputError
from pipelines.kubeflow.cron import Cron, interval_words, parse_interval

BERLIN = ZoneInfo("Europe/Berlin")
EVERY_DAY = [("*", set(range(first, last)), True) for first, last in ((1, 32), (1, 13), (0, 7))]


@st.composite
def fields(draw, least: int, greatest: int) -> tuple[str, set[int], bool]:
    """A field as text, the values that it holds, and whether it has a star."""
    text, values, star = [], set(), False
    for kind in draw(st.lists(st.sampled_from(["one", "span", "star", "step", "from"]), min_size=1, max_size=3)):
        low = draw(st.integers(least, greatest))
        high, step = draw(st.integers(low, greatest)), draw(st.integers(1, greatest))
        part, found = {
            "one": (f"{low}", range(low, low + 1)),
            "span": (f"{low}-{high}", range(low, high + 1)),
            "star": ("*", range(least, greatest + 1)),
            "step": (f"*/{step}", range(least, greatest + 1, step)),
            "from": (f"{low}/{step}", range(low, greatest + 1, step)),
        }[kind]
        text.append(part)
        values |= set(found)
        star = star or part.startswith("*")
    return ",".join(text), values, star


def comes_true(at: datetime, hours, minutes, days, months, weekdays, by_either: bool) -> bool:
    of_month, of_week = at.day in days, at.isoweekday() % 7 in weekdays
    day = of_month or of_week if by_either else of_month and of_week
    return at.minute in minutes and at.hour in hours and at.month in months and day


@given(
    fields(0, 59),
    fields(0, 23),
    fields(1, 31),
    fields(1, 12),
    fields(0, 6),
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    st.sampled_from([UTC, BERLIN, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("America/St_Johns")]),
)
@example(("30", {30}, False), ("2", {2}, False), *EVERY_DAY, datetime(2026, 3, 28, tzinfo=UTC), BERLIN)
@example(("30", {30}, False), ("2", {2}, False), *EVERY_DAY, datetime(2026, 10, 24, tzinfo=UTC), BERLIN)
def test_the_next_times_are_those_of_a_clock_read_minute_by_minute(minute, hour, day, month, weekday, after, zone):
    expression = " ".join(field[0] for field in (minute, hour, day, month, weekday))
    assume(min(day[1]) <= max(monthrange(2024, number)[1] for number in month[1]))
    cron = Cron.parse(expression)
    by_either = not (day[2] or weekday[2])
    window = timedelta(days=3)
    start = after.replace(second=0, microsecond=0)
    clock = (start + timedelta(minutes=number) for number in range(1, int(window.total_seconds()) // 60))
    expected = [
        at
        for at in clock
        if comes_true(at.astimezone(zone), hour[1], minute[1], day[1], month[1], weekday[1], by_either)
    ]
    found = []
    for at in cron.times(start, zone):
        if at >= start + window:
            break
        found.append(at)
    assert found == expected


@given(st.lists(fields(0, 59), min_size=2, max_size=2), fields(0, 23), fields(1, 31), fields(1, 12), fields(0, 6))
def test_what_is_sent_to_kubeflow_means_the_same_and_is_told_in_one_line(low, hour, day, month, weekday):
    try:
        cron = Cron.parse(" ".join(field[0] for field in (*low, hour, day, month, weekday)))
    except InputError:
        return
    assert len(cron.text.split()) == 6
    assert Cron.parse(cron.text) == cron
    assert cron.words() and "\n" not in cron.words()


@pytest.mark.parametrize(
    ("expression", "sent", "words"),
    [
        ("30 2 * * mon", "0 30 2 * * 1", "at 02:30 on every Monday"),
        ("0 2 * * 7", "0 0 2 * * 0", "at 02:00 on every Sunday"),
        ("0 2 * * 5-7", "0 0 2 * * 0,5,6", "at 02:00 on every Friday, Saturday and Sunday"),
        ("0 0 2 * * 1-5", "0 0 2 * * 1-5", "at 02:00 on Monday to Friday"),
        ("15 30 2 ? * MON", "15 30 2 * * 1", "at 02:30:15 on every Monday"),
        ("*/15 * * * *", "0 */15 * * * *", "every 15 minutes"),
        ("* * * * *", "0 * * * * *", "every minute"),
        ("0 */2 * * *", "0 0 */2 * * *", "every 2 hours"),
        ("5 * * * *", "0 5 * * * *", "minute 5 of every hour"),
        ("0 8-17 * * *", "0 0 8-17 * * *", "minute 0 of hours 8 to 17"),
        ("0 2 1 * mon", "0 0 2 1 * 1", "at 02:00 on day 1 of the month and also on every Monday"),
        ("0 2 */10 * mon", "0 0 2 */10 * 1", "at 02:00 on days 1, 11, 21 and 31 of the month, only if it is a Monday"),
        (
            "0 2,14 1,15 jan,jul *",
            "0 0 2,14 1,15 1,7 *",
            "at 02:00 and 14:00 on days 1 and 15 of the month in January and July",
        ),
        ("@daily", "0 0 0 * * *", "at 00:00 on every day"),
    ],
)
def test_an_expression_is_sent_with_six_fields_and_told_in_words(expression: str, sent: str, words: str):
    cron = Cron.parse(expression)
    assert (cron.text, cron.words()) == (sent, words)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("* * *", "has 3 fields; give five (minute hour day month weekday"),
        ("61 * * * *", "'61' is out of the minutes; give 0 to 59"),
        ("0 25 * * *", "'25' is out of the hours"),
        ("0 0 * * 8", "'8' is out of the weekdays; give 0 to 6, or sun to sat"),
        ("0 0 * foo *", "'foo' is no month; give 1 to 12, or jan to dec"),
        ("5-1 * * * *", "'5-1' runs backwards"),
        ("*/0 * * * *", "the step of '*/0' is no number from 1"),
        ("0 0 31 2 *", "never comes true"),
        ("TZ=UTC 0 0 1 1 *", "'TZ=UTC' is no second"),
        (", * * * *", "'' is no minute"),
    ],
)
def test_what_is_no_cron_expression_is_told_in_one_line(expression: str, said: str):
    with pytest.raises(InputError) as refused:
        Cron.parse(expression)
    assert said in str(refused.value) and repr(expression) in str(refused.value)


def test_the_29th_of_february_is_found():
    cron = Cron.parse("0 0 29 2 *")
    found = list(islice(cron.times(datetime(2025, 1, 1, tzinfo=UTC)), 1))
    assert found == [datetime(2028, 2, 29, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("text", "seconds", "words"),
    [
        ("24h", 86400, "every 24 hours"),
        ("90m", 5400, "every 90 minutes"),
        ("1w", 604800, "every week"),
        ("60s", 60, "every minute"),
        ("2d", 172800, "every 2 days"),
    ],
)
def test_intervals(text: str, seconds: int, words: str):
    assert parse_interval(text) == seconds
    assert interval_words(seconds) == words


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "30s", "1.5h", "0m", "1h30m", "٣h"])
def test_what_is_no_interval_is_refused(text: str):
    with pytest.raises(InputError, match="no interval from a minute on"):
        parse_interval(text)
