"""What `dagster` and `dg` load (`workspace.yaml`, `[tool.dg]`). Not here: any definition."""

from audit_platform.defs.build import build_definitions

defs = build_definitions()
