"""docs/api.md is so: its commands work, its table is the table of access, its slugs are ours."""

from __future__ import annotations

import re
from pathlib import Path

import audit_platform
from audit_platform.ports import Role
from audit_platform.services.query_access import RULES
from audit_platform.services.query_limits import (
    MAX_QUERIES_PER_TENANT,
    MAX_WINDOW_MS,
)
from audit_platform.services.query_models import QuarantineAnswer, SearchAnswer
from audit_platform.services.query_problems import PROBLEMS
from audit_platform_tests.services.query_world import TENANT, parsed, query_world
from audit_platform_tests.services.test_query_api import ALL, EVENTS, fill

PAGE = (Path(audit_platform.__file__).parent.parent / "docs" / "api.md").read_text()


def test_every_question_of_the_page_is_answered(tmp_path: Path) -> None:
    asked = re.findall(r'curl -s -H "Authorization: Bearer \$KEY" "\$URL(/[^"]+)"', PAGE)
    assert len(asked) > 10
    with query_world(tmp_path / "home") as queries:
        fill(queries.world)
        secret = queries.key(TENANT, Role.AUDITOR)
        some = parsed(SearchAnswer, queries.ask(EVENTS, secret, **ALL)).rows[0]
        path = f"/v1/tenants/{TENANT}/quarantine"
        entry = parsed(QuarantineAnswer, queries.ask(path, secret, **ALL)).rows[0]
        empty = []
        for url in asked:
            known = url.replace("$HASH", some.event_hash).replace("$ENTRY", entry.entry_id)
            answer = queries.ask(known, secret)
            assert answer.status_code == 200, f"{url}: {answer.text}"
            if b'"rows":[]' in answer.content:
                empty.append(url)
        # Reads of a moment ago are not archived yet; everything else has something to show.
        assert [url for url in empty if not url.startswith(f"/v1/tenants/{TENANT}/reads")] == []


def test_the_pages_table_is_the_table_of_access() -> None:
    rows = re.findall(r"^\| `(/v1[^`]*)` \|(.*)\|$", PAGE, re.MULTILINE)
    columns = (Role.INVESTIGATOR, Role.OPERATOR, Role.AUDITOR, Role.EDGE)
    said = {
        path: {role for role, cell in zip(columns, cells.split("|"), strict=True) if "yes" in cell}
        for path, cells in rows
    }
    # Break-glass has no column: what it may is told in words.
    rules = {path: roles for path, roles in RULES.items() if roles is not None}
    assert said == {path: roles - {Role.BREAK_GLASS} for path, roles in rules.items()}


def test_the_page_names_our_slugs_with_their_status() -> None:
    rows = re.findall(r"^\| ([0-9, ]+) \| ((?:`\w+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    named = {slug: status for status, cell in rows for slug in re.findall(r"\w+", cell)}
    assert len(named) > 10
    for slug, status in named.items():
        assert str(PROBLEMS[slug][0]) in status, slug


def test_the_page_has_the_limits_as_they_are() -> None:
    assert f"at most {MAX_WINDOW_MS // 86_400_000} days" in PAGE
    assert f"runs {MAX_QUERIES_PER_TENANT} queries at once" in PAGE
