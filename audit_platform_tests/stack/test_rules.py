"""Every alert: promtool takes it, a test has it fire and clear, a runbook says what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit_platform.metrics import METRICS
from audit_platform.metrics.form import Kind
from audit_platform.stack.prometheus import RULES
from audit_platform_tests.stack.alert_rules import rule_files, rules, with_figures

ROOT = RULES.parent.parent.parent

FILES = [path.name for path in rule_files()]

ALERTS = {r["alert"]: (path.stem, r) for path in rule_files() for r in rules(path) if "alert" in r}

#: Words of PromQL, and names of labels, as they stand in our expressions.
FUNCTIONS = {
    *("abs", "increase", "max", "max_over_time", "min", "sum", "time", "vector"),
    *("and", "by", "offset", "on", "or", "unless", "group_left"),
}


def promtool(*arguments: str) -> str:
    found = shutil.which("promtool")
    assert found, "apt-get install prometheus (make setup names it)"
    ended = subprocess.run(
        [found, *arguments], cwd=RULES, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def unit_tests(domain: str) -> list[dict[str, Any]]:
    found = yaml.safe_load((RULES / f"{domain}.test.yaml").read_text())
    assert found["rule_files"] == [f"{domain}.yml"]
    tests: list[dict[str, Any]] = found["tests"]
    return tests


def names_in(expression: str) -> set[str]:
    """Names of metrics in an expression: words outside of braces, brackets and lists of labels."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", expression)
    bare = re.sub(r"\b(by|on|group_left|without)\s*\([^)]*\)", " ", bare)
    words = set(re.findall(r"(?<![\w.])[a-zA-Z_][a-zA-Z0-9_]*", bare))
    return words - FUNCTIONS


def known_metrics() -> set[str]:
    ours = {m.name for m in METRICS if m.kind is not Kind.HISTOGRAM}
    lines = (RULES / "metrics-of-servers.txt").read_text().splitlines()
    theirs = {line for line in lines if line and not line.startswith("#")}
    assert ours
    assert theirs
    return ours | theirs


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", h).strip().lower() for h in headings)
    return {w.replace(" ", "-") for w in words}


def test_there_are_rules_of_every_domain() -> None:
    wanted = {"kafka", "store", "search", "metadata", "services", "integrity", "dagster"}
    assert {Path(name).stem for name in FILES} == wanted
    assert len(ALERTS) > 40


def test_promtool_takes_every_rule_file() -> None:
    promtool("check", "rules", *FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_rule_fires_and_clears_as_its_tests_say(name: str) -> None:
    assert "SUCCESS" in promtool("test", "rules", name.replace(".yml", ".test.yaml"))


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_each_alert_is_seen_quiet_then_firing_then_cleared(alert: str) -> None:
    domain, rule = ALERTS[alert]
    mine = [t for t in unit_tests(domain) if f'alertname="{alert}"' in str(t)]
    assert mine, f"{alert} has no test"
    for test in mine:
        seen = [bool(step["exp_samples"]) for step in test["promql_expr_test"]]
        assert seen == [False, True, False]
        (fired,) = test["promql_expr_test"][1]["exp_samples"]
        assert f'severity="{rule["labels"]["severity"]}"' in fired["labels"]


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_each_alert_says_what_is_wrong_and_where_help_stands(alert: str) -> None:
    _, rule = ALERTS[alert]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page.startswith("deploy/runbooks/")
    assert anchor in anchors(ROOT / page), rule["annotations"]["runbook_url"]


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_each_alert_names_metrics_that_somebody_tells(alert: str) -> None:
    names = names_in(ALERTS[alert][1]["expr"])
    assert names
    assert names <= known_metrics()


def test_the_names_in_an_expression_are_found() -> None:
    expression = 'sum by (a) (rate{b="c"}) unless on (d) x_total offset 5m > 3e5 or max(up[5m])'
    assert names_in(expression) == {"rate", "x_total", "up"}


def test_no_alert_has_two_rules() -> None:
    names = [r["alert"] for path in rule_files() for r in rules(path) if "alert" in r]
    assert len(names) == len(set(names))


def test_a_rule_can_be_had_with_other_figures_and_is_the_same_otherwise(tmp_path: Path) -> None:
    text = with_figures("ConsumerGroupLag", wait="5s", figures={"60000": "600", "300": "10"})
    file = tmp_path / "sooner.yml"
    file.write_text(text)
    promtool("check", "rules", str(file))
    ((rule,),) = [g["rules"] for g in yaml.safe_load(text)["groups"]]
    _, committed = ALERTS["ConsumerGroupLag"]
    assert rule["for"] == "5s"
    assert rule["expr"] == committed["expr"].replace("60000", "600").replace("300", "10")
    assert {**rule, "for": "", "expr": ""} == {**committed, "for": "", "expr": ""}
    with pytest.raises(KeyError, match="70000"):
        with_figures("ConsumerGroupLag", wait="5s", figures={"70000": "1"})
