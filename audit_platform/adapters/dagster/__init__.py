"""Dagster seen from outside, by its GraphQL. Nothing here imports Dagster."""
