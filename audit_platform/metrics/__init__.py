"""Every metric of the platform, as one typed list; alert rules may name no other of ours.

Add a metric to the module of who tells it; it is on the list then, and on `docs/metrics.md`, which
is made from the list (a test holds it equal). Not here: moving metrics (`telemetry.py`), alert
rules (`deploy/stack/rules`). Source: design section 8 (names).
"""

from __future__ import annotations

from typing import Final

from audit_platform.metrics import clients, consumers, dagster, edge, ingest, probes, query
from audit_platform.metrics.form import Metric

#: In the order of their modules, and in each as they stand there.
METRICS: Final[tuple[Metric, ...]] = tuple(
    value
    for module in (ingest, consumers, query, edge, clients, probes, dagster)
    for value in vars(module).values()
    if isinstance(value, Metric)
)


def metrics_page() -> str:
    """`docs/metrics.md`: the table of all metrics as Markdown."""
    rows = [
        "# Metrics",
        "",
        "Each service shows those that it moves on `GET /metrics`, beside the usual `process_…`.",
        "",
        "| name | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    for m in METRICS:
        labels = ", ".join(f"`{label}`" for label in m.labels)
        rows.append(f"| `{m.name}` | {m.kind} | {labels} | {m.meaning} |")
    return "\n".join([*rows, "", "Made from `audit_platform/metrics/`.", ""])
