"""Dagster: thin assets, checks, sensors, schedules, jobs. Bodies call `operations/`."""
