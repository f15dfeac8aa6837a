"""Code locations by the dozen: `group_2_of_3` of this module is the second of three.

A workspace cannot give a location settings of its own, but it can name an attribute; asking for
that one sets AUDIT_TENANT_GROUP for this process before anything of ours is loaded. Belongs here:
that. Does not: the division (`groups.py`), the workspace (`audit-platform locations`).
Source: design section 11.
"""

import os
import re
from typing import Any, Final

_GROUP: Final = re.compile(r"group_([1-9]\d*)_of_([1-9]\d*)")


def __getattr__(name: str) -> Any:
    """The definitions of a group. A process is one location's: its first group stays."""
    found = _GROUP.fullmatch(name)
    if found is None:
        raise AttributeError(name)
    os.environ["AUDIT_TENANT_GROUP"] = f"{found[1]}/{found[2]}"
    from audit_platform.defs.build import build_definitions  # noqa: PLC0415 - not before the setting
    from audit_platform.defs.partitions import GROUP  # noqa: PLC0415 - not before the setting

    if (str(GROUP.number), str(GROUP.of)) != found.groups():
        raise AttributeError(f"{name}: this process is group {GROUP.number} of {GROUP.of}")
    return build_definitions()
