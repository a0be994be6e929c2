"""Commands of whoever is asked: ``confirm`` and ``answer``."""

from __future__ import annotations

from crabctl.arguments import UsageError
from crabctl.asking import addressed, chosen, introduce, shown, shown_question
from crabctl.client import RemoteError
from crabctl.commands.target import note, reach
from crabctl.render import ago, as_json, harmless
from crabctl.screen import DECISIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args
    from crabctl.client import Link

# Everything there is to read, within what the daemon shows.
ALL_LINES = 1 << 20


def confirm(args: Args) -> int:
    """Show what waits, or allow or deny a call."""
    decision = _decision(args)
    with reach(args) as link:
        if not args.words:
            return _list(link, args)
        asked = _find(link, args, "confirmation")
        reason = args.get("deny") or ""
        introduce(link)
        done = link.call("confirmation/reply", addressed(asked) | {"decision": decision, "reason": reason})
    rules = f": {', '.join(done['rules'])}" if done["rules"] else ""
    print(as_json(done) if args.has("json") else harmless(f"{asked['id']}: {DECISIONS[decision]}{rules}"))
    return 0


def answer(args: Args) -> int:
    """Answer the questions of a call, or decline to."""
    given = args.words[1:]
    if bool(given) == args.has("decline"):
        raise UsageError("give an answer for each question, or --decline")
    with reach(args) as link:
        asked = _find(link, args, "question")
        questions = asked["questions"]
        if given and len(given) != len(questions):
            raise UsageError(f"there are {len(questions)} questions: give an answer for each")
        answers = [chosen(question, text) for question, text in zip(questions, given, strict=False)]
        introduce(link)
        done = link.call("question/reply", addressed(asked) | ({"answers": answers} if given else {}))
    told = f"{asked['id']}: " + ("answered" if given else "declined")
    print(as_json(done) if args.has("json") else told)
    return 0


def _decision(args: Args) -> str:
    names = {"deny": "deny", "for-session": "allow_session", "always": "allow_always"}
    wanted = [decision for option, decision in names.items() if args.has(option)]
    if len(wanted) > 1:
        raise UsageError("choose one of --deny, --for-session and --always")
    if wanted and not args.words:
        raise UsageError("name the call: crabctl confirm shows which wait")
    return wanted[0] if wanted else "allow"


def _list(link: Link, args: Args) -> int:
    of = _filter(args)
    confirmations = link.call("confirmation/list", of)["confirmations"]
    questions = link.call("question/list", of)["questions"]
    if args.has("json"):
        print(as_json({"confirmations": confirmations, "questions": questions}))
        return 0
    if not confirmations and not questions:
        note("nothing waits for you")
    for asked in sorted([*confirmations, *questions], key=lambda asked: asked["since"]):
        print(_written(asked))
    if confirmations:
        note("crabctl confirm CALL allows it, --for-session or --always for longer; --deny REASON denies it")
    if questions:
        note("crabctl answer CALL ANSWER… answers, --decline does not")
    return 0


def _written(asked: dict[str, Any]) -> str:
    head = f"── {asked['id']}  {asked['session']}  {ago(asked['since'])}"
    if "questions" not in asked:
        return harmless(head) + "\n" + shown(asked, most=ALL_LINES) + "\n"
    return harmless(head) + "\n" + "\n".join(map(shown_question, asked["questions"])) + "\n"


def _find(link: Link, args: Args, what: str) -> dict[str, Any]:
    """Find what waits by its own id, or by that of its call."""
    name = args.words[0]
    waiting = link.call(f"{what}/list", _filter(args))[f"{what}s"]
    found = [asked for asked in waiting if name in (asked["id"], asked["call"])]
    if len(found) > 1:
        where = ", ".join(f"{asked['id']} of {asked['session']}" for asked in found)
        raise UsageError(f"{name!r} may be {where}: name the session with -S, and the first of these ids")
    if not found:
        # Imported here: only this failure needs it.
        from crabd.errors import NOT_FOUND

        problem = f"no {what} {name!r} waits, or not any more: crabctl confirm shows what does"
        raise RemoteError(NOT_FOUND, problem, {"kind": "not_found", "what": what, "name": name})
    asked: dict[str, Any] = found[0]
    return asked


def _filter(args: Args) -> dict[str, Any]:
    session = args.get("session")
    return {"session": session} if session else {}
