"""The table of methods, held against the names that the contract fixes."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from crabd.api.table import METHODS
from crabd.rpc.methods import InvalidParamsError, Method
from crabd.server.dispatch import HANDLERS

FIXED = """
    initialize rpc.discover
    session/get_or_create session/load session/send session/steer session/cancel session/compact
    session/close session/delete session/list session/get session/history session/subscribe
    session/unsubscribe session/pause session/resume session/configure session/usage session/clear
    agent/list model/list daemon/ping daemon/status daemon/reload daemon/shutdown
"""
each_method = pytest.mark.parametrize("method", list(METHODS), ids=lambda method: method.name)


def test_every_name_that_the_contract_fixes_is_there() -> None:
    assert set(FIXED.split()) - {method.name for method in METHODS} == set()


def test_what_is_described_is_what_is_answered() -> None:
    assert {method.name for method in METHODS} == set(HANDLERS)


@each_method
def test_a_name_is_a_noun_and_a_verb_in_snake_case(method: Method[Any, Any]) -> None:
    is_general = method.name in ("initialize", "rpc.discover")

    assert is_general or re.fullmatch(r"[a-z]+(_[a-z]+)*/[a-z]+(_[a-z]+)*", method.name)


@each_method
def test_a_field_that_nobody_knows_is_refused_by_name(method: Method[Any, Any]) -> None:
    with pytest.raises(InvalidParamsError) as refused:
        method.decode_params(Raw(b'{"bogus": 1}'))

    assert refused.value.path == "$.bogus"


@each_method
def test_the_fields_of_its_parameters_are_in_snake_case(method: Method[Any, Any]) -> None:
    names = [field.encode_name for field in msgspec.structs.fields(method.params)]

    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)


@each_method
def test_a_summary_is_one_sentence(method: Method[Any, Any]) -> None:
    assert re.fullmatch(r"[A-Z][^.]*\.", method.summary)


def test_a_method_that_is_not_in_the_table_is_not_found() -> None:
    assert METHODS.get("session/explode") is None
