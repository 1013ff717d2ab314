"""Schedules at Kubeflow: what they are asked to be, and how one takes the place of another of its name."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from typing import TYPE_CHECKING, Any

from model.errors import InputError
from pipelines.kubeflow.cron import Cron, interval_words, parse_interval
from pipelines.kubeflow.errors import Refused
from pipelines.kubeflow.runs import moment

if TYPE_CHECKING:
    import kfp_server_api as kfp

    from pipelines.kubeflow.client import Kubeflow

_SHOWN = 3  # of the next times
_QUIET = 40.0  # seconds before and after a time of a schedule; Kubeflow looks at each every 30


@dataclass(frozen=True)
class When:
    """A cron expression or an interval in seconds."""

    cron: Cron | None = None
    interval: int = 0

    @classmethod
    def asked(cls, cron: str | None, every: str | None) -> "When":
        """What the options say; raises InputError unless one of them is given, and right."""
        if (cron is None) == (every is None):
            raise InputError("give --cron EXPRESSION or --every INTERVAL, one of the two")
        return cls(Cron.parse(cron)) if cron is not None else cls(interval=parse_interval(every or ""))

    @classmethod
    def of(cls, schedule: "kfp.V2beta1RecurringRun") -> "When | None":
        """When a schedule of Kubeflow runs; None where this program cannot read it."""
        trigger = schedule.trigger
        try:
            if trigger and trigger.cron_schedule:
                return cls(Cron.parse(trigger.cron_schedule.cron or ""))
            if trigger and trigger.periodic_schedule:
                return cls(interval=int(trigger.periodic_schedule.interval_second or 0))
        except InputError:
            pass
        return None

    def words(self) -> str:
        """Such as "at 02:30 on every Monday"."""
        return self.cron.words() if self.cron else interval_words(self.interval)

    def next_times(self, after: datetime, zone: tzinfo, began: datetime) -> list[datetime]:
        """The next times, in UTC; an interval is counted from when the schedule began."""
        if self.cron:
            return list(islice(self.cron.times(after, zone), _SHOWN))
        step = timedelta(seconds=self.interval)
        first = began + step * ((after - began) // step + 1)
        return [first + step * number for number in range(_SHOWN)]

    def next_utc(self, began: datetime | None = None) -> list[str]:
        """The next times of a scheduler in UTC, for programs."""
        now = datetime.now(UTC)
        return [f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in self.next_times(now, UTC, began or now)]

    def trigger(self) -> "kfp.V2beta1Trigger":
        """As Kubeflow takes it."""
        import kfp_server_api as kfp

        if self.cron:
            return kfp.V2beta1Trigger(cron_schedule=kfp.V2beta1CronSchedule(cron=self.cron.text))
        return kfp.V2beta1Trigger(periodic_schedule=kfp.V2beta1PeriodicSchedule(interval_second=str(self.interval)))


def is_enabled(schedule: "kfp.V2beta1RecurringRun") -> bool:
    """Whether it starts runs."""
    return bool(schedule.status == "ENABLED" if schedule.status else schedule.mode == "ENABLE")


def same(there: "kfp.V2beta1RecurringRun", wanted: "kfp.V2beta1RecurringRun") -> bool:
    """Whether a schedule starts the runs that are wanted at those times, as that account where one is named."""
    account = wanted.service_account or there.service_account
    return _essence(there) == _essence(wanted) and there.service_account == account


def _essence(schedule: "kfp.V2beta1RecurringRun") -> tuple[Any, ...]:
    trigger, reference, config = schedule.trigger, schedule.pipeline_version_reference, schedule.runtime_config
    cron = trigger.cron_schedule.cron if trigger and trigger.cron_schedule else ""
    every = trigger.periodic_schedule.interval_second if trigger and trigger.periodic_schedule else 0
    version = (reference.pipeline_id or "", reference.pipeline_version_id or "") if reference else ("", "")
    parameters = (config.parameters if config else None) or {}
    limits = int(schedule.max_concurrency or 1), bool(schedule.no_catchup)
    return cron, int(every or 0), version, parameters, limits, schedule.experiment_id or ""


def replace(
    kubeflow: "Kubeflow",
    wanted: "kfp.V2beta1RecurringRun",
    enabled: bool,
    zone: tzinfo = UTC,
    pause: Callable[[float], None] = time.sleep,
) -> tuple["kfp.V2beta1RecurringRun", str]:
    """Make `wanted` the only schedule of its name; return it, and whether it was created, replaced or unchanged.

    The new one is made disabled, then the old ones are disabled, the new one is enabled, and the old ones are deleted:
    whatever ends this half-way leaves at most one that starts runs, and the same call again finishes it. A time of the
    old or the new one that is about to come is let pass first, so that it is run once.
    """
    old = kubeflow.schedules(wanted.display_name)
    for index, each in enumerate(old):
        if same(each, wanted) and is_enabled(each) == enabled:
            _retire(kubeflow, old[:index] + old[index + 1 :])
            return each, "unchanged"
    if any(map(is_enabled, old)):
        _let_pass([*old, wanted], zone, pause)
    wanted.mode = "DISABLE"
    made = kubeflow.create_schedule(wanted)
    for each in old:
        if is_enabled(each):
            _finish_or_say(kubeflow, made, each, "disable")
            each.status = "DISABLED"
    if enabled:
        _finish_or_say(kubeflow, made, made, "enable")
        made.status = "ENABLED"
    _retire(kubeflow, old)
    return made, "replaced" if old else "created"


def _let_pass(schedules: list["kfp.V2beta1RecurringRun"], zone: tzinfo, pause: Callable[[float], None]) -> None:
    """Wait while one of them is about to start a run, until it has."""
    now = datetime.now(UTC)
    plans = [(When.of(each), moment(each.created_at) or now) for each in schedules]
    due = [when.next_times(now, zone, began)[0] for when, began in plans if when]
    if due and (soon := (min(due) - now).total_seconds()) < _QUIET:
        pause(soon + _QUIET)


def _retire(kubeflow: "Kubeflow", schedules: list["kfp.V2beta1RecurringRun"]) -> None:
    for each in schedules:
        if is_enabled(each):
            kubeflow.act_on_schedule(each.recurring_run_id, "disable")
        kubeflow.act_on_schedule(each.recurring_run_id, "delete")


def _finish_or_say(
    kubeflow: "Kubeflow", made: "kfp.V2beta1RecurringRun", which: "kfp.V2beta1RecurringRun", action: str
) -> None:
    """Do it, or say in the error that the same command again finishes what is half done."""
    try:
        kubeflow.act_on_schedule(which.recurring_run_id, action)
    except Refused as failure:
        left = f"the schedule {made.display_name} is half replaced; the same command again finishes it"
        raise Refused(f"{failure}; {left}", failure.status, failure.passing) from None


def zone_named(name: str) -> tzinfo:
    """The time zone of that name; raises InputError if there is none."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"no time zone {name!r}; give such as Europe/Berlin or UTC") from None


def next_lines(
    when: When, schedule: "kfp.V2beta1RecurringRun | None", zone: tzinfo, write: Callable[[str], None]
) -> None:
    """Write the next times in that zone and, where it is another one, in UTC."""
    now = datetime.now(UTC)
    began = moment(schedule.created_at) if schedule else None
    for at in when.next_times(now, zone, began or now):
        local = at.astimezone(zone)
        utc = "" if zone is UTC else f" ({at:%Y-%m-%d %H:%M:%S} UTC)"
        write(f"{local:%a %Y-%m-%d %H:%M:%S} {local.tzname()}{utc}")
