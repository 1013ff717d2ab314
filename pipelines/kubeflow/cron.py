"""When a schedule runs: cron expressions as Kubeflow's scheduler reads them, in words and as the next times."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise

from model.errors import InputError

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_HORIZON = 29 * 366  # days, in which every day of the year has been every weekday
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True)
class _Field:
    """One of the six places of an expression: its name, least and greatest value, and the names of values."""

    name: str
    least: int
    greatest: int
    names: tuple[str, ...] = ()

    def number(self, text: str, expression: str) -> int:
        short = [name[:3].lower() for name in self.names]
        if text.lower() in short:
            return short.index(text.lower()) + self.least
        if not re.fullmatch(r"[0-9]{1,4}", text):
            raise InputError(f"cron {expression!r}: {text!r} is no {self.name}; {self.allowed()}")
        return int(text)

    def allowed(self) -> str:
        names = f", or {self.names[0][:3].lower()} to {self.names[-1][:3].lower()}" if self.names else ""
        return f"give {self.least} to {self.greatest}{names}, *, a-b, a,b or */n"

    def values(self, text: str, expression: str) -> frozenset[int]:
        return frozenset(value for part in text.split(",") for value in self._part(part, expression))

    def _part(self, part: str, expression: str) -> range:
        span, slash, step_text = part.partition("/")
        low, dash, high = span.partition("-")
        step = 1
        if slash:
            if not re.fullmatch(r"[0-9]{1,4}", step_text) or int(step_text) < 1:
                raise InputError(f"cron {expression!r}: the step of {part!r} is no number from 1; {self.allowed()}")
            step = int(step_text)
        if span in ("*", "?"):
            first, last = self.least, self.greatest
        else:
            first = self.number(low, expression)
            last = self.number(high, expression) if dash else (self.greatest if slash else first)
        # People write Sunday as 7, too; the scheduler knows it only as 0.
        most = self.greatest + (self.name == "weekday")
        if not self.least <= first <= most or not self.least <= last <= most:
            raise InputError(f"cron {expression!r}: {part!r} is out of the {self.name}s; {self.allowed()}")
        if first > last:
            raise InputError(f"cron {expression!r}: {part!r} runs backwards; write the lower {self.name} first")
        return range(first, last + 1, step)


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("weekday", 0, 6, _WEEKDAYS),
)


@dataclass(frozen=True)
class Cron:
    """A parsed expression; `text` has six fields, seconds first, as Kubeflow takes it."""

    text: str
    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool
    """Whether a day of the month or a weekday is enough, as where neither of the two fields has a star."""

    @classmethod
    def parse(cls, expression: str) -> "Cron":
        """Read five fields (minute first, as in crontab), six (second first, as in Kubeflow) or @daily and its like.

        Raises InputError for an expression that is none, or that never comes true.
        """
        fields = _DESCRIPTORS.get(expression.strip(), expression).split()
        if len(fields) == 5:
            # Kubeflow would read five fields as beginning with the seconds.
            fields = ["0", *fields]
        if len(fields) != 6:
            raise InputError(
                f"cron {expression!r} has {len(fields)} fields; give five (minute hour day month weekday, such as "
                "'30 2 * * mon') or six, seconds first"
            )
        values = [field.values(text, expression) for field, text in zip(_FIELDS, fields, strict=True)]
        values[5] = frozenset(day % 7 for day in values[5])
        written = [_written(field, text, found) for field, text, found in zip(_FIELDS, fields, values, strict=True)]
        either = not any(part[0] in "*?" for text in (fields[3], fields[5]) for part in text.split(","))
        seconds, minutes, hours, days, months, weekdays = values
        cron = cls(" ".join(written), seconds, minutes, hours, days, months, weekdays, either)
        first = datetime(2024, 1, 1)
        if not any(cron.on(first + timedelta(days=number)) for number in range(_HORIZON)):
            raise InputError(f"cron {expression!r} never comes true; check its day and month")
        return cron

    def on(self, day: datetime) -> bool:
        """Whether it comes true at some time of that day."""
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (of_month or of_week if self.either else of_month and of_week)

    def times(self, after: datetime, zone: tzinfo = UTC) -> Iterator[datetime]:
        """The times after `after` at which the clocks of `zone` show what was asked for, in UTC.

        Where the clocks go back, an hour is there twice; where they go forward, it is not there.
        """
        today = after.astimezone(zone).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
        for number in range(_HORIZON):
            day = today + timedelta(days=number)
            if self.on(day):
                yield from (time for time in self._of_day(day, zone) if time > after)

    def _of_day(self, day: datetime, zone: tzinfo) -> list[datetime]:
        walls = (
            day.replace(hour=hour, minute=minute, second=second, fold=fold, tzinfo=zone)
            for hour in self.hours
            for minute in self.minutes
            for second in self.seconds
            for fold in (0, 1)
        )
        # A time that the clocks leave out comes back as another one.
        found = {(wall.astimezone(UTC), wall.replace(tzinfo=None, fold=0)) for wall in walls}
        return sorted({at for at, wall in found if at.astimezone(zone).replace(tzinfo=None, fold=0) == wall})

    def words(self) -> str:
        """When it comes true, such as "at 02:30 on every Monday"."""
        return f"{self._time_words()}{self._day_words()}"

    def _time_words(self) -> str:
        if len(self.hours) * len(self.minutes) * len(self.seconds) <= 4:
            clock = "{:02}:{:02}" if self.seconds == {0} else "{:02}:{:02}:{:02}"
            wall = [(h, m, s) for h in sorted(self.hours) for m in sorted(self.minutes) for s in sorted(self.seconds)]
            return f"at {_and([clock.format(*time) for time in wall])}"
        hours = _of("hour", self.hours, 0, 23)
        if self.minutes == self.seconds == {0} and hours.startswith("every"):
            return hours
        parts = [] if self.seconds == {0} else [_of("second", self.seconds, 0, 59)]
        if len(self.minutes) < 60 or not parts:
            parts.append(_of("minute", self.minutes, 0, 59))
        if len(self.hours) < 24 or not parts[-1].startswith("every"):
            parts.append(hours)
        return " of ".join(parts)

    def _day_words(self) -> str:
        any_day, any_weekday = len(self.days) == 31, len(self.weekdays) == 7
        months = f" in {_and([_MONTHS[month - 1] for month in sorted(self.months)])}" if len(self.months) < 12 else ""
        if (any_day and any_weekday) or (self.either and (any_day or any_weekday)):
            return f" on every day{months}" if months or self._time_words().startswith("at ") else ""
        weekdays = [_WEEKDAYS[day] for day in sorted(self.weekdays, key=lambda day: day or 7)]
        on_weekdays = "Monday to Friday" if self.weekdays == {1, 2, 3, 4, 5} else f"every {_and(weekdays)}"
        on_days = f"{_of('day', self.days, 1, 31)} of the month"
        if self.either:
            return f" on {on_days} and also on {on_weekdays}{months}"
        if any_day:
            return f" on {on_weekdays}{months}"
        only = "" if any_weekday else f", only if it is a {_and(weekdays, 'or')}"
        return f" on {on_days}{only}{months}"


def _written(field: _Field, text: str, values: frozenset[int]) -> str:
    """The field as the scheduler reads it: without names, and with 0 for a Sunday that was written 7."""
    if re.fullmatch(r"[0-9,/*?-]+", text) and not (field.name == "weekday" and "7" in text):
        return text.replace("?", "*")
    if any(part[0] in "*?" for part in text.split(",")):
        return "*"
    return ",".join(str(value) for value in sorted(values))


def _of(unit: str, values: frozenset[int], least: int, greatest: int) -> str:
    """Such as "every 15 minutes", "minute 5" or "hours 8 to 17"."""
    found = sorted(values)
    steps = {after - before for before, after in pairwise(found)}
    if len(found) == greatest - least + 1:
        return f"every {unit}"
    if len(found) > 2 and len(steps) == 1:
        step = steps.pop()
        if found[0] == least and found[-1] + step > greatest and (greatest + 1 - least) % step == 0:
            return f"every {step} {unit}s"
        if step == 1:
            return f"{unit}s {found[0]} to {found[-1]}"
    return f"{unit}{'s' if len(found) > 1 else ''} {_and([str(value) for value in found])}"


def _and(names: list[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def parse_interval(text: str) -> int:
    """The seconds of an interval such as 90m, 24h, 7d or 1w; raises InputError for what is none or below a minute."""
    match = re.fullmatch(r"([0-9]{1,6})([smhdw])", text.strip())
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if seconds < 60:
        raise InputError(f"--every {text} is no interval from a minute on; give such as 90m, 24h or 7d")
    return seconds


def interval_words(seconds: int) -> str:
    """Such as "every 24 hours"."""
    names = ("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)
    name, size = next((name, size) for name, size in names if seconds % size == 0)
    if (name, seconds // size) == ("day", 1):
        return "every 24 hours"
    return f"every {name}" if seconds == size else f"every {seconds // size} {name}s"
