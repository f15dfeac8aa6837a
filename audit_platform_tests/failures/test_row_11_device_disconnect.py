"""Row 11: one device falls silent: its age shows, others go on, and what it lost is a gap."""

from __future__ import annotations

from pathlib import Path

from audit_platform.operations.manifests import read_history
from audit_platform.services.edge_placing import Outcome
from audit_platform_tests.failures.site import Site, open_site
from audit_platform_tests.services.edge_world import TENANT, line

SILENT_AFTER_SECONDS = 600


def last_seen_age(site: Site, device: str) -> float:
    """Seconds since the edge heard of a device, as an alert computes it."""
    seen = site.metrics()[f'device_last_seen{{device="{device}"}}']
    return site.world.clock.now_ms() / 1000 - seen


def test_row_11_a_silent_device_shows_resumes_by_its_number_and_leaves_a_visible_gap(
    tmp_path: Path,
) -> None:
    with open_site(tmp_path) as site:
        site.say("pump-1", 3)
        site.say("pump-2", 3)
        # Signal: only the one that fell silent is over the threshold.
        for _ in range(3):
            site.world.clock.advance(SILENT_AFTER_SECONDS * 500)
            site.say("pump-1", 1)
        assert last_seen_age(site, "pump-2") > SILENT_AFTER_SECONDS
        assert last_seen_age(site, "pump-1") == 0

        # It comes back: what it is not sure of it sends again, what it lost is lost (3, 4, 5).
        again = site.intake.take([line(n, "pump-2") for n in (1, 2)])
        assert [a.outcome for a in again] == [Outcome.ALREADY_TAKEN] * 2
        site.numbers["pump-2"] = 6
        site.say("pump-2", 2)
        assert last_seen_age(site, "pump-2") == 0

        site.send()
        site.archive()
        assert site.kept() == 0
        site.world.close()
        site.world.seal(TENANT)
        report = site.world.verify(TENANT)
        # The gap is on record, of this device and no other.
        gaps = [e for e in report.entries if e.verdict == "gap"]
        assert [(e.device_id, e.sequence) for e in gaps] == [("pump-2", 3)]
        [manifest] = read_history(site.world.platform, TENANT).counting.values()
        shown = {span.device_id: span.gaps for span in manifest.chains if span.gaps}
        assert [(gap.first, gap.last) for gap in shown.pop("pump-2")] == [(3, 5)]
        assert shown == {}
        found = site.check()
        assert found["clean"]
        assert found["acknowledged"] == found["rows"]
