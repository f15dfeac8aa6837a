"""Links between days: each chain judged over all counting manifests of a tenant.

Inputs are what manifests state (spans, refused events that stay links) and what signed edge events
say (chain_start, loss). Belongs here: judgement without rows. Does not: rows (`walk.py`), words
(`spans.py`), signatures (`signing.py`).
Source: design section 3 (chains, losses, verdicts), 7 (a refused event stays a link).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from audit_platform.errors import RecordMalformed
from audit_platform.record.canonical import MAX_SAFE_INTEGER
from audit_platform.record.intervals import Intervals, common, merged, without
from audit_platform.record.layout import ZERO_HASH
from audit_platform.record.links import EventLink
from audit_platform.record.spans import ChainSpan, Finding, Verdict

# --------------------------------------------------------------------------------------- inputs


@dataclass(frozen=True, slots=True)
class ChainStart:
    """A `chain_start` event that is held, with its eventHash in lower hex."""

    device_id: str
    chain_id: str
    sequence: int
    event_hash: str


@dataclass(frozen=True, slots=True)
class LossRun:
    """One run of a signed `loss` event: sequences `first` to `last` were dropped."""

    device_id: str
    chain_id: str
    first: int
    last: int
    count: int


def loss_runs(payload: Mapping[str, Any]) -> tuple[LossRun, ...]:
    """The runs of a `loss` event's payload. Raises `RecordMalformed`."""
    runs = payload.get("runs")
    if not isinstance(runs, list):
        raise RecordMalformed("loss", "runs", "not a list")
    return tuple(_loss_run(run) for run in runs)


def _loss_run(run: object) -> LossRun:
    if not isinstance(run, dict):
        raise RecordMalformed("loss", "runs", "a run is not an object")
    device, chain = run.get("deviceId"), run.get("chainId")
    first, last, count = run.get("first"), run.get("last"), run.get("count")
    if type(first) is not int or type(last) is not int or type(count) is not int:
        raise RecordMalformed("loss", "runs", "first, last and count are not integers")
    if not isinstance(device, str) or not isinstance(chain, str):
        raise RecordMalformed("loss", "runs", "deviceId and chainId are not text")
    if not 0 <= first <= last <= MAX_SAFE_INTEGER:
        raise RecordMalformed("loss", "runs", "first to last is no range of sequences")
    return LossRun(device, chain, first, last, count)


@dataclass(frozen=True, slots=True)
class DayChains:
    """What a counting manifest says of chains, and what its signed edge events say.

    `losses` and `starts` are of events whose signature is good.
    """

    day: str
    spans: Sequence[ChainSpan] = ()
    links: Sequence[EventLink] = ()
    losses: Sequence[LossRun] = ()
    starts: Sequence[ChainStart] = ()


@dataclass(frozen=True, slots=True)
class LinkJudgement:
    """Findings in the order of day, device, chain, sequence; and losses over held events.

    An over-declared loss is shown and never a fault.
    """

    findings: list[Finding]
    over_declared: list[LossRun]


# --------------------------------------------------------------------------------- over the days

_Chain = tuple[str, str]


@dataclass(slots=True)
class _Run:
    """Sequences `first` to `last` of a chain without a hole, held by one day.

    `prev` is what its first event names, `head` the hash of its last. A refused event is a run of
    its own. A run with `unlisted` gaps has that many holes, and nobody says here where.
    """

    first: int
    last: int
    prev: str
    head: str
    day: int
    refused: bool
    unlisted: int = 0

    def held(self) -> Intervals:
        """Sequences that it holds, as far as is known."""
        if self.unlisted:
            return [(self.first, self.first), (self.last, self.last)]
        return [(self.first, self.last)]


@dataclass(slots=True)
class _Known:
    """All that is known of chains, gathered over the days.

    `starts` are (device, chain, sequence), `start_hashes` (chain, eventHash) of chain_start events.
    `heads` says of which chain of a device a run's head is; `lost` are chains of which declared
    losses are held by nobody; `first_chain` is the chain that a device began with: the one of the
    earliest day; of several, one that names no head of another.
    """

    runs: dict[_Chain, list[_Run]] = field(default_factory=dict)
    losses: dict[_Chain, list[tuple[LossRun, int]]] = field(default_factory=dict)
    starts: set[tuple[str, str, int]] = field(default_factory=set)
    start_hashes: set[tuple[str, str]] = field(default_factory=set)
    heads: dict[tuple[str, str], str] = field(default_factory=dict)
    lost: dict[str, set[str]] = field(default_factory=dict)
    first_chain: dict[str, str] = field(default_factory=dict)

    def is_head_of_other(self, device_id: str, chain_id: str, event_hash: str) -> bool:
        """Whether a hash is the head of a run of another chain of the device."""
        return self.heads.get((device_id, event_hash), chain_id) != chain_id

    def is_plain(self, chain: _Chain) -> bool:
        """Whether it is seen at once that there is nothing to find: as of nearly every chain.

        One run, no loss, it begins at a chain_start or a known head, and no reset: `_ChainJudge`
        would find the same, at twenty times the cost.
        """
        runs = self.runs.get(chain, ())
        if len(runs) != 1 or chain in self.losses or self.first_chain[chain[0]] != chain[1]:
            return False
        (run,) = runs
        if run.refused or run.unlisted:
            return False
        if run.prev == ZERO_HASH:
            return (*chain, run.first) in self.starts
        return (chain[1], run.prev) in self.start_hashes or self.is_head_of_other(*chain, run.prev)

    def settle(self) -> None:
        """Fill `heads`, `lost` and `first_chain` once all runs are known."""
        for (device, chain), losses in self.losses.items():
            held = merged(x for r in self.runs.get((device, chain), ()) for x in r.held())
            if without([(loss.first, loss.last) for loss, _ in losses], held):
                self.lost.setdefault(device, set()).add(chain)
        for (device, chain), runs in self.runs.items():
            self.heads.update({(device, r.head): chain for r in runs})
        age: dict[str, tuple[int, bool, str]] = {}
        for (device, chain), runs in self.runs.items():
            named = min(runs, key=lambda r: r.first).prev
            mine = min(r.day for r in runs), self.is_head_of_other(device, chain, named), chain
            if device not in age or mine < age[device]:
                age[device] = mine
                self.first_chain[device] = chain


def judge_links(
    days: Sequence[DayChains],
    *,
    trusted: Mapping[tuple[str, str], tuple[int, str]] | None = None,
    is_event: Callable[[str, str], bool] = lambda _device_id, _event_hash: False,
) -> LinkJudgement:
    """Judge each chain over the counting manifests of a tenant, given in the order of days.

    Findings are `gap`, `declared_gap` (a loss or a refused event), `broken_link`, `fork`,
    `duplicate`, `chain_reset` and `truncated`; each names the day that shows it. `trusted` maps
    (device, chain) to a head that the checker has from elsewhere: (sequence, eventHash).
    `is_event(device_id, event_hash)` is asked when a chain begins at neither a chain_start nor a
    known head: an edge restored from an old copy names an event inside an earlier chain, which
    spans do not show.
    """
    known, names = _gather(days), [d.day for d in days]
    findings: list[Finding] = []
    over_declared: list[LossRun] = []
    for chain in sorted(known.runs.keys() | known.losses.keys()):
        if known.is_plain(chain) and not (trusted and chain in trusted):
            continue
        judge = _ChainJudge(chain, known, names, is_event)
        findings += judge.findings()
        over_declared += judge.over_declared
        head = (trusted or {}).get(chain)
        if head is not None and chain in known.runs:
            findings += judge.against_trusted(*head)
    for chain in sorted((trusted or {}).keys() - known.runs.keys()):
        detail = "nothing is held of a chain that has a trusted head"
        last_day = days[-1].day if days else ""
        findings.append(Finding(Verdict.TRUNCATED, *chain, None, None, detail, last_day))
    findings.sort(key=lambda f: (f.day, f.device_id, f.chain_id, f.sequence or 0))
    return LinkJudgement(findings, over_declared)


def _gather(days: Sequence[DayChains]) -> _Known:
    known = _Known()
    for index, day in enumerate(days):
        for span in day.spans:
            runs = known.runs.setdefault((span.device_id, span.chain_id), [])
            runs.extend(_runs_of(span, index))
        for x in day.links:
            run = _Run(
                x.sequence_number, x.sequence_number, x.prev_hash, x.event_hash, index, refused=True
            )
            known.runs.setdefault((x.device_id, x.chain_id), []).append(run)
        for loss in day.losses:
            known.losses.setdefault((loss.device_id, loss.chain_id), []).append((loss, index))
        for start in day.starts:
            known.starts.add((start.device_id, start.chain_id, start.sequence))
            known.start_hashes.add((start.chain_id, start.event_hash))
    known.settle()
    return known


def _runs_of(span: ChainSpan, day: int) -> Iterator[_Run]:
    first, prev = span.first_sequence, span.first_prev_hash
    for gap in span.gaps:
        yield _Run(first, gap.first - 1, prev, gap.head_before, day, refused=False)
        first, prev = gap.last + 1, gap.prev_hash_after
    end = span.last_sequence
    yield _Run(first, end, prev, span.head, day, refused=False, unlisted=span.unlisted_gaps)


class _ChainJudge:
    """One chain of one device over all days."""

    def __init__(
        self,
        chain: _Chain,
        known: _Known,
        days: Sequence[str],
        is_event: Callable[[str, str], bool],
    ) -> None:
        self._device, self._chain = chain
        self._known, self._days, self._is_event = known, days, is_event
        # Of runs with the same first sequence, rows come before a refused event.
        self._runs = sorted(
            known.runs.get(chain, ()), key=lambda r: (r.first, r.refused, r.day, r.last, r.head)
        )
        losses = known.losses.get(chain, [])
        self._lost = merged((loss.first, loss.last) for loss, _ in losses)
        self._held = merged(x for r in self._runs for x in r.held())
        self._losses = losses
        self.over_declared = [
            loss for loss, _ in losses if common(self._held, [(loss.first, loss.last)])
        ]

    def findings(self) -> list[Finding]:
        """All findings of this chain, in no promised order."""
        found = list(self._declared())
        if self._runs:
            found += self._beginning(self._runs[0])
            found += self._along()
            found += self._unlisted()
        return found

    def against_trusted(self, sequence: int, head: str) -> list[Finding]:
        """Compare with a head that the checker was given."""
        end = max(self._runs, key=lambda r: r.last)
        if end.last < sequence:
            detail = f"the chain ends at {end.last}; its trusted head is {sequence}"
            return [self._finding(Verdict.TRUNCATED, end.last, end.day, detail)]
        if end.last == sequence and end.head != head:
            detail = "another event stands where the trusted head is"
            return [self._finding(Verdict.FORK, sequence, end.day, detail)]
        return []

    def _finding(self, verdict: Verdict, sequence: int, day: int, detail: str) -> Finding:
        return Finding(verdict, self._device, self._chain, sequence, None, detail, self._days[day])

    def _declared(self) -> Iterator[Finding]:
        """Lost sequences that nobody holds, as the losses say."""
        for loss, day in self._losses:
            for first, last in without([(loss.first, loss.last)], self._held):
                detail = f"sequences {first} to {last} are declared lost"
                yield self._finding(Verdict.DECLARED_GAP, first, day, detail)

    def _beginning(self, run: _Run) -> Iterator[Finding]:
        """What the chain's first event names as the event before it."""
        device, chain = self._device, self._chain
        if run.refused:
            yield self._refused(run)
        if run.prev == ZERO_HASH:
            fine = (device, chain, run.first) in self._known.starts
            detail = "prevHash is zero, and no chain_start is held here"
        else:
            fine = (
                (chain, run.prev) in self._known.start_hashes
                or self._known.is_head_of_other(device, chain, run.prev)
                # What it names may be among the declared losses of this or an earlier chain.
                or bool(common(self._lost, [(run.first - 1, run.first - 1)]))
                or bool(self._known.lost.get(device, set()) - {chain})
                or self._is_event(device, run.prev)
            )
            detail = "the chain begins at no chain_start and at no event of this device"
        if not fine:
            found = self._finding(Verdict.BROKEN_LINK, run.first, run.day, detail)
            yield replace(found, after_day="")
        if self._known.first_chain[device] != chain:
            detail = "a new chain of a device that has another"
            yield self._finding(Verdict.CHAIN_RESET, run.first, run.day, detail)

    def _along(self) -> Iterator[Finding]:
        """From run to run in the order of sequences."""
        reach = self._runs[0]
        for run in self._runs[1:]:
            if run.first <= reach.last:
                yield from self._overlap(reach, run)
                reach = max(reach, run, key=lambda r: r.last)
                continue
            if run.refused:
                yield self._refused(run)
            if run.first == reach.last + 1:
                if run.prev != reach.head:
                    detail = "prevHash is not the eventHash of the event before"
                    yield self._finding(Verdict.BROKEN_LINK, run.first, run.day, detail)
            else:
                for first, last in without([(reach.last + 1, run.first - 1)], self._lost):
                    detail = f"sequences {first} to {last} are missing"
                    found = self._finding(Verdict.GAP, first, run.day, detail)
                    after = None if reach.day == run.day else self._days[reach.day]
                    yield replace(found, after_day=after)
            reach = run

    def _unlisted(self) -> Iterator[Finding]:
        """Gaps that a manifest only counts. Those within declared losses are declared."""
        for run in self._runs:
            if run.unlisted:
                inside = without([(run.first + 1, run.last - 1)], self._lost)
                verdict = Verdict.GAP if inside else Verdict.DECLARED_GAP
                detail = (
                    f"{run.unlisted} more gaps between sequences {run.first} and {run.last} are"
                    " counted, not listed"
                )
                day = self._days[run.day]
                yield Finding(verdict, self._device, self._chain, None, None, detail, day)

    def _refused(self, run: _Run) -> Finding:
        detail = "refused and kept in quarantine; the chain goes through it"
        return self._finding(Verdict.DECLARED_GAP, run.first, run.day, detail)

    def _overlap(self, reach: _Run, run: _Run) -> Iterator[Finding]:
        """Two runs hold the same sequence: two events, unless it is seen to be one."""
        if reach.unlisted or run.unlisted:
            return  # it may lie in a hole: the rows of its own day show what it links to
        if run.refused:
            # Accepted by one gateway and refused by another counts as accepted. Inside a run its
            # hash is not known; at the run's ends another event shows.
            forks = (run.first == reach.last and run.head != reach.head) or (
                run.first == reach.first and run.prev != reach.prev
            )
            if forks:
                detail = "a refused event has the sequence of another event"
                yield self._finding(Verdict.FORK, run.first, run.day, detail)
        elif (run.first, run.last, run.prev, run.head) == (
            reach.first,
            reach.last,
            reach.prev,
            reach.head,
        ):
            detail = "the same events are held by an earlier day"
            yield self._finding(Verdict.DUPLICATE, run.first, run.day, detail)
        else:
            detail = "another day holds another event with this sequence"
            yield self._finding(Verdict.FORK, run.first, run.day, detail)
