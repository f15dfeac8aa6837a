"""`audit-platform`: finds the commands, and turns each error of ours into words and an exit code.

Belongs here: the root command and what holds for every command. Does not: any command (one file
each in `commands/`), anything slow to import: `--help` must answer within a second.
Exit codes: 0 done, 1 refused or findings, 2 not usable as asked (a wrong argument or setting).
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import click

from audit_platform import commands
from audit_platform.commands._shared import explain
from audit_platform.errors import AuditPlatformError


class CommandFolder(click.Group):
    """A group whose commands are the modules of a package, imported only when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of all commands, sorted."""
        modules = (m.name for m in pkgutil.iter_modules(commands.__path__))
        return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{commands.__name__}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run; the one place where an error of ours is caught."""
        try:
            return super().invoke(ctx)
        except AuditPlatformError as e:
            explain(e)
            ctx.exit(e.exit_code)


@click.group(cls=CommandFolder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="audit-platform")
def main() -> None:
    """Keep, seal, sign and prove the audit logs of medical devices.

    Settings come from the environment (AUDIT_...): `audit-platform settings` shows them.
    """


if __name__ == "__main__":
    main()
