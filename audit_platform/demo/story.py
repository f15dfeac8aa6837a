"""The story that the first command tells: a day of bedside data comes in, is sealed, and proved.

Chapters: `_begin` (folder, keys, processes), `_replay` (devices say the day), `_sealed` (Dagster
closes and seals it; nobody here does), `_prove` (by programs of their own), `_tell` (what a person
reads). Belongs here: the order, and how long each may take. Does not: how a chapter does it.
Source: issue "Walking skeleton", what a newcomer sees.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import urllib3
from rich.console import Console

from audit_platform.demo import proofs, questions, setup
from audit_platform.demo.children import Child, Children, end_stale
from audit_platform.demo.dagster_ui import DagsterSilent, DagsterUi, SealRun
from audit_platform.demo.display import Display, figures_table
from audit_platform.demo.edges import Edges
from audit_platform.demo.ground import Ground, ground_of
from audit_platform.demo.home import DemoHome, DemoStopped, clock_text, scaled_clock
from audit_platform.demo.mapping import hospitals
from audit_platform.demo.programs import (
    GRACE_SECONDS,
    choose_ports,
    dagster_commands,
    devices_command,
    environment_of,
    second_instances,
    service_commands,
    settings_of,
    storage_command,
)
from audit_platform.demo.proofs import Proof, TenantFigures
from audit_platform.demo.record_view import RecordView
from audit_platform.demo.stage import Stage, not_sealed, rows_of, taken_of
from audit_platform.record import layout
from audit_platform.settings import Settings
from audit_platform.wiring import open_keys

#: A step of waiting: short enough for the eye, long enough to cost nothing.
TICK_SECONDS: Final = 0.25

#: Services import for 3 s; on a machine whose cores Dagster's start takes, for 20.
READY_SECONDS: Final = 90.0

#: What devices and edges may need after the day's last event is due, and Dagster from the day's
#: closing to its runs' end (30 s alone on two cores; one retry after a minute).
DEVICES_SECONDS: Final = 120.0
SEAL_SECONDS: Final = 300.0

#: Share of the day's events at which somebody searches.
LOOK_AT: Final = 0.6

#: Lines of a proof that are shown; the first ones name the place.
SHOWN_FINDINGS: Final = 4

_READY: Final = 200


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for.

    `day_seconds`: real time that the day is played in. `hospitals`: how many of the excerpt's. With
    the profile `stack`, `base_port` is the first port of new servers (0: the first that is free).
    """

    home: Path
    hospitals: int
    exit: bool
    fresh: bool
    day_seconds: float
    profile: str = "embedded"
    base_port: int = 0
    keep_servers: bool = False


class Story:
    """One run of the demo. `stop` is set when a person wants it to end."""

    def __init__(self, options: Options, console: Console, stop: threading.Event) -> None:
        self._options = options
        self._console = console
        self._display = Display(console)
        self._stop = stop

    def run(self) -> int:
        """Tell it; 0 when every proof held, 1 when one did not.

        Nothing that was started is left on return. Raises `AuditPlatformError` when it cannot go
        on, `KeyboardInterrupt` when `stop` was set before the end.
        """
        home = DemoHome(self._options.home)
        with home.locked(), ExitStack() as ending:
            stale = end_stale(home.children_file, home.root)
            if stale:
                self._display.say(f"ended {stale} processes that a killed demo had left")
            options = self._options
            ground = ground_of(
                options.profile,
                home,
                self._stop,
                base_port=options.base_port,
                keep=options.keep_servers,
            )
            if options.fresh:
                ground.forget()
                home.forget()
            ending.callback(ground.down, self._display.say)
            ground.up(self._display.say)
            stage = self._begin(home, ground, ending)
            self._display.start()
            self._replay(stage)
            runs = self._sealed(stage)
            table, proved = self._prove(stage, runs)
            self._display.stop()
            self._tell(stage, runs, table, proved)
            held = all(proof.held for proof in proved)
            if not self._options.exit:
                self._stay(stage)
        return 0 if held else 1

    # ---------------------------------------------------------------------------------- begin

    def _begin(self, home: DemoHome, ground: Ground, ending: ExitStack) -> Stage:
        """Choose the day, make what is missing, start everything."""
        today = datetime.now(UTC).date().isoformat()
        known = hospitals()
        source = ground.source()
        closings = source.keys(layout.closings_prefix())
        state = home.begin(today, list(known)[: self._options.hospitals], closings)
        played = {tenant_id: known[tenant_id] for tenant_id in state.tenants}
        self._display.say(
            f"Playing {state.day} (UTC) in about {self._options.day_seconds:.0f} s; "
            f"everything lies in {home.root}"
        )
        servers = ground.settings() | {"AUDIT_PROFILE": ground.profile}
        wanted = Settings.from_environment({**os.environ, **servers})
        ports = choose_ports(wanted, len(played), ground.instances)
        for moved in ports.moved:
            self._display.say(moved)
        clock = clock_text(state, self._options.day_seconds, time.time_ns() // 10**6)
        settings = settings_of(home, state, clock, ports, os.environ, servers)
        ground.prepare(settings)
        setup.prepare(home, settings, played)
        workspace = setup.prepare_dagster(settings.dagster_folder, ports.code, ground.profile)
        environment = environment_of(settings, ground.environment())
        children = Children(home.logs, home.children_file, environment)
        stage = Stage(
            home,
            ground,
            state,
            settings,
            children,
            RecordView(source, ground.look_seconds),
            DagsterUi(f"http://127.0.0.1:{settings.ui_port}"),
            dagster_commands(settings, ports.code, workspace),
            Edges(home, settings, children, played, ports.edges, ports.relay, ports.ingests),
        )
        ending.callback(self._end, stage)
        stage.serve(service_commands(), second_instances(ports))
        return stage

    # --------------------------------------------------------------------------------- replay

    def _replay(self, stage: Stage) -> None:
        """Have every tenant's devices say their day; return when the platform has archived it."""
        # Dagster's start takes both cores for half a minute and has time until the day's end.
        for port in stage.edges.ingest_ports:
            self._wait_ready(stage, f"http://127.0.0.1:{port}/readyz")
        stage.edges.start()
        stage.storage = stage.children.start("dagster-storage", storage_command())
        day = stage.state.day
        devices = {
            tenant_id: stage.children.start(
                f"devices-{tenant_id}",
                devices_command(stage.home, tenant_id, stage.edges.url(tenant_id), day),
            )
            for tenant_id in stage.tenants
        }
        patience = DEVICES_SECONDS * stage.ground.patience
        until = time.monotonic() + self._options.day_seconds + patience
        self._disturb(stage, list(devices.values()), until)
        for child in devices.values():
            if child.ended():
                raise child.failure(f"ended with code {child.ended()}")
        while waiting := stage.edges.waiting():
            if time.monotonic() > until:
                raise DemoStopped(f"edges did not get rid of: {waiting}", remedy="read their logs")
            self._tick(stage, "edges wait for the archive")

    def _disturb(self, stage: Stage, devices: Sequence[Child], until: float) -> None:
        """Do what is due to edges, and search once, while devices speak; all of it is done then."""
        looked = False
        while True:
            running = [c for c in devices if c.ended() is None]
            if running and time.monotonic() > until:
                raise running[0].failure("did not finish in time")
            self._tick(stage, "devices speak")
            share = taken_of(stage) if running else 1.0
            done = stage.edges.step(share)
            if share >= LOOK_AT and not looked:
                looked = self._look_at(stage)
            if done:
                self._display.say(done)
            elif not running:
                return

    def _look_at(self, stage: Stage) -> bool:
        """Somebody searches while the day runs: a read is an event, and sealed with the day."""
        found = questions.search_by_investigator(stage.home, stage.query_url, stage.tenants[0])
        if found is not None:
            self._display.say(f"an investigator of {stage.tenants[0]} searches: {found} events")
        return found is not None

    def _wait_ready(self, stage: Stage, url: str) -> None:
        until = time.monotonic() + READY_SECONDS * stage.ground.patience
        with urllib3.PoolManager(timeout=TICK_SECONDS, retries=False) as pool:
            while time.monotonic() < until:
                try:
                    if pool.request("GET", url).status == _READY:
                        return
                except urllib3.exceptions.HTTPError:
                    pass  # it does not listen yet
                self._tick(stage, "services start")
        raise stage.services[0].failure("did not become ready")

    # ----------------------------------------------------------------------------------- seal

    def _sealed(self, stage: Stage) -> dict[str, SealRun]:
        """Wait until Dagster has closed and sealed the day; returns each tenant's good run.

        Nothing is asked of Dagster but what became of its runs.
        """
        day = stage.state.day
        midnight = layout.day_end_ms(day) + GRACE_SECONDS * 1000
        until = time.monotonic() + (midnight - self._now(stage)) / 1000
        until += SEAL_SECONDS * stage.ground.patience
        runs: dict[str, SealRun] = {}
        # The platform's own events (who read what) are sealed like all others.
        awaited = {*stage.tenants}
        if stage.view.archived[layout.PLATFORM_TENANT, day]:
            awaited.add(layout.PLATFORM_TENANT)
        missing = set(awaited)
        while missing:
            if time.monotonic() > until:
                raise not_sealed(stage, missing, runs)
            doing = "the day ends" if self._now(stage) < midnight else "Dagster seals"
            self._tick(stage, doing)
            held = {tenant for tenant, sealed in stage.view.manifests if sealed == day}
            missing = awaited - held
        while missing := {t for t in awaited if t not in runs or not runs[t].succeeded}:
            if time.monotonic() > until:
                raise not_sealed(stage, missing, runs)
            self._tick(stage, "Dagster verifies")
            try:
                # Newest first: an older one that failed does not stand over a newer good one.
                found = sorted(stage.ui.seal_runs(day), key=lambda r: r.succeeded)
            except DagsterSilent:
                continue
            runs = {run.tenant_id: run for run in found}
        return runs

    # ---------------------------------------------------------------------------------- prove

    def _prove(
        self, stage: Stage, runs: Mapping[str, SealRun]
    ) -> tuple[list[TenantFigures], list[Proof]]:
        """Run all proofs, the later ones also when an earlier one failed."""
        home, day = stage.home, stage.state.day

        def run(name: str, command: Sequence[str]) -> tuple[int, bytes]:
            output = home.logs / f"{name}.json"
            child = stage.children.start(name, command, output)
            while (code := child.ended()) is None:
                self._tick(stage, f"proof: {name}")
            return code, output.read_bytes()

        stage.ground.hand_over(self._display.say)
        table = proofs.figures(home, stage.view, stage.tenants)
        proofs.write_keys(home, open_keys(stage.settings).public_keys())
        heads = {tenant: r.head for tenant, r in runs.items()}
        checks = sum(len(r.checks) for r in runs.values())
        return table, [
            Proof(
                "Dagster: every tenant's day is sealed and verified",
                all(r.succeeded for r in runs.values()),
                f"{len(runs)} runs of seal_day, started by its sensor; {checks} checks passed",
            ),
            proofs.prove_counts(run, table, stage.view.after(day)),
            proofs.prove_receipts(run, home, stage.tenants),
            proofs.prove_clean(run, home, heads),
            proofs.prove_damage(run, home, proofs.largest_part(stage.view, day)),
            stage.edges.proof(table),
            *questions.ask_all(self._scene(stage, run)),
        ]

    def _scene(self, stage: Stage, run: proofs.Run) -> questions.Scene:
        """The tenant whose record holds a refused event; else the first."""
        day = stage.state.day
        manifests = {t: stage.view.manifests[t, day] for t in stage.tenants}
        tenant_id = max(manifests, key=lambda t: (bool(manifests[t].links), t))
        return questions.Scene(
            stage.home,
            stage.ground,
            stage.settings,
            stage.query_url,
            tenant_id,
            manifests[tenant_id],
            run,
            lambda: self._tick(stage, ""),
        )

    # ----------------------------------------------------------------------------------- tell

    def _tell(
        self,
        stage: Stage,
        runs: Mapping[str, SealRun],
        table: Sequence[TenantFigures],
        proved: Sequence[Proof],
    ) -> None:
        self._console.print(figures_table(table, f"all days up to {stage.state.day}, in events"))
        for proof in proved:
            self._display.say(f"{'PROVED' if proof.held else 'FAILED'}  {proof.name}")
            self._display.say(f"        {proof.said}")
            for line in proof.lines[:SHOWN_FINDINGS]:
                self._display.say(f"        {line}")
            if len(proof.lines) > SHOWN_FINDINGS:
                self._display.say(f"        and {len(proof.lines) - SHOWN_FINDINGS} more")
        ui = stage.ui.url
        run_id = next(iter(runs.values())).run_id
        verdict = "every proof held" if all(p.held for p in proved) else "NOT every proof held"
        self._display.say(f"verdict: {verdict}")
        profile = "" if stage.ground.profile == "embedded" else f" PROFILE={stage.ground.profile}"
        when = f" (make dagster{profile} brings it back)" if self._options.exit else ""
        self._display.say(f"Dagster: {ui}  this seal: {ui}/runs/{run_id}{when}")
        self._display.say(f"data: {stage.home.root}  logs: {stage.home.logs}")
        keys = " ".join(proofs.key_arguments(stage.home))
        program = Path(sys.executable).with_name("audit-platform")
        self._display.say(f"the damaged copy: {program} fsck {stage.home.damaged_copy} {keys}")
        self._display.say(
            f"again: make demo{profile} (the next day, on the same data) · afresh: make demo"
            f"{profile} FRESH=1 · Dagster on this data: make dagster{profile}"
        )

    def _stay(self, stage: Stage) -> None:
        """Everything stays up until a person ends it."""
        self._display.say("Everything stays up; Ctrl-C ends it.")
        while not self._stop.is_set():
            try:
                self._tick(stage, "")
            except KeyboardInterrupt:
                return

    def _end(self, stage: Stage) -> None:
        self._display.stop()
        self._display.say("stopping")
        self._remember(stage)
        stage.children.stop()

    # ----------------------------------------------------------------------------------- tick

    def _tick(self, stage: Stage, doing: str) -> None:
        """Wait a moment; look after processes and display. `doing` "": nothing to show."""
        if self._stop.wait(TICK_SECONDS):
            raise KeyboardInterrupt
        stage.watch()
        stage.children.cap_logs()
        self._remember(stage)
        if doing:
            stage.view.show()
            self._display.show(doing, self._now(stage), rows_of(stage))

    def _now(self, stage: Stage) -> int:
        return scaled_clock(stage.settings.clock).now_ms()

    def _remember(self, stage: Stage) -> None:
        """What the wall clock shows: a next run goes on from there, whatever ends this one."""
        stage.state.wall_ms = self._now(stage)
        stage.home.store(stage.state)
