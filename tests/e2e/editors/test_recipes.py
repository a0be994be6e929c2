"""What the README tells users of editors to write down does what it says."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.daemon import Daemon
from tests.e2e.editors.visiting import HERE, TEXT, needs, needs_module, run_client

RECIPES = HERE / "recipes"
ASK = f"echo {TEXT}"


@needs("nvim", "socat")
async def test_a_command_for_neovim(daemon: Daemon, tmp_path: Path) -> None:
    recipe = (RECIPES / "crab.lua").read_text()
    version = await run_client(daemon.home, "nvim", "--version", cwd=tmp_path)
    if re.match(rb"NVIM v0\.\d\.", version):
        now, old = "vim.lsp.rpc.connect(path)(dispatchers)", "-- Before Neovim 0.10: "
        (instead,) = (line.partition(old)[2] for line in recipe.splitlines() if old in line)
        recipe = recipe.replace(now, instead)
    (tmp_path / "crab.lua").write_text(recipe)
    is_there = f"function() return vim.fn.search('{TEXT}') > 0 end"

    await run_client(
        daemon.home,
        *("nvim", "--clean", "--headless", "-c", "luafile crab.lua", "-c", f"Crab {ASK}"),
        *("-c", f"lua vim.wait(10000, {is_there}, 10)", "-c", "write said.txt", "-c", "qall!"),
        cwd=tmp_path,
    )

    assert (tmp_path / "said.txt").read_text() == f"{TEXT}\n"


@needs("vim")
async def test_a_command_for_vim(daemon: Daemon, tmp_path: Path) -> None:
    until_there = f"let n = 500 | while n && !search('{TEXT}') | let n -= 1 | sleep 20m | endwhile"

    await run_client(
        daemon.home,
        *("vim", "-N", "-u", "NONE", "-i", "NONE", "-n", "-e", "-s", "-S", str(RECIPES / "crab.vim")),
        *("-c", f"Crab {ASK}", "-c", until_there, "-c", "write said.txt", "-c", "qall!"),
        cwd=tmp_path,
    )

    assert (tmp_path / "said.txt").read_text() == f"{TEXT}\n"


@needs("emacs")
async def test_a_command_for_emacs(daemon: Daemon, tmp_path: Path) -> None:
    wait = (
        f'(with-timeout (10) (while (not (search-backward "{TEXT}" nil t)) (accept-process-output nil 0.02)))'
    )

    said = await run_client(
        daemon.home,
        *("emacs", "--batch", "-Q", "-l", str(RECIPES / "crab.el"), "--eval", f'(crab "{ASK}")'),
        *("--eval", wait, "--eval", "(princ (buffer-string))"),
        cwd=tmp_path,
    )

    assert said.decode() == TEXT


@needs_module("vscode-jsonrpc")
async def test_a_program_for_node_and_vscode(daemon: Daemon, tmp_path: Path) -> None:
    said = await run_client(daemon.home, "node", str(RECIPES / "crab.mjs"), *ASK.split(), cwd=tmp_path)

    assert said.decode() == f"{TEXT}\n"


@needs("socat", "jq")
async def test_a_function_for_a_shell(daemon: Daemon, tmp_path: Path) -> None:
    said = await run_client(
        daemon.home, "sh", "-c", f'. "$0"; crab {ASK}; crab fail auth', str(RECIPES / "crab.sh"), cwd=tmp_path
    )

    assert said.decode() == f"{TEXT}\n\noffline: the API key is not valid (as asked for)\n"


def test_the_readme_has_each_recipe() -> None:
    readme = (HERE.parents[2] / "README.md").read_text()

    assert [file.name for file in RECIPES.iterdir() if file.read_text() not in readme] == []
