"""Trust, as a person at a terminal gives it and takes it back."""

from __future__ import annotations

from tests.e2e.daemon import Home, start_daemon
from tests.e2e.test_search import crabctl
from tests.model_server import ModelServer, says


async def test_a_directory_is_trusted_and_its_instructions_reach_the_model(
    home: Home, models: ModelServer
) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("one"), says("two"), says("three"))
    project = home.directory / "project"
    project.mkdir()
    (project / "AGENTS.md").write_text("Use tabs.")
    async with start_daemon(home):
        send = ("send", "--cwd", str(project), "go")

        first = await crabctl(home, *send)
        trusted = await crabctl(home, "trust", str(project))
        await crabctl(home, *send)
        listed = await crabctl(home, "trust")
        forgotten = await crabctl(home, "trust", str(project), "--forget")
        await crabctl(home, *send)
        nothing = await crabctl(home, "trust")

        prompts = [request.body["messages"][0]["content"] for request in await models.requests(wait=3)]
        assert b"not told to the model until crabctl trust" in first.stderr
        assert ["Use tabs." in prompt for prompt in prompts] == [False, True, False]
        assert trusted.stdout == listed.stdout == forgotten.stdout == f"{project / 'AGENTS.md'}\n".encode()
        assert b"nothing is trusted" in nothing.stderr
