"""The stack tells how full its bounded volumes are, as a kubelet would."""

from __future__ import annotations

from pathlib import Path

import urllib3
from prometheus_client.parser import text_string_to_metric_families

from audit_platform.stack import supervision
from audit_platform.stack.model import Place
from audit_platform.stack.webhook import WebhookReceiver
from audit_platform.stack.webhook_receiver import fullness


def test_a_volume_is_told_by_name_with_its_sizes() -> None:
    # Every Linux has something mounted below its root.
    mounted = {folder.name for folder in Path("/").iterdir() if folder.is_mount()}
    assert mounted
    told: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(fullness(Path("/")).decode()):
        for sample in family.samples:
            told.setdefault(sample.labels["persistentvolumeclaim"], {})[sample.name] = sample.value
    assert told.keys() == mounted
    for sizes in told.values():
        used = sizes["kubelet_volume_stats_used_bytes"]
        assert 0 <= used <= sizes["kubelet_volume_stats_capacity_bytes"]
        assert sizes["kubelet_volume_stats_available_bytes"] >= 0


def test_the_receiver_answers_a_scrape_also_when_nothing_is_bounded(place: Place) -> None:
    supervision.up(place, [WebhookReceiver()], tell=lambda _: None, seconds=60)
    url = f"http://{place.address('webhook')}/metrics"
    answer = urllib3.request("GET", url, retries=False, timeout=30.0)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert list(text_string_to_metric_families(answer.data.decode())) == []
