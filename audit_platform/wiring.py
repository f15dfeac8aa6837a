"""The one place where settings become adapters: from here on nobody knows the profile.

Belongs here: which adapter stands behind which port. Does not: any work, any default (settings).
Source: design section 9 (profiles).
"""

from __future__ import annotations

from contextlib import ExitStack

from audit_platform.adapters.clock import parse_clock
from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.hot import EmbeddedHot
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.adapters.embedded.metadata import SqlMetadata, open_sqlite
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.ports import Clock, EdgePorts, Full, Keys, Platform, Spool, SpoolLimits
from audit_platform.settings import Settings
from audit_platform.settings_forms import full_policies


def open_metadata(settings: Settings) -> SqlMetadata:
    """The metadata store alone; close it. Raises `MetadataUnavailable`."""
    return open_sqlite(settings.metadata_file)


def open_keys(settings: Settings) -> FileKeys:
    """The signing keys alone. Makes nothing until a key is made."""
    return FileKeys(settings.keys_folder)


def open_edge_keys(settings: Settings) -> FileKeys:
    """The keys of an edge: apart from those of the platform, which is elsewhere."""
    return FileKeys(settings.edge_keys_folder)


def open_spool(settings: Settings, keys: Keys, clock: Clock) -> Spool:
    """The edge's spool; close it. Raises `SpoolUnavailable`, `SettingInvalid` (already in use)."""
    policy = {name: Full(text) for name, text in full_policies(settings.edge_full).items()}
    limits = SpoolLimits(settings.edge_spool_bytes, settings.edge_spool_hours, policy)
    return FileSpool.open(settings.edge_folder / "spool", RealFiles(), clock, limits, keys)


def open_edge(settings: Settings, *, clock: Clock | None = None) -> EdgePorts:
    """The ports of an edge-gateway; close the spool when done. Raises as `open_spool`."""
    clock = clock or parse_clock(settings.clock)
    keys = open_edge_keys(settings)
    return EdgePorts(clock, keys, open_spool(settings, keys, clock))


def open_platform(settings: Settings, *, clock: Clock | None = None) -> Platform:
    """All ports, wired; call `close` when done. Makes the folders and files that are missing.

    `clock` stands in for the wall clock of the settings.

    Raises the ports' `…Unavailable` errors; nothing stays open then.
    """
    clock = clock or parse_clock(settings.clock)
    files = RealFiles()
    with ExitStack() as opened:
        metadata = open_metadata(settings)
        opened.callback(metadata.close)
        log = EmbeddedLog(settings.log_folder, files, clock, settings.partitions)
        opened.callback(log.close)
        objects = EmbeddedObjects(settings.objects_folder, files, clock)
        hot = EmbeddedHot(settings.hot_folder, files)
        opened.callback(hot.close)
        return Platform(
            clock=clock,
            log=log,
            objects=objects,
            hot=hot,
            metadata=metadata,
            keys=open_keys(settings),
            close=opened.pop_all().close,
        )
