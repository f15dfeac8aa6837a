"""The one place where settings become adapters: from here on nobody knows the profile.

Belongs here: which adapter stands behind which port. Does not: any work, any default (settings).
Source: design section 9 (profiles).
"""

from __future__ import annotations

from contextlib import ExitStack

from audit_platform.adapters.clock import parse_clock
from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.adapters.embedded.metadata import SqlMetadata, open_sqlite
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.ports import Clock, Platform
from audit_platform.settings import Settings


def open_metadata(settings: Settings) -> SqlMetadata:
    """The metadata store alone; close it. Raises `MetadataUnavailable`."""
    return open_sqlite(settings.metadata_file)


def open_keys(settings: Settings) -> FileKeys:
    """The signing keys alone. Makes nothing until a key is made."""
    return FileKeys(settings.keys_folder)


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
        return Platform(
            clock=clock,
            log=log,
            objects=objects,
            metadata=metadata,
            keys=open_keys(settings),
            close=opened.pop_all().close,
        )
