"""The layers hold: who may import whom is read from the code itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import audit_platform

ROOT = Path(audit_platform.__file__).parent
PACKAGE = "audit_platform"

#: What each layer may import of our own. Anything else is a fault of structure.
BASE = {"errors", "killpoints"}
ALLOWED = {
    "errors": set(),
    "killpoints": set(),
    "record": {"record", "errors"},
    "schemas": set(),
    "ports": {"record", "errors"},
    "settings_forms": {"adapters"},  # checks AUDIT_CLOCK by the parser of the clocks
    "settings_rows": {"adapters", "record", "settings_forms"},
    "settings_servers": {"settings_forms"},
    "settings": {"settings_forms", "settings_rows", "settings_servers", "errors"},
    "stack": {"stack", "adapters", "ports", "record", "settings", "settings_forms", *BASE},
    "metrics": {"metrics"},
    "telemetry": {"metrics", *BASE},
    "processes": BASE,
    "adapters": {"adapters", "ports", "record", *BASE},
    "operations": {"operations", "ports", "record", *BASE},
    "wiring": {"adapters", "ports", "record", "settings", "settings_forms", *BASE},
    "services": {
        "services",
        "operations",
        "ports",
        "record",
        "settings",
        "metrics",
        "telemetry",
        "processes",
        "wiring",
        *BASE,
    },
    "defs": {"defs", "adapters", "operations", "ports", "record", "settings", "wiring", *BASE},
    "definitions": {"defs"},
    "commands": {
        "commands",
        "metrics",
        "telemetry",
        "adapters",
        "operations",
        "services",
        "ports",
        "record",
        "settings",
        "settings_forms",
        "stack",
        "wiring",
        *BASE,
    },
    "cli": {"commands", *BASE},
    "demo": {
        "demo",
        "adapters",
        "operations",
        "ports",
        "record",
        "settings",
        "settings_forms",
        "wiring",
        "commands",
        "stack",  # the demo of the profile `stack` brings its own servers up
    }
    | BASE,
}

#: Vendors and the only layers that may import them.
VENDORS = {
    "dagster": {"defs", "definitions"},
    "sqlalchemy": {"adapters"},
    "alembic": {"adapters"},
    "graphql": {"services"},
    "uvicorn": {"services"},
    "fastapi": {"services"},
    "starlette": {"services"},
    "pydantic": {"services", "defs"},
    "prometheus_client": {"telemetry"},
    "boto3": {"adapters"},
    "confluent_kafka": {"adapters"},
    "opensearchpy": {"adapters"},
    "psycopg": {"adapters"},
    "redis": {"adapters"},
    "jwt": {"adapters"},
    "pkcs11": {"adapters"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], path


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            yield node.module
            if node.module == PACKAGE:
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)


def test_every_module_belongs_to_a_known_layer() -> None:
    found = {layer for layer, _ in modules()}
    assert found <= ALLOWED.keys()
    assert len(found) > 10


def test_no_layer_imports_what_stands_right_of_it() -> None:
    faults = []
    for layer, path in modules():
        for name in imported(path):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if top == PACKAGE and target and target not in ALLOWED[layer]:
                faults.append(f"{path.relative_to(ROOT)} imports {name}")
    assert faults == []


def test_vendors_are_imported_only_where_they_belong() -> None:
    faults = []
    for layer, path in modules():
        for name in imported(path):
            allowed = VENDORS.get(name.partition(".")[0])
            if allowed is not None and layer not in allowed:
                faults.append(f"{path.relative_to(ROOT)} imports {name}")
    assert faults == []


@pytest.mark.parametrize("module", ["record.fsck", "cli", "operations.seal"])
def test_nothing_below_the_orchestration_loads_dagster(module: str) -> None:
    code = f"import sys, {PACKAGE}.{module}; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
