"""Who may import whom, held over the source; and what a plain crabctl call must not load."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from subprocess import DEVNULL, run
from typing import Literal

import pytest
from msgspec import Struct

from tests.crabctl.program import PATIENCE, ROOT
from tests.crabctl.small_daemon import small_daemon

EVERYTHING = {"crabd"}
# The words that all rooms share, but for rpc, which must not know what it carries.
WORDS = {"crabd.errors", "crabd.events", "crabd.masking", "crabd.messages"}
# A room and what it may import besides itself; a name stands for everything below it. ``crabd.__init__``,
# which holds the version, is open to all but rpc.
MAY_IMPORT = {
    "crabd.__init__": set[str](),
    "crabd.__main__": EVERYTHING,
    "crabd.app": EVERYTHING,
    "crabd.config": {
        "crabd.api.address",
        "crabd.errors",
        "crabd.events",
        "crabd.providers.facts",
        "crabd.providers.settings",
        "crabd.runtime.hooks",
        "crabd.tools.servers",
        "crabd.tools.settings",
    },
    "crabd.doctor": EVERYTHING,
    "crabd.errors": set[str](),
    "crabd.events": {"crabd.messages"},
    "crabd.kernel": set[str](),
    "crabd.log": set[str](),
    "crabd.masking": set[str](),
    "crabd.messages": set[str](),
    "crabd.service": set[str](),
    "crabd.surroundings": EVERYTHING,
    "crabd.rpc": set[str](),
    "crabd.api": {"crabd.rpc.methods", *WORDS},
    "crabd.server": {
        "crabd.api",
        "crabd.rpc",
        "crabd.runtime",
        "crabd.memory",
        "crabd.mcp",
        "crabd.tools.base",
        "crabd.tools.servers",
        *WORDS,
    },
    "crabd.runtime": {
        "crabd.providers.base",
        "crabd.store.base",
        "crabd.store.meta",
        "crabd.store.record",
        "crabd.tools.base",
        "crabd.tools.offers",
        "crabd.tools.servers",
        *WORDS,
    },
    "crabd.providers": WORDS,
    "crabd.tools": {"crabd.memory", *WORDS},
    "crabd.store": WORDS,
    "crabd.memory": WORDS,
    "crabd.mcp": {"crabd.tools.base", "crabd.tools.servers", *WORDS},
    "crabctl": {"crabd.api", "crabd.rpc", *WORDS},
}
# These decide and never await; a name that ends in a dot stands for everything below it.
PURE = (
    "crabd.masking",
    "crabctl.contract",
    "crabctl.luacats",
    "crabctl.typescript",
    "crabd.api.",
    "crabd.providers.answer",
    "crabd.providers.anthropic_answer",
    "crabd.providers.anthropic_wire",
    "crabd.providers.dialects",
    "crabd.providers.facts",
    "crabd.providers.circuit",
    "crabd.providers.openai_answer",
    "crabd.providers.openai_wire",
    "crabd.providers.presets",
    "crabd.providers.responses_answer",
    "crabd.providers.responses_wire",
    "crabd.providers.retry",
    "crabd.providers.script",
    "crabd.providers.settings",
    "crabd.providers.sse",
    "crabd.rpc.connection",
    "crabd.rpc.envelope",
    "crabd.rpc.framing",
    "crabd.rpc.methods",
    "crabd.runtime.broker",
    "crabd.runtime.budget",
    "crabd.runtime.calls",
    "crabd.runtime.changes",
    "crabd.runtime.permissions.commands",
    "crabd.runtime.compaction",
    "crabd.runtime.continuation",
    "crabd.runtime.fork",
    "crabd.runtime.permissions.globs",
    "crabd.runtime.guests",
    "crabd.runtime.hooks",
    "crabd.runtime.instructions",
    "crabd.runtime.listing",
    "crabd.runtime.metering",
    "crabd.runtime.permissions.policy",
    "crabd.runtime.project",
    "crabd.runtime.prompt",
    "crabd.runtime.permissions.reader_options",
    "crabd.runtime.permissions.readers",
    "crabd.runtime.recovery",
    "crabd.runtime.reply",
    "crabd.runtime.rewind",
    "crabd.runtime.permissions.rules",
    "crabd.runtime.run",
    "crabd.runtime.permissions.shell",
    "crabd.runtime.spending",
    "crabd.runtime.permissions.suggestions",
    "crabd.runtime.titles",
    "crabd.runtime.permissions.wrappers",
    "crabd.server.acp.calls",
    "crabd.server.acp.content",
    "crabd.server.acp.options",
    "crabd.server.acp.params",
    "crabd.server.acp.replay",
    "crabd.server.acp.schema",
    "crabd.server.acp.servers",
    "crabd.server.acp.updates",
    "crabd.store.doctor.flaws",
    "crabd.store.journal.line",
    "crabd.store.journal.salvage",
    "crabd.store.meta",
    "crabd.store.names",
    "crabd.store.porting.assembly",
    "crabd.store.porting.crabtalk",
    "crabd.store.porting.export",
    "crabd.store.porting.memory",
    "crabd.store.record",
    "crabd.store.seal",
    "crabd.store.search.documents",
    "crabd.store.search.ranking",
    "crabd.store.search.words",
    "crabd.store.stepfiles.line",
    "crabd.store.stepfiles.shapes",
    "crabd.store.stepfiles.takeover",
    "crabd.mcp.naming",
    "crabd.mcp.telling",
    "crabd.tools.servers",
    "crabd.tools.shell.excerpt",
    "crabd.tools.settings",
    "crabd.tools.shell.telling",
    "crabd.tools.shell.terminal",
    "crabd.tools.web.addresses",
    "crabd.tools.offers",
)
IMPURE = {"trio", "httpx", "sqlite3", "socket", "_socket"}
# What a plain call of crabctl can do without, each of them dearer than the call itself.
SLOW = "argparse asyncio httpx msgspec rich sqlite3 structlog trio typing"


class Import(Struct, frozen=True):
    """An import as it is written: done when its module loads, by a function, or by type checkers alone."""

    name: str
    when: Literal["loading", "calling", "typing"] = "loading"


def read_modules() -> dict[str, tuple[Import, ...]]:
    """Map every module of both packages, packages by their ``__init__``, to what it imports."""
    files = [file for package in ("crabd", "crabctl") for file in (ROOT / package).rglob("*.py")]
    return {name_of(file): tuple(imports_of(ast.parse(file.read_bytes()))) for file in sorted(files)}


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imports_of(tree: ast.AST) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute here"
            yield from (Import(f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from (Import(each.name, "typing") for each in imports_of(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (Import(each.name, "calling") for each in imports_of(node))
        else:
            yield from imports_of(node)


MODULES = read_modules()


def module_of(name: str) -> str | None:
    """Find the module of ours that an imported name is, or is taken from."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        found = prefix if prefix in MODULES else f"{prefix}.__init__"
        if found in MODULES:
            return found
    return None


def is_below(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def room_of(module: str) -> str:
    (room,) = (room for room in MAY_IMPORT if is_below(module, room))
    return room


def ours(module: str, *whens: str) -> set[str]:
    """List the modules of ours that a module imports at these times."""
    names = [each.name for each in MODULES[module] if each.when in whens]
    return {found for name in names if (found := module_of(name)) is not None}


def loaded_by(module: str) -> set[str]:
    """List a module and all of ours that come with it, sooner or later."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += ours(each, "loading", "calling")
    return found


def strays_of(module: str) -> set[str]:
    """List what a module imports and may not."""
    room = room_of(module)
    open_to_it = {room, *MAY_IMPORT[room]}
    if room != "crabd.rpc":
        open_to_it.add("crabd.__init__")
    imported = ours(module, "loading", "calling", "typing")
    return {other for other in imported if not any(is_below(other, place) for place in open_to_it)}


def test_a_module_imports_only_what_its_room_may() -> None:
    strays = {module: found for module in MODULES if (found := strays_of(module))}

    assert strays == {}


def test_no_module_needs_itself_to_be_loaded() -> None:
    graph = {module: ours(module, "loading") for module in MODULES}

    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as exc:
        pytest.fail(" → ".join(exc.args[1]))

    assert set(order) == set(MODULES)


@pytest.mark.parametrize("place", PURE)
def test_what_decides_loads_nothing_that_awaits(place: str) -> None:
    modules = [module for module in MODULES if module == place or (place[-1] == "." and place in module)]
    assert modules, "the table names a module that is gone"

    loaded = {other for module in modules for other in loaded_by(module)}
    foreign = {
        each.name.partition(".")[0] for module in loaded for each in MODULES[module] if each.when != "typing"
    }

    assert foreign & IMPURE == set()


def test_there_is_one_event_loop() -> None:
    users = [module for module in MODULES for each in MODULES[module] if is_below(each.name, "asyncio")]

    assert users == []


def test_plain_calls_load_nothing_that_is_slow(tmp_path: Path) -> None:
    calls = ["--help", "--version", "help send", "ls", "ls --json", "status", "agents", "models", "call a/b"]
    calls += [
        "search hi",
        "show crab_user_1",
        "log crab_user_1",
        "cancel crab_user_1",
        "compact crab_user_1",
        "queue crab_user_1",
        "fork crab_user_1",
        "rewind crab_user_1",
        "diff crab_user_1",
        "trust",
        "trust .",
        "permissions",
        "permissions allow ls",
        "send hi",
        "tools",
        "schema",
        "mcp",
        "confirm",
        "answer r1.1 yes",
        "acp",
    ]
    script = (
        "import sys; from crabctl.__main__ import main\n"
        f"for call in {calls!r}: main(call.split())\n"
        f"print(*sorted(set({SLOW!r}.split()) & set(sys.modules)), file=sys.stderr)"
    )

    # It knows no method, so that every call is answered, and ends in crabctl's own words.
    with small_daemon(tmp_path) as daemon:
        environment = {"CRABD_SOCKET": str(daemon.path), "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = run(
            [sys.executable, "-c", script],
            env=environment,
            stdin=DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "")
    assert {method for method, _ in daemon.asked} == {
        "a/b",
        "agent/list",
        "confirmation/list",
        "daemon/status",
        "model/list",
        "permission/get",
        "permission/set",
        "question/list",
        "queue/list",
        "rpc.discover",
        "session/cancel",
        "session/compact",
        "session/diff",
        "session/fork",
        "session/get",
        "session/get_or_create",
        "session/history",
        "session/list",
        "session/rewind",
        "session/search",
        "tool/list",
        "trust/list",
        "mcp/list",
    }
