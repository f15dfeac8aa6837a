"""Asking: searches, timelines, single events with their proof, exports. Plain functions, no HTTP.

`model.py` what answers look like · `reader.py kept.py` the platform with what queries remember,
bounded · `scope.py reach.py` which days and objects a question concerns, and the completeness line
· `footers.py units.py` row groups · `cold.py` rows out of sealed parts and landing · `search.py`
HOT, else COLD · `device.py spans.py marks.py timeline.py` a device's events with verdicts between
them · `event.py quarantine.py` one event, its bytes, its proof · `export.py` rows as a stream ·
`entries.py manifests.py reads.py` lists.

    reader = Reader(platform)                          # one a process; for several threads
    search(reader, EventQuery(...), tier=Tier.AUTO, is_cancelled=...) -> SearchResult
    timeline(reader, TimelineQuery(...), tier=Tier.AUTO, is_cancelled=...) -> Timeline
    event_by_id(reader, tenant_id, event_id_or_hash, is_cancelled=...) -> EventFound
    export(reader, EventQuery(...), ExportFormat.NDJSON, ...) -> Iterator[bytes]
"""
