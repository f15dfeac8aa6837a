"""One file per command of `audit-platform`; the file's name is the command's (`_` for `-`).

Add here: a module with a click command or group named `command`; `cli.py` finds it. It must be
cheap to import (click, settings, errors): what a command needs is imported when it runs. Files
that begin with `_` are shared helpers. Not here: the work itself (`operations/`, `services/`).
"""
