"""What ``crabctl schema`` prints of a live daemon, judged by those for whom it is made."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import trio

from tests.e2e.daemon import PATIENCE, Daemon
from tests.e2e.editors.visiting import HERE, MODULES, needs_module
from tests.e2e.luacats import Annotations, names_in
from tests.e2e.test_search import crabctl

# Prints nothing if the official validator finds nothing to say of a document.
VALIDATE = """
import { readFileSync } from "node:fs";
import { validateOpenRPCDocument } from "@open-rpc/schema-utils-js";
const found = validateOpenRPCDocument(JSON.parse(readFileSync(0, "utf8")));
if (found !== true) console.log(found.message);
"""
TYPES = HERE / "types"
COMPILING = ("--noEmit", "--strict", "--target", "es2022", "--moduleResolution", "bundler", "--ignoreConfig")


async def run_node(*arguments: str, given: bytes = b"") -> tuple[int, str]:
    """Run node among the packages of the tests; returns its exit code and what it printed."""
    with trio.fail_after(4 * PATIENCE):
        done = await trio.run_process(
            ["node", *arguments],
            stdin=given,
            cwd=HERE,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return done.returncode, done.stdout.decode()


async def schema_of(daemon: Daemon, *options: str) -> bytes:
    """Run ``crabctl schema``; returns what it printed."""
    done = await crabctl(daemon.home, "schema", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    return bytes(done.stdout)


async def validate(document: bytes) -> str:
    code, printed = await run_node("--input-type=module", "--eval", VALIDATE, given=document)
    assert code == 0, printed
    return printed


async def check_types(daemon: Daemon, directory: Path, program: str) -> tuple[int, str]:
    """Have the compiler check a program in ``types/`` against those of the daemon."""
    (directory / "crabd.ts").write_bytes(await schema_of(daemon, "--types", "typescript"))
    for file in TYPES.iterdir():
        shutil.copy(file, directory)
    compiler = str(MODULES / "typescript" / "bin" / "tsc")
    return await run_node(compiler, *COMPILING, str(directory / program))


@needs_module("@open-rpc/schema-utils-js")
async def test_the_document_is_one_that_the_official_validator_takes(daemon: Daemon) -> None:
    document = await schema_of(daemon)

    assert await validate(document) == ""


@needs_module("@open-rpc/schema-utils-js")
async def test_the_official_validator_finds_what_is_wrong(daemon: Daemon) -> None:
    document = msgspec.json.decode(await schema_of(daemon))
    del document["methods"][0]["result"]["schema"]

    told = await validate(msgspec.json.encode(document))

    assert "schema" in told


async def test_as_json_it_is_the_same_document_that_discover_gives(daemon: Daemon) -> None:
    client = await daemon.connect()

    printed = [await schema_of(daemon), await schema_of(daemon, "--json")]

    assert [msgspec.json.decode(text) for text in printed] == [await client.call("rpc.discover")] * 2


@needs_module("typescript")
async def test_a_plugin_in_typescript_is_checked_by_its_types(daemon: Daemon, tmp_path: Path) -> None:
    assert await check_types(daemon, tmp_path, "plugin.ts") == (0, "")


@needs_module("typescript")
async def test_the_mistakes_of_a_plugin_are_found_by_its_types(daemon: Daemon, tmp_path: Path) -> None:
    lines = (TYPES / "mistakes.ts").read_text().splitlines()

    code, told = await check_types(daemon, tmp_path, "mistakes.ts")

    assert code != 0
    found = {int(number) for number in re.findall(r"mistakes\.ts\((\d+),\d+\): error", told)}
    assert found == {number for number, line in enumerate(lines, 1) if line.endswith("// wrong")}, told
    assert "plugin.ts(" not in told
    assert "crabd.ts(" not in told


async def test_the_annotations_for_lua_are_whole(daemon: Daemon) -> None:
    text = (await schema_of(daemon, "--types", "lua")).decode()

    read = Annotations(text)

    assert read.unknown == set()
    assert read.fields["crabd.Methods"]['["session/get"]'] == "fun(params: crabd.OfSession): crabd.Snapshot"
    assert read.fields["crabd.TextDelta"] == {"type": '"text_delta"', "text": "string"}
    assert "---@class crabd.TextDelta: crabd.Envelope" in text


@pytest.mark.parametrize(
    "type_", ["string|", "(string", "table<string>", "fun(a: string)", "a b", "string[", ""]
)
def test_the_reader_of_annotations_takes_no_type_that_is_none(type_: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        names_in(type_)


async def test_a_language_that_there_is_not_is_told_of(daemon: Daemon) -> None:
    wrong = await crabctl(daemon.home, "schema", "--types", "cobol")
    both = await crabctl(daemon.home, "schema", "--types", "lua", "--json")

    assert (wrong.returncode, both.returncode) == (2, 2)
    assert b"typescript and lua" in wrong.stderr
