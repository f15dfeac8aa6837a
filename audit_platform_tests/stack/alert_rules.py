"""The alert rules of this repository, and how a test has one of them fire sooner.

Belongs here: reading `deploy/stack/rules`, rules of one stack alone. Does not: any test.

A rule's `for` and thresholds are those of production. A test that cannot wait, or send, so much
gives the stack a copy of the rule with other figures (`sooner`): the same name, expression and
labels, in `prometheus.own_rules`. The committed rule goes on beside it and stays quiet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from audit_platform.stack.model import Place
from audit_platform.stack.prometheus import RULES, own_rules, reload_rules


def rule_files() -> list[Path]:
    """All committed rule files."""
    return sorted(RULES.glob("*.yml"))


def rules(path: Path) -> Iterator[dict[str, Any]]:
    """All rules of a file."""
    for group in yaml.safe_load(path.read_text())["groups"]:
        yield from group["rules"]


def with_figures(alert: str, *, wait: str, figures: Mapping[str, str]) -> str:
    """A rule file with the committed rule of that name, its `for` and figures replaced.

    `figures` maps texts of the expression (`60000`) to others. `KeyError` for one that it lacks.
    """
    (rule,) = [r for path in rule_files() for r in rules(path) if r.get("alert") == alert]
    expression: str = rule["expr"]
    for old, new in figures.items():
        if old not in expression:
            raise KeyError(f"{old} is not in the rule {alert}: {expression}")
        expression = expression.replace(old, new)
    sooner = {**rule, "expr": expression, "for": wait}
    return yaml.safe_dump({"groups": [{"name": f"sooner-{alert}", "rules": [sooner]}]})


def sooner(
    place: Place, alert: str, *, wait: str, figures: Mapping[str, str] | None = None
) -> None:
    """Have that alert fire after `wait` in this stack, and by other figures."""
    file = own_rules(place) / f"{alert}.yml"
    file.write_text(with_figures(alert, wait=wait, figures=figures or {}))
    reload_rules(place)
