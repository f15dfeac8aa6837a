"""`audit-platform log`: the topics of a log that servers keep."""

from __future__ import annotations

from contextlib import closing

import click

from audit_platform.commands._shared import json_option, settings, show_rows
from audit_platform.errors import SettingInvalid


@click.group(epilog="Example: audit-platform log init")
def command() -> None:
    """The log on Kafka: make its topics. The embedded log makes its own."""


@command.command(epilog="Example: AUDIT_PROFILE=stack audit-platform log init")
@json_option
def init(*, as_json: bool) -> None:
    """Make the topics with AUDIT_PARTITIONS partitions each, 3 copies, 7 days.

    Safe to repeat: a topic that is there stays as it is. With fewer than three brokers the number
    of copies is Kafka's own default.
    """
    from audit_platform.wiring import open_stack_log  # noqa: PLC0415 - imports slowly

    found = settings()
    if found.profile != "stack":
        raise SettingInvalid(
            "AUDIT_PROFILE", found.profile, "stack: the embedded log makes its own"
        )
    with closing(open_stack_log(found)) as log:
        topics = log.make_topics(found.partitions)
    rows = [{"topic": t.name, "id": t.topic_id, "partitions": t.partitions} for t in topics]
    show_rows(rows, as_json=as_json, none="")
