"""What every service tells of the servers that it uses.

Belongs here: one value for each metric. Does not: the form (`form.py`), the list (`__init__.py`).
Source: design section 8 (names).
"""

from __future__ import annotations

from typing import Final

from audit_platform.metrics.form import Kind, Metric

LOG_ERRORS: Final = Metric(
    "audit_log_errors_total",
    Kind.COUNTER,
    ("error",),
    "Errors that this service's clients of the log met, by the log's own names (stack profile).",
)
