"""What all tests share: Hypothesis without wall-clock limits, since machines are throttled."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", settings.get_profile("default"), max_examples=20_000)
settings.load_profile("default")
