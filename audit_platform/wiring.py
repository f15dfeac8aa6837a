"""The one place where settings become adapters: from here on nobody knows the profile.

Belongs here: which adapter stands behind which port. Does not: any work, any default (settings).
Source: design section 9 (profiles).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from audit_platform.adapters.clock import parse_clock
from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.hot import EmbeddedHot
from audit_platform.adapters.embedded.hot_snapshots import EmbeddedSnapshots
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.embedded.limits import LocalLimits
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.adapters.embedded.metadata import open_sqlite
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.adapters.sql.store import SqlMetadata
from audit_platform.errors import HotUnavailable, SettingInvalid
from audit_platform.ports import (
    Clock,
    DagsterState,
    EdgePorts,
    Full,
    Hot,
    HotSnapshots,
    HotState,
    Keys,
    Limits,
    Log,
    Objects,
    Platform,
    Probes,
    SignIn,
    Spool,
    SpoolLimits,
    Tokens,
)
from audit_platform.settings import Settings
from audit_platform.settings_forms import full_policies

if TYPE_CHECKING:  # SDKs are slow to import
    from audit_platform.adapters.kafka.connection import KafkaServers
    from audit_platform.adapters.kafka.log import KafkaLog
    from audit_platform.adapters.opensearch.hot import OpenSearchHot
    from audit_platform.adapters.s3.objects import S3Objects


def open_metadata(settings: Settings) -> SqlMetadata:
    """The metadata store alone; close it. Raises `MetadataUnavailable`, `SettingInvalid`."""
    if settings.profile == "stack":
        return _stack_metadata(settings)
    return open_sqlite(settings.metadata_file)


def _stack_metadata(settings: Settings) -> SqlMetadata:
    """PostgreSQL. It need not answer yet."""
    from audit_platform.adapters.postgres.metadata import (  # noqa: PLC0415 - only `stack` pays
        open_postgres,
    )

    return open_postgres(settings.database, ca_file=settings.ca_file)


def _tokens(settings: Settings, opened: ExitStack) -> Tokens | None:
    """The provider of AUDIT_OIDC_ISSUER, in any profile. It need not answer yet."""
    if not settings.oidc_issuer:
        return None
    from audit_platform.adapters.oidc.tokens import (  # noqa: PLC0415 - only with a provider
        open_oidc,
    )

    tokens = open_oidc(settings.oidc_issuer, settings.oidc_audience, ca_file=settings.ca_file)
    opened.callback(tokens.close)
    return tokens


def _limits(settings: Settings, opened: ExitStack) -> Limits | None:
    """Shared by AUDIT_REDIS where that is named, else of each process. It need not answer yet."""
    rate = float(settings.ingest_events_per_second)
    if not rate:
        return None
    if not settings.redis:
        return LocalLimits(rate)
    from audit_platform.adapters.redis.limits import open_redis  # noqa: PLC0415 - only with Redis

    limits = open_redis(settings.redis, settings.redis_prefix, rate, ca_file=settings.ca_file)
    opened.callback(limits.close)
    return limits


def _log(
    settings: Settings, files: RealFiles, clock: Clock, opened: ExitStack
) -> tuple[Log, Callable[[], Mapping[str, int]]]:
    """The log, and what tells the errors that its clients met."""
    if settings.profile == "stack":
        stack_log = open_stack_log(settings)
        opened.callback(stack_log.close)
        return stack_log, lambda: stack_log.health().errors
    log = EmbeddedLog(settings.log_folder, files, clock, settings.partitions)
    opened.callback(log.close)
    return log, dict


def open_stack_log(settings: Settings) -> KafkaLog:
    """Kafka alone; close it. It need not answer yet.

    Raises `LogUnavailable` where waiting will not help: a wrong secret, or it is not Kafka.
    """
    from audit_platform.adapters.kafka.log import KafkaLog  # noqa: PLC0415 - only `stack` pays

    return KafkaLog(_kafka(settings), settings.kafka_prefix)


def _kafka(settings: Settings) -> KafkaServers:
    from audit_platform.adapters.kafka.connection import (  # noqa: PLC0415 - only `stack` pays
        KafkaServers,
    )

    who = (settings.kafka_user, settings.kafka_password)
    return KafkaServers(settings.kafka, *who, settings.ca_file)


def _objects(settings: Settings, files: RealFiles, clock: Clock, opened: ExitStack) -> Objects:
    if settings.profile == "stack":
        stack_objects = open_objects(settings)
        opened.callback(stack_objects.close)
        return stack_objects
    return EmbeddedObjects(settings.objects_folder, files, clock)


def open_objects(settings: Settings) -> S3Objects:
    """The object store of AUDIT_S3. It need not answer yet. Raises `SettingInvalid`."""
    return _s3(settings, "AUDIT_S3", settings.s3)


def open_second_objects(settings: Settings) -> S3Objects:
    """The secondary store (AUDIT_S3_SECOND); close it. Raises `SettingInvalid`."""
    return _s3(settings, "AUDIT_S3_SECOND", settings.s3_second)


def _s3(settings: Settings, name: str, url: str) -> S3Objects:
    if not url:
        raise SettingInvalid(name, "", "the URL of an object store")
    from audit_platform.adapters.s3.client import Endpoint  # noqa: PLC0415 - only `stack` pays
    from audit_platform.adapters.s3.objects import S3Objects  # noqa: PLC0415 - the same

    keys = (settings.s3_access_key, settings.s3_secret_key)
    return S3Objects(Endpoint(url, settings.s3_bucket, *keys, settings.ca_file))


def _hot(
    settings: Settings, files: RealFiles, opened: ExitStack
) -> tuple[Hot, HotSnapshots | None]:
    if settings.profile == "stack":
        stack_hot = _stack_hot(settings)
        opened.callback(stack_hot.close)
        return stack_hot, _stack_snapshots(settings, stack_hot)
    hot = EmbeddedHot(settings.hot_folder, files)
    opened.callback(hot.close)
    return hot, EmbeddedSnapshots(hot, settings.hot_snapshots_folder, files)


def _stack_snapshots(settings: Settings, hot: OpenSearchHot) -> HotSnapshots | None:
    if not settings.opensearch_snapshots:
        return None
    from audit_platform.adapters.opensearch.snapshots import (  # noqa: PLC0415 - only `stack` pays
        OpenSearchSnapshots,
    )

    return OpenSearchSnapshots(hot, settings.opensearch_snapshots)


def _stack_hot(settings: Settings) -> OpenSearchHot:
    """OpenSearch. It need not answer yet. Raises `SettingInvalid` if it answers and is another."""
    from audit_platform.adapters.opensearch.hot import (  # noqa: PLC0415 - only `stack` pays
        OpenSearchHot,
    )

    hot = OpenSearchHot(settings.opensearch, settings.opensearch_prefix, ca_file=settings.ca_file)
    with suppress(HotUnavailable):
        hot.check()
    return hot


def open_keys(settings: Settings) -> Keys:
    """The signing keys alone. Makes nothing until a key is made."""
    if settings.pkcs11_module is None:
        return FileKeys(settings.keys_folder)
    from audit_platform.adapters.pkcs11.keys import TokenKeys  # noqa: PLC0415 - only with a token

    return TokenKeys(settings.pkcs11_module, settings.pkcs11_token, settings.pkcs11_pin)


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
        log, log_errors = _log(settings, files, clock, opened)
        objects = _objects(settings, files, clock, opened)
        hot, snapshots = _hot(settings, files, opened)
        return Platform(
            clock=clock,
            log=log,
            objects=objects,
            hot=hot,
            metadata=metadata,
            keys=open_keys(settings),
            tokens=_tokens(settings, opened),
            limits=_limits(settings, opened),
            snapshots=snapshots,
            log_errors=log_errors,
            work=settings.work_folder,
            close=opened.pop_all().close,
        )


def open_sign_in(settings: Settings, back: str) -> SignIn:
    """Signing people in at AUDIT_OIDC_ISSUER, who come back to `back`; close it."""
    from audit_platform.adapters.oidc.sign_in import OidcSignIn  # noqa: PLC0415 - only the gate pays

    return OidcSignIn(
        settings.oidc_issuer,
        settings.oidc_client,
        settings.oidc_secret,
        back,
        ca_file=settings.ca_file,
    )


def open_probes(settings: Settings) -> Probes:
    """Questions to the servers themselves; close it. None of them need answer yet."""
    hot: Callable[[], HotState] | None = None
    log_write: Callable[[], str] | None = None
    others: dict[str, Callable[[], None]] = {}
    with ExitStack() as opened:
        if settings.profile == "stack":
            from audit_platform.adapters.kafka.probes import (  # noqa: PLC0415 - only `stack` pays
                probe_write,
            )
            from audit_platform.adapters.opensearch.state import (  # noqa: PLC0415 - the same
                ClusterProbe,
            )

            cluster = ClusterProbe(settings.opensearch, settings.ca_file)
            opened.callback(cluster.close)
            hot = cluster.state
            log_write = partial(probe_write, _kafka(settings), settings.kafka_prefix)
        if settings.redis:
            from audit_platform.adapters.redis.ask import asker  # noqa: PLC0415 - only with Redis

            others["redis"] = asker(settings.redis, settings.ca_file)
        if settings.oidc_issuer:
            from audit_platform.adapters.oidc.provider_keys import (  # noqa: PLC0415 - the same
                ProviderKeys,
            )

            provider = ProviderKeys(settings.oidc_issuer, ca_file=settings.ca_file)
            opened.callback(provider.close)
            others["oidc"] = provider.ask_now
        dagster: Callable[[], DagsterState] | None = None
        if settings.dagster:
            from audit_platform.adapters.dagster.state import (  # noqa: PLC0415 - the same
                DagsterProbe,
            )

            probe = DagsterProbe(settings.dagster)
            opened.callback(probe.close)
            dagster = probe.state
        return Probes(opened.pop_all().close, hot, log_write, others, dagster)
