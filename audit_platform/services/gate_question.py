"""What a person asks of Dagster: which changes, and in whose name runs are started.

Belongs here: reading one GraphQL request, the tags that name the person. Does not: who the person
is (`gate_session.py`), recording, passing on (`gate.py`).
Source: GraphQL, October 2021; Dagster's schema 1.13; issue "who launched what is an audit event".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLSyntaxError,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    VariableNode,
    parse,
)

#: The largest question of Dagster's own page has 2,000 words.
MAX_TOKENS: Final = 20_000

#: The tag of a run that says which person started it, by the id under which record names them.
PERSON_TAG: Final = "audit/person"

#: Mutations that start runs: argument -> the way to the tags inside it. The argument must come as a
#: variable, as from Dagster's page: what stands in the text of the question is not edited.
_EXECUTION: Final[dict[str, tuple[str, ...]]] = {"executionParams": ("executionMetadata", "tags")}
_AGAIN: Final[dict[str, tuple[str, ...]]] = {"reexecutionParams": ("extraTags",)}
LAUNCHES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "launchRun": _EXECUTION,
    "launchPipelineExecution": _EXECUTION,
    "launchMultipleRuns": {"executionParamsList": ("executionMetadata", "tags")},
    "launchRunReexecution": _EXECUTION | _AGAIN,
    "launchPipelineReexecution": _EXECUTION | _AGAIN,
    "launchPartitionBackfill": {"backfillParams": ("tags",)},
    "reexecutePartitionBackfill": _AGAIN,
}

#: Mutations that change nothing: what the page tells its makers (switched off) and dry runs.
HARMLESS: Final = frozenset({"logTelemetry", "sensorDryRun", "scheduleDryRun"})


class QuestionRefused(Exception):
    """Not passed on; the text says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request. `changes` are the mutations in it, empty for one that only reads.

    `body` is what is passed on: with the person's tag where it starts runs.
    """

    changes: tuple[str, ...]
    body: bytes


def read_question(data: bytes, person: str) -> Question:
    """Raises `QuestionRefused` for what cannot be understood wholly: it might change something."""
    try:
        body = orjson.loads(data)
        document = parse(body["query"], no_location=True, max_tokens=MAX_TOKENS)
    except (ValueError, KeyError, TypeError, GraphQLSyntaxError, RecursionError) as e:
        raise QuestionRefused(f"this is no GraphQL request: {str(e)[:200]}") from e
    fields = list(_changes(document))
    if not fields:
        return Question((), data)
    variables = body.get("variables") or {}
    for field in fields:
        for argument, way in LAUNCHES.get(field.name.value, {}).items():
            _sign(field, argument, way, variables, person)
    names = tuple(f.name.value for f in fields if f.name.value not in HARMLESS)
    return Question(names, orjson.dumps({**body, "variables": variables}))


def _changes(document: DocumentNode) -> Iterator[FieldNode]:
    """The fields of every mutation in the document, whichever operation is asked for."""
    for definition in document.definitions:
        if not isinstance(definition, OperationDefinitionNode):
            continue
        if definition.operation is OperationType.SUBSCRIPTION:
            raise QuestionRefused("subscriptions are not passed on: ask again instead")
        if definition.operation is OperationType.MUTATION:
            if any(v.default_value is not None for v in definition.variable_definitions or ()):
                # It would count where the variable is left out, and nobody's name is in it.
                raise QuestionRefused("a variable of a mutation may have no default")
            yield from _fields(definition.selection_set)


def _fields(selected: SelectionSetNode) -> Iterator[FieldNode]:
    for node in selected.selections:
        if not isinstance(node, FieldNode):
            raise QuestionRefused("a mutation must name its fields itself, not by a fragment")
        yield node


def _sign(
    field: FieldNode, name: str, way: tuple[str, ...], variables: dict[str, Any], person: str
) -> None:
    """Put the person's tag into the variable that an argument is."""
    for argument in field.arguments:
        if argument.name.value != name:
            continue
        if not isinstance(argument.value, VariableNode):
            raise QuestionRefused(f"{field.name.value}: {name} must come as a variable")
        value = variables.get(argument.value.name.value)
        try:
            for params in value if isinstance(value, list) else [value]:
                if params is not None:
                    _tag(params, way, person)
        except (TypeError, AttributeError, KeyError) as e:
            raise QuestionRefused(f"{field.name.value}: {name} is not as Dagster has it") from e


def _tag(params: dict[str, Any], way: tuple[str, ...], person: str) -> None:
    *above, last = way
    for step in above:
        if params.get(step) is None:
            params[step] = {}
        params = params[step]
    given = [t for t in params.get(last) or [] if t["key"] != PERSON_TAG]
    params[last] = [*given, {"key": PERSON_TAG, "value": person}]
