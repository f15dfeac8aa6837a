"""The settings that name servers: name, default, what is wanted, what it is for.

Belongs here: where the `stack` profile's servers are and who we are to them. Does not: the
platform's own programs (`settings_rows.py`), how the project starts servers (`stack/`).
Source: design sections 8 and 9.
"""

from __future__ import annotations

import re
from typing import Final

from audit_platform.settings_forms import (
    Setting,
    addresses,
    database,
    host,
    matching,
    optional_folder,
    optional_url,
    redis,
    text,
    urls,
)

#: What Kafka, OpenSearch and Redis all take in a name, in lower case.
PREFIX_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")

#: Amazon's rules for names of buckets, without dots (they break certificates).
BUCKET_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")

#: What the `stack` profile cannot be without.
NEEDED_BY_STACK: Final = (
    "AUDIT_KAFKA",
    "AUDIT_S3",
    "AUDIT_S3_ACCESS_KEY",
    "AUDIT_S3_SECRET_KEY",
    "AUDIT_OPENSEARCH",
    "AUDIT_DATABASE",
)

SERVER_SETTINGS: Final = (
    Setting(
        "AUDIT_CA_FILE",
        "",
        "a file, or nothing",
        "The authority that the servers' certificates are checked against. Without it: no TLS.",
        optional_folder,
    ),
    Setting(
        "AUDIT_KAFKA",
        "",
        "a list of host:port",
        "Kafka's first brokers.",
        addresses,
    ),
    Setting(
        "AUDIT_KAFKA_PREFIX",
        "",
        "text",
        "Stands before the names of topics and groups: several installations on one Kafka.",
        matching(PREFIX_PATTERN),
    ),
    Setting(
        "AUDIT_KAFKA_USER",
        "",
        "text",
        "SASL/SCRAM user. Without it: no authentication.",
        text,
    ),
    Setting(
        "AUDIT_KAFKA_PASSWORD",
        "",
        "text",
        "Its password.",
        text,
    ),
    Setting(
        "AUDIT_S3",
        "",
        "a URL",
        "The object store.",
        optional_url,
    ),
    Setting(
        "AUDIT_S3_BUCKET",
        "audit",
        "a bucket",
        "The bucket; it must have been made with object lock.",
        matching(BUCKET_PATTERN, optional=False),
    ),
    Setting(
        "AUDIT_S3_ACCESS_KEY",
        "",
        "text",
        "Who this service is at the object store.",
        text,
    ),
    Setting(
        "AUDIT_S3_SECRET_KEY",
        "",
        "text",
        "Its secret.",
        text,
    ),
    Setting(
        "AUDIT_S3_SECOND",
        "",
        "a URL, or nothing",
        "The secondary object store; same bucket and keys.",
        optional_url,
    ),
    Setting(
        "AUDIT_OPENSEARCH",
        "",
        "a list of URLs",
        "OpenSearch's nodes.",
        urls,
    ),
    Setting(
        "AUDIT_OPENSEARCH_PREFIX",
        "audit",
        "letters, digits and `-`",
        "Stands before the names of indexes and aliases.",
        matching(PREFIX_PATTERN, optional=False),
    ),
    Setting(
        "AUDIT_OPENSEARCH_SNAPSHOTS",
        "",
        "a folder, or nothing for no snapshots",
        "Where all nodes of OpenSearch keep snapshots: below their `path.repo`, shared.",
        text,
    ),
    Setting(
        "AUDIT_DATABASE",
        "",
        "a postgresql:// URL",
        "PostgreSQL: tenants, devices, credentials.",
        database,
    ),
    Setting(
        "AUDIT_REDIS",
        "",
        "a redis:// or rediss:// URL",
        "Redis: rate limits.",
        redis,
    ),
    Setting(
        "AUDIT_REDIS_PREFIX",
        "audit",
        "letters, digits and `-`",
        "Stands before the names of keys.",
        matching(PREFIX_PATTERN, optional=False),
    ),
    Setting(
        "AUDIT_OIDC_ISSUER",
        "",
        "a URL, or nothing",
        "Whose bearer tokens are taken beside API keys.",
        optional_url,
    ),
    Setting(
        "AUDIT_OIDC_AUDIENCE",
        "audit-platform",
        "text",
        "Whom the tokens must be meant for.",
        host,
    ),
    Setting(
        "AUDIT_OIDC_CLIENT",
        "",
        "text, or nothing",
        "Client id of dagster-gate at the provider (authorization code with PKCE).",
        text,
    ),
    Setting(
        "AUDIT_OIDC_SECRET",
        "",
        "text, or nothing",
        "The secret of AUDIT_OIDC_CLIENT.",
        text,
    ),
    Setting(
        "AUDIT_DAGSTER",
        "",
        "a URL, or nothing",
        "Dagster's webserver, as the exporter reaches it (beside the proxy for people, on "
        "loopback): heartbeats, queue, failures and freshness become metrics.",
        optional_url,
    ),
    Setting(
        "AUDIT_PKCS11_MODULE",
        "",
        "a file, or nothing for keys in files",
        "The PKCS#11 library of a security module: signing keys stay in it, in any profile. Edges "
        "keep their own keys in files.",
        optional_folder,
    ),
    Setting(
        "AUDIT_PKCS11_TOKEN",
        "audit-platform",
        "text",
        "The label of its token.",
        host,
    ),
    Setting(
        "AUDIT_PKCS11_PIN",
        "",
        "text",
        "The PIN of the token's user.",
        text,
    ),
)
