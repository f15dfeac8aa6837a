"""`audit-platform generation`: which log the archive means, and what to do when it is another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from audit_platform.commands._shared import (
    json_option,
    platform,
    record_action,
    settings,
    show,
    show_rows,
    utc,
)

if TYPE_CHECKING:
    from audit_platform.operations.log_check import Broken
    from audit_platform.record.ranges import Generation


@click.group(epilog="Example: audit-platform generation check")
def command() -> None:
    """Which log the archive means, and what to do when it is another.

    Range records name offsets of one log. When that log lost its tail, or a topic was made anew or
    got more partitions, the archive-writer stops instead of guessing. `check` says where the two
    differ, `open` closes what was archived and goes on at the first record that differs. Nothing is
    written over; what the log lost is sent again by the edges, which keep it until it is archived.
    """


@command.command("list", epilog="Example: audit-platform generation list --json")
@json_option
def list_(*, as_json: bool) -> None:
    """List the log generations, oldest first: topics, where each partition starts, why."""
    from audit_platform.operations.generations import (  # noqa: PLC0415 - only when it runs
        generations,
    )

    with platform(settings()) as opened:
        rows = [row for found in generations(opened) for row in _rows(found)]
    show_rows(rows, as_json=as_json, none="no log generation yet: the archive-writer opens it")


@command.command(epilog="Example: audit-platform generation check --json")
@json_option
@click.pass_context
def check(ctx: click.Context, *, as_json: bool) -> None:
    """Compare the log with what was archived of it, partition by partition.

    Changes nothing. Exit code: 0 when the log is the one that was archived, 1 otherwise.
    """
    from audit_platform.operations import log_check  # noqa: PLC0415 - only when it runs

    with platform(settings()) as opened:
        broken = log_check.check(opened)
    show_rows(_broken(broken), as_json=as_json, none="the log is the one that was archived")
    ctx.exit(1 if broken else 0)


@command.command("open", epilog="Example: audit-platform generation open")
@click.option(
    "--reason",
    type=click.Choice(["broken", "partitions", "store"]),
    default="broken",
    show_default=True,
    help="Why. `broken` does nothing unless `check` finds something; the others are planned: after"
    " the partition count was changed, or the objects are another store's.",
)
@json_option
def open_(*, reason: str, as_json: bool) -> None:
    """Close the open log generation and open the next one at the first record that differs.

    Safe to repeat, also after it was interrupted. Archive-writers and gateways go on by themselves
    within half a minute.
    """
    from audit_platform.operations.open_generation import (  # noqa: PLC0415 - only when it runs
        Purpose,
        open_generation,
    )

    with platform(settings()) as opened:
        done = open_generation(opened, Purpose(reason))
    number, why = done.generation.number, done.generation.reason
    record_action("generation open", subject=f"{number} {why}")
    for row in [] if as_json else _broken(done.broken):
        click.echo(f"was broken: {row['topic']}/{row['partition']}: {row['what']}")
    show(
        {
            "generation": number,
            "reason": why,
            "opened": utc(done.generation.opened_ms),
            "byThisCommand": done.ours,
            "starts": _starts(done.generation),
        },
        as_json=as_json,
    )


def _broken(found: tuple[Broken, ...] | list[Broken]) -> list[dict[str, object]]:
    return [
        {
            "topic": b.topic,
            "partition": "all" if b.partition is None else b.partition,
            "reason": b.trouble.value,
            "what": b.reason,
            "remedy": b.remedy,
        }
        for b in found
    ]


def _rows(found: Generation) -> list[dict[str, object]]:
    return [
        {
            "generation": found.number,
            "opened": utc(found.opened_ms),
            "reason": found.reason,
            "topic": topic.topic,
            "topicId": topic.topic_id,
            "partitions": len(topic.start_offsets),
            "starts": " ".join(map(str, topic.start_offsets)),
        }
        for topic in found.topics
    ]


def _starts(found: Generation) -> str:
    return " ".join(
        f"{topic.topic}/{number}:{offset}"
        for topic in found.topics
        for number, offset in enumerate(topic.start_offsets)
    )
