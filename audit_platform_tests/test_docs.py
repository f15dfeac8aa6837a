"""What the documents say is so: links, commands, targets, columns; and nothing of one machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from audit_platform.cli import main
from audit_platform.record import sealed
from audit_platform.record.layout import manifest_key

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "v1" / "objects"


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607 - git as the developer has it
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name]


def documents() -> list[Path]:
    return [p for p in tracked() if p.suffix == ".md"]


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = []
    seen = 0
    for document in documents():
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target:
                seen += 1
                if not (document.parent / target).exists():
                    broken.append(f"{document.name}: {target}")
    assert broken == []
    assert seen > 10


def mentioned_commands() -> list[str]:
    text = "\n".join(document.read_text() for document in documents())
    verbs = "add|list|new|rotate|revoke|check|suspend|resume|policy|enrol|retire"
    found = re.findall(rf"audit-platform ([a-z-]+(?: (?:{verbs}))?)\b(?!_)", text)
    # Contexts of signatures read alike: `audit-platform manifest v1`.
    contexts = set(re.findall(r"audit-platform (\w+)(?: \w+)* v1", text))
    return sorted(set(found) - contexts)


@pytest.mark.parametrize("command", mentioned_commands())
def test_every_command_in_a_document_exists(command: str) -> None:
    result = CliRunner().invoke(main, [*command.split(), "--help"])
    assert result.exit_code == 0, result.output


def test_every_make_target_in_a_document_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(document.read_text() for document in documents())
    mentioned = set(re.findall(r"`make ([a-z-]+)", text)) | set(
        re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)
    )
    assert len(mentioned) > 4
    assert mentioned <= targets


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / "README.md").read_text()
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make test")


def test_the_formats_page_has_the_columns_of_a_sealed_part() -> None:
    page = (ROOT / "docs" / "formats.md").read_text()
    paragraph = page.split("## Sealed part")[1].split("##")[0].split("Sorted by")[0]
    named = [
        word
        for group in re.findall(r"`([a-z_ ]+)`", paragraph)
        for word in group.split()
        if word in sealed.SEALED_SCHEMA.names
    ]
    assert list(dict.fromkeys(named)) == sealed.SEALED_SCHEMA.names


def test_the_formats_page_has_every_member_of_a_manifest() -> None:
    page = (ROOT / "docs" / "formats.md").read_text().split("## Manifest")[1]
    manifest = orjson.loads((GOLDEN / manifest_key("north", 1)).read_bytes())
    assert [name for name in manifest if f"`{name}`" not in page] == []


def test_no_file_names_a_machines_path_or_a_registrys_host() -> None:
    host = re.compile(
        r"pypi\.o" r"rg|pythonhos" r"ted|npmjs\.c" r"om|maven\.o" r"rg|golang\.o" r"rg/"
    )
    path = re.compile(r"(?<![\w.~$}])/(?:home|root|work)/\w")
    faults = []
    for file in tracked():
        if file.suffix in {".parquet", ".zst"} or not file.is_file():
            continue
        text = file.read_text(errors="replace")
        faults += [f"{file.relative_to(ROOT)}: {m[0]}" for m in host.finditer(text)]
        faults += [f"{file.relative_to(ROOT)}: {m[0]}" for m in path.finditer(text)]
    assert faults == []
