"""Handlers of the rules of what agents may do."""

from __future__ import annotations

from crabd.api import permissions as api
from crabd.errors import BadRequest
from crabd.runtime.permissions.policy import Policy
from crabd.server.caller import Caller


async def get_rules(caller: Caller, params: api.GetRules) -> api.RulesInForce:
    runtime = caller.runtime
    if params.session is None:
        return _tell(runtime.rulebook.policy())
    meta = runtime.sessions.meta(params.session)
    project = await runtime.trust.read(meta.cwd)
    agent = runtime.agents.by_name.get(meta.agent) or project.agents.get(meta.agent)
    return _tell(runtime.rulebook.policy(meta, agent, project.rules))


async def set_rule(caller: Caller, params: api.SetRule) -> api.RulesInForce:
    try:
        await caller.runtime.rulebook.set_rule(params.rule, params.decision)
    except ValueError as exc:
        raise BadRequest("$.rule", str(exc)) from exc
    await caller.runtime.look_again()
    return _tell(caller.runtime.rulebook.policy())


def _tell(policy: Policy) -> api.RulesInForce:
    rules = (api.RuleInForce(rule.text, rule.decision, rule.source) for rule in policy.rules)
    return api.RulesInForce(policy.mode, policy.default, tuple(rules))
