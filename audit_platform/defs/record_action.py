"""What a job did for an operator becomes an event of the record, as a command's doing does.

Belongs here: that one way from a run to `operator_action`. Does not: which jobs say it, the event's
form (`schemas/operator_action`). Source: design section 8 (reserved tenant); decision 42.
"""

import dagster as dg

from audit_platform.operations.own_events import OwnEvent, OwnSource
from audit_platform.ports import Platform


def record_action(
    context: dg.OpExecutionContext, platform: Platform, action: str, tenant_id: str, subject: str
) -> None:
    """Durable on return. Raises the ports' `…Unavailable`: the run fails, and may be repeated."""
    payload = {
        "action": action,
        "actor": f"run-{context.run_id[:8]}",
        "tenant": tenant_id,
        "subject": subject,
    }
    OwnSource(platform, "dagster").append([OwnEvent("operator_action", payload)])
