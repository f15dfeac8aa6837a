"""What the exporter asks Dagster is a question that this version of Dagster understands."""

from dagster_graphql.schema import create_schema
from graphql import parse, validate

from audit_platform.adapters.dagster import state


def test_the_question_fits_the_schema() -> None:
    schema = create_schema().graphql_schema
    assert validate(schema, parse(state._QUESTION)) == []
    assert validate(schema, parse(state._QUESTION.replace("creationTime", "createdAt"))) != []
