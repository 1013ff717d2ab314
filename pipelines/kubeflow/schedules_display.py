"""What a person or a program is told of schedules at Kubeflow: `fusion schedule`."""

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

from model.errors import one_line
from pipelines.kubeflow.display import new_console, new_table, print_lines, settings_of
from pipelines.kubeflow.runs import moment
from pipelines.kubeflow.schedules import When, is_enabled, next_lines

if TYPE_CHECKING:
    import kfp_server_api as kfp


def told(schedule: "kfp.V2beta1RecurringRun", page: str) -> dict[str, Any]:
    """A schedule as plain values; the next times are of a scheduler in UTC."""
    when, trigger, settings = When.of(schedule), schedule.trigger, settings_of(schedule)
    return {
        "id": schedule.recurring_run_id,
        "name": schedule.display_name or "",
        "enabled": is_enabled(schedule),
        "when": when.words() if when else "",
        "cron": (trigger.cron_schedule.cron or "") if trigger and trigger.cron_schedule else "",
        "interval_seconds": when.interval if when else 0,
        "next_utc": when.next_utc(moment(schedule.created_at)) if when else [],
        "pipeline_id": settings.pipeline_id,
        "version_id": settings.version_id,
        "follows_latest": bool(settings.pipeline_id and not settings.version_id),
        "parameters": settings.parameters,
        "experiment_id": schedule.experiment_id or "",
        "max_concurrency": int(schedule.max_concurrency or 1),
        "catches_up": not schedule.no_catchup,
        "error": schedule.error.message if schedule.error and schedule.error.message else "",
        "page": page,
    }


def print_schedules(schedules: Sequence["kfp.V2beta1RecurringRun"], zone: tzinfo) -> None:
    """A table of schedules."""
    console = new_console()
    if not schedules:
        console.print("no schedules; `fusion schedule create` makes one")
        return
    table = new_table("schedule", "state", "runs", f"next ({datetime.now(zone).tzname()})", "version")
    now = datetime.now(UTC)
    for schedule in schedules:
        facts, when = told(schedule, ""), When.of(schedule)
        times = when.next_times(now, zone, moment(schedule.created_at) or now) if when and facts["enabled"] else []
        upcoming = f"{times[0].astimezone(zone):%Y-%m-%d %H:%M}" if times else "-"
        version = "latest" if facts["follows_latest"] else facts["version_id"][:8]
        words = when.words() if when else facts["cron"] or "-"
        table.add_row(one_line(facts["name"]), "on" if facts["enabled"] else "paused", words, upcoming, version)
    console.print(table)


def print_schedule(schedule: "kfp.V2beta1RecurringRun", page: str, zone: tzinfo) -> None:
    """One schedule, line by line."""
    console = new_console()
    facts, when = told(schedule, page), When.of(schedule)

    def say(head: str, text: str) -> None:
        print_lines(console, **{head: text})

    say("schedule", f"{facts['name']} ({facts['id']}), {'on' if facts['enabled'] else 'paused'}")
    say("runs", when.words() if when else "when this program cannot tell")
    if facts["cron"]:
        say("cron", f"{facts['cron']} (seconds first)")
    if when and facts["enabled"]:
        next_lines(when, schedule, zone, lambda line: say("next", line))
    version = "the latest version" if facts["follows_latest"] else f"version {facts['version_id']}"
    say("pipeline", f"{version} of {facts['pipeline_id']}")
    late = "all" if facts["catches_up"] else "only the last"
    say("at once", f"at most {facts['max_concurrency']} run; of several times that were missed, {late}")
    say("page", page)
    for name, value in facts["parameters"].items():
        say("parameter", f"{name} = {value}")
    if facts["error"]:
        say("error", facts["error"])
