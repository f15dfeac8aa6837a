"""`audit-platform store`: a bucket for evidence, and what a store is worth as its keeper."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit_platform.commands._shared import (
    json_option,
    platform,
    settings,
    show,
    show_rows,
    utc,
)
from audit_platform.errors import AuditPlatformError

if TYPE_CHECKING:  # boto3 is slow to import
    from audit_platform.adapters.s3.certify.trial import Result
    from audit_platform.adapters.s3.client import Endpoint

_URL = click.argument("url")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _who(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say as whom the store is asked."""
    options = (
        click.option("--bucket", default="audit", show_default=True, help="The platform's bucket."),
        click.option("--access-key", required=True, help="Who administers the store."),
        click.option("--secret-file", required=True, type=_FILE, help="A file with the secret."),
        click.option("--ca-file", type=_FILE, help="The authority of the store's certificate."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group(
    epilog="Example: audit-platform store certify http://127.0.0.1:7070 "
    "--access-key root --secret-file secret"
)
def command() -> None:
    """The object store: make its bucket, try what it promises, hand out its record.

    `init` and `certify` ask as the store's administrator, whose keys no service has. Secrets are
    read from files: a command line is visible to every user of the machine.
    """


@command.command(
    epilog="Example: audit-platform store init http://127.0.0.1:7070 "
    "--access-key root --secret-file secret --writer audit-writer"
)
@_URL
@_who
@click.option("--writer", multiple=True, help="An identity that may put and lengthen locks.")
@click.option("--reader", multiple=True, help="An identity that may only read.")
@click.option("--keeper", multiple=True, help="Dagster's: may also hold, and end what has no lock.")
@json_option
def init(
    *,
    url: str,
    bucket: str,
    access_key: str,
    secret_file: Path,
    ca_file: Path | None,
    writer: tuple[str, ...],
    reader: tuple[str, ...],
    keeper: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the bucket with object lock and versions; name its identities in its policy.

    Safe to repeat. A store whose policies belong to identities (MinIO, Amazon) wants none named
    here: give its identities the statements of docs/stores.md.
    """
    from audit_platform.adapters.s3.bucket import make_bucket  # noqa: PLC0415 - imports slowly

    admin = _endpoint(url, bucket, access_key, secret_file, ca_file)
    is_new = make_bucket(admin, names={"writer": writer, "reader": reader, "keeper": keeper})
    show({"bucket": bucket, "new": is_new, "writers": " ".join(writer)}, as_json=as_json)


@command.command(
    epilog="Example: audit-platform store certify http://127.0.0.1:7070 "
    "--access-key root --secret-file secret --markdown"
)
@_URL
@_who
@click.option("--writer", default="", help="The services' own access key.")
@click.option("--writer-secret-file", type=_FILE, help="A file with its secret.")
@click.option("--reader", default="", help="The access key of who only reads.")
@click.option("--reader-secret-file", type=_FILE, help="A file with its secret.")
@click.option("--store", "store_name", default="", help="Name and version, for the heading.")
@click.option("--markdown", is_flag=True, help="The section of docs/stores.md.")
@json_option
def certify(
    *,
    url: str,
    bucket: str,
    access_key: str,
    secret_file: Path,
    ca_file: Path | None,
    writer: str,
    writer_secret_file: Path | None,
    reader: str,
    reader_secret_file: Path | None,
    store_name: str,
    markdown: bool,
    as_json: bool,
) -> None:
    """Try what a store promises: locks, put-if-absent, checksums, listings, identities.

    After each refused act the version is read back, byte for byte. Works in a scratch bucket of its
    own and, for the identities, below certify/ in the platform's bucket; what it locked there stays
    for two minutes and means nothing. Exit code 1 if anything that is relied on does not hold.
    """
    from audit_platform.adapters.s3.certify.trial import certify as trial  # noqa: PLC0415 - slow

    admin = _endpoint(url, bucket, access_key, secret_file, ca_file)
    given = {"writer": (writer, writer_secret_file), "reader": (reader, reader_secret_file)}
    identities = {
        kind: dataclasses.replace(admin, access_key=name, secret_key=_secret(file))
        for kind, (name, file) in given.items()
        if name and file is not None
    }
    results = trial(admin, identities)
    name = store_name or admin.host
    if markdown:
        click.echo(_section(name, results), nl=False)
    elif as_json:
        click.echo(json.dumps([dataclasses.asdict(r) for r in results]))
    else:
        rows = [{"about": r.about, "check": r.sentence, "result": _word(r)} for r in results]
        show_rows(rows, as_json=False, none="no check")
    failed = [r for r in results if r.relied_on and not r.holds]
    if failed:
        raise AuditPlatformError(
            f"{name}: {len(failed)} of {len(results)} checks that are relied on do not hold",
            remedy="read them, and docs/stores.md: do not give it evidence that depends on them",
        )


@command.command(epilog="Example: audit-platform store sync")
@json_option
def sync(*, as_json: bool) -> None:
    """Give each of the two stores what only the other one has, locked as long.

    Between AUDIT_S3 and AUDIT_S3_SECOND, both ways, as the services' own identity. Safe to repeat:
    what is there is only compared. Exit code 1 if a body was damaged, or if a key's oldest body
    differs, of which each store goes by its own.
    """
    from audit_platform.operations.second_store import copy_missing  # noqa: PLC0415 - slow
    from audit_platform.wiring import open_objects, open_second_objects  # noqa: PLC0415 - slow

    given = settings()
    with closing(open_objects(given)) as first, closing(open_second_objects(given)) as second:
        walks = {"to second": copy_missing(first, second), "to first": copy_missing(second, first)}
    rows = [
        {
            "walk": name,
            "keys": walk.keys,
            "bodies": walk.bodies,
            "copied": walk.copied,
            "lengthened": walk.lengthened,
            "damaged": len(walk.damaged),
            "otherwise": len(walk.other),
        }
        for name, walk in walks.items()
    ]
    show_rows(rows, as_json=as_json, none="")
    odd = [key for walk in walks.values() for key in (*walk.damaged, *walk.other)]
    if odd:
        raise AuditPlatformError(
            f"{len(odd)} keys are damaged or differ, the first: {odd[0]}",
            remedy="audit-platform fsck tells which copy is good; keep both",
        )


@command.command(epilog="Example: audit-platform store copy /mnt/auditor/record")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@json_option
def copy(*, folder: Path, as_json: bool) -> None:
    """Copy the record into a folder, as an outsider is handed it: every key's oldest version.

    For `audit-platform fsck FOLDER`, from the store of any profile. Safe to repeat: it adds what is
    new. Exit code 1 if a body was damaged (it is copied as it is), or if a file that was there
    differs.
    """
    from audit_platform.operations.copy_record import copy_record  # noqa: PLC0415 - when it runs

    with platform(settings()) as opened:
        done = copy_record(opened.objects, folder)
    show(
        {
            "keys": done.keys,
            "copied": done.copied,
            "bytes": done.copied_bytes,
            "damaged": len(done.damaged),
            "otherwise": len(done.other),
        },
        as_json=as_json,
    )
    odd = [*done.damaged, *done.other]
    if odd:
        raise AuditPlatformError(
            f"{len(odd)} keys are damaged or differ, the first: {odd[0]}",
            remedy="audit-platform fsck FOLDER tells what is wrong; copy into a new folder",
        )


def _endpoint(
    url: str, bucket: str, access_key: str, secret_file: Path, ca_file: Path | None
) -> Endpoint:
    from audit_platform.adapters.s3.client import Endpoint  # noqa: PLC0415 - imports slowly

    return Endpoint(url, bucket, access_key, _secret(secret_file), ca_file)


def _secret(file: Path) -> str:
    return file.read_text().strip()


def _word(result: Result) -> str:
    if result.holds:
        return "holds"
    if not result.tried:
        return f"not tried: {result.found}"
    told = "fails" if result.relied_on else "not so (not relied on)"
    return f"{told}: {result.found}"


def _section(name: str, results: list[Result]) -> str:
    """The section of one store as Markdown."""
    held = sum(r.holds for r in results)
    day = utc(int(time.time() * 1000))[:10]
    lines = [
        f"## {name}",
        "",
        f"Tried on {day}: {held} of {len(results)} checks hold.",
        "",
        "| about | check | result |",
        "|---|---|---|",
        *(f"| {r.about} | {r.sentence} | {_word(r).replace('|', '/')} |" for r in results),
        "",
    ]
    return "\n".join(lines)
