"""What runs go with: the agent, the model, the tools and the allowance that a session has by now.

It knows no run. What a run was given it keeps, whatever changes here meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import structlog
from structlog.typing import FilteringBoundLogger

from crabd.errors import BadRequest
from crabd.events import BudgetState
from crabd.messages import UserBlock, has_pictures, utc_now
from crabd.providers.base import Models
from crabd.runtime.agents import Agent, Agents
from crabd.runtime.attaching import NO_SESSION, Attachments
from crabd.runtime.budget import Allowance, limits_of, state_of
from crabd.runtime.loop import Equipment
from crabd.runtime.permissions.rulebook import Rulebook
from crabd.runtime.session import Session
from crabd.runtime.sessions import Sessions
from crabd.store.meta import SessionMeta
from crabd.tools.base import Tool, Toolmaker, ToolSpec
from crabd.tools.offers import LeftOut, choose

log: FilteringBoundLogger = structlog.get_logger()


class Equipper:
    """Equips runs. ``agents`` and ``models`` may be replaced."""

    def __init__(
        self,
        sessions: Sessions,
        agents: Agents,
        models: Models,
        toolmaker: Toolmaker,
        rulebook: Rulebook,
        attachments: Attachments,
    ) -> None:
        self.agents = agents
        self.models = models
        self._sessions = sessions
        self._toolmaker = toolmaker
        self._rulebook = rulebook
        self._attachments = attachments

    def equip(self, session: Session, guest: str = "") -> Equipment:
        """Find what a session, or its guest, thinks with; no tools are among it.

        Raises:
          NotFound: the agent or the model.
        """
        meta, agent = session.meta, self._agent_of(session)
        allowance = self._allowance(session, agent)
        if guest:
            agent = self.agents.get(guest, session.project.agents)
            choice = self.models.resolve(agent.options.model, agent.options.fallbacks)
            return Equipment(agent, choice, allowance)
        choice = self.models.resolve(meta.model or agent.options.model, agent.options.fallbacks)
        return Equipment(agent, choice, allowance)

    def refuse_unseen(self, session: Session, content: Iterable[UserBlock], guest: str = "") -> None:
        """Make sure that whoever answers sees what is shown, unless nobody knows whether it does.

        Raises:
          BadRequest: it does not; NotFound: the agent or the model.
        """
        if not has_pictures(content):
            return
        model = self.equip(session, guest).choice
        if model.images is False:
            raise BadRequest(
                "$.content",
                f"{model.id} takes no pictures: say it in words, or choose another model. If it does take "
                f'them, write images = true below [models."{model.id}"] into config.toml',
            )

    async def find_tools(self, session: Session, run: str, guest: str) -> dict[str, Tool]:
        """Find the tools of a run, none for a guest's, and have those ready that have to be started.

        The first one opens the session's toolbox. Bounded in time.

        Raises:
          NotFound: the agent.
        """
        if guest:
            return {}
        await self._attachments.settle(session, run)
        tools, left_out = self._choose_tools(session, self._agent_of(session))
        if left_out != session.left_out:
            session.left_out = left_out
            for each in left_out:
                log.warning("tool_left_out", session=session.id, tool=each.tool, problem=each.reason)
        return tools

    def refuse_when_spent(self, session: Session) -> None:
        """Make sure that a session may have another run.

        Raises:
          BudgetSpent, NotFound.
        """
        allowance = self._allowance(session, self._agent_of(session))
        spent = allowance.find_spent(utc_now().date())
        if spent is not None:
            raise spent

    def budget_of(self, meta: SessionMeta) -> BudgetState | None:
        """Tell what a session may use, and what it has used of that; null when nothing limits it."""
        live = self._sessions.find_live(meta.id)
        agents = {**live.project.agents, **self.agents.by_name} if live else self.agents.by_name
        return state_of(meta, limits_of(meta, agents.get(meta.agent)))

    async def list_tools(self, session: Session | None) -> tuple[tuple[ToolSpec, bool], ...]:
        """List the tools that there are, and whether a session's model is told of them.

        Raises:
          NotFound: the session's agent.
        """
        if session is None:
            box = self._toolmaker.open(NO_SESSION)
            await box.aclose()
            offered, _ = choose(box.tools)
            return tuple((tool.spec, offered.get(tool.spec.name) is tool) for tool in box.tools)
        agent = self._agent_of(session)
        policy = self._rulebook.policy(session.meta, agent, session.project.rules)
        offered, _ = self._choose_tools(session, agent)
        return tuple(
            (tool.spec, offered.get(tool.spec.name) is tool and policy.offers(tool.spec.name))
            for tool in self._tools_of(session)
        )

    def _agent_of(self, session: Session) -> Agent:
        return self.agents.get(session.meta.agent, session.project.agents)

    def _allowance(self, session: Session, agent: Agent) -> Allowance:
        limits = limits_of(session.meta, agent)
        return Allowance(limits, agent.options.daily_budget, lambda: session.meta, self._sessions.metas)

    def _choose_tools(self, session: Session, agent: Agent) -> tuple[dict[str, Tool], tuple[LeftOut, ...]]:
        """Choose which tools of the session's box are offered to that agent, and tell which cannot be."""
        wanted = agent.options.tools
        return choose(
            tool
            for tool in self._tools_of(session)
            if wanted is None or any(fnmatchcase(tool.spec.name, each) for each in wanted)
        )

    def _tools_of(self, session: Session) -> tuple[Tool, ...]:
        """List a session's tools, ours before those of its servers."""
        if session.toolbox is None:
            session.toolbox = self._toolmaker.open(session.id)
        return (*session.toolbox.tools, *(session.servers.tools if session.servers is not None else ()))
