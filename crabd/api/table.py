"""Every method there is, with its types. A client reads this page and knows what can be asked."""

from __future__ import annotations

from typing import Any

from crabd.api import daemon as d
from crabd.api import deciding as c
from crabd.api import editing as e
from crabd.api import mcp as m
from crabd.api import permissions as r
from crabd.api import porting as p
from crabd.api import sessions as s
from crabd.api import trust as t
from crabd.events import SessionInfo, Snapshot
from crabd.rpc.methods import Method, MethodTable

EVENT_NOTIFICATION = "session/event"
CHANGES_NOTIFICATION = "daemon/event"

METHODS = MethodTable(
    [
        Method("initialize", d.Initialize, d.ServerInfo, "Say who is calling and learn who answers."),
        Method("rpc.discover", d.NoParams, dict[str, Any], "Get this description, as an OpenRPC document."),
        Method("session/get_or_create", s.GetOrCreate, s.GotOrCreated, "Find or make the session of an agent and a sender."),
        Method("session/load", s.OfSession, SessionInfo, "Make a stored session live."),
        Method("session/send", s.Send, s.RunResult | s.Accepted, "Give the agent a message and have it run."),
        Method("session/steer", s.Steer, s.SteerQueued, "Say something to the run that is going."),
        Method("session/cancel", s.Cancel, s.Cancelled, "Stop the run that is going; answers when it has settled."),
        Method("session/compact", s.Compact, s.CompactResult, "Replace old history by a summary; the log keeps it."),
        Method("session/close", s.Close, s.Closed, "Unload a session; it stays in the store."),
        Method("session/delete", s.Delete, s.Deleted, "Remove a session for good, cancelling its run."),
        Method("session/list", s.List, s.SessionPage, "List sessions, the last used first."),
        Method("session/search", s.Search, s.Hits, "Look for text in all that was said, the best hits first."),
        Method("session/get", s.OfSession, Snapshot, "Get a session as it is now, with the reply streamed so far."),
        Method("session/history", s.History, s.HistoryPage, "Read messages, also those before a compaction."),
        Method("session/subscribe", s.Subscribe, s.Subscribed, "Get the picture and, from it on, every event."),
        Method("session/unsubscribe", s.Unsubscribe, s.Unsubscribed, "Stop the events of a session, or of all."),
        Method("session/pause", s.OfSession, SessionInfo, "Keep the session from starting runs, also after a restart."),
        Method("session/resume", s.OfSession, SessionInfo, "Let a paused session start runs again."),
        Method("session/configure", s.Configure, SessionInfo, "Change a session's title, model, prompt, directory, budget or permissions."),
        Method("session/usage", s.UsageOf, s.UsageResult, "Tell what a session has used, or all have: by agent, day or model."),
        Method("session/clear", s.OfSession, SessionInfo, "Start over with an empty history; the log keeps the old one."),
        Method("session/fork", e.Fork, e.Forked, "Copy a session up to a step, between rounds, to go on another way."),
        Method("session/rewind", e.Rewind, e.Rewound, "Take the last messages back, and on request what was done to files; the log keeps them."),
        Method("session/diff", s.OfSession, e.Diffs, "Show what the session's tools have changed in files."),
        Method("queue/list", s.OfSession, e.Queue, "List the messages that wait for a busy session."),
        Method("queue/remove", e.Remove, e.Removed, "Take a message that waits out of the queue."),
        Method("session/export", p.Export, p.ExportPage, "Write a session as lines of JSON that import back."),
        Method("session/import", p.Import, p.Imported, "Bring sessions in from files: exports of ours, and crabtalk's."),
        Method("confirmation/list", c.OfOneOrAll, c.Confirmations, "List the calls that wait for a person to allow them."),
        Method("confirmation/reply", c.Reply, c.Replied, "Allow or deny a call that waits; the first reply counts."),
        Method("question/list", c.OfOneOrAll, c.Questions, "List the questions that wait for a person."),
        Method("question/reply", c.AnswerQuestion, c.Answered, "Answer the questions of a call, or decline to."),
        Method("tool/list", c.OfOneOrAll, c.ToolList, "List the tools that there are, or those of a session."),
        Method("mcp/list", c.OfOneOrAll, m.McpServers, "List the servers of tools, of a session or of all, and how they are."),
        Method("mcp/reconnect", m.McpReconnect, m.McpServers, "Start a server of tools anew; answers when it is ready or has failed."),
        Method("trust/list", t.TrustList, t.TrustFiles, "List the files of a directory that agents may heed, or all that are trusted."),
        Method("trust/add", t.TrustAdd, t.TrustFiles, "Trust files of directories as they were shown."),
        Method("trust/remove", t.TrustRemove, t.TrustFiles, "Trust the files in a directory no more."),
        Method("permission/get", r.GetRules, r.RulesInForce, "List the rules of what agents may do: all of them, or those of a session."),
        Method("permission/set", r.SetRule, r.RulesInForce, "Add a rule of the user, change what it decides, or remove it."),
        Method("agent/list", d.AgentFilter, d.AgentList, "List the agents, with those of a trusted directory."),
        Method("model/list", d.NoParams, d.ModelList, "List the models that the configured servers have."),
        Method("daemon/ping", d.NoParams, d.Pong, "Ask whether anybody is there."),
        Method("daemon/status", d.NoParams, d.DaemonStatus, "Tell how the daemon is."),
        Method("daemon/subscribe", d.Watch, d.Watched, "Get all sessions at a glance and, from then on, what changes."),
        Method("daemon/unsubscribe", d.NoParams, s.Unsubscribed, "Stop being told what changes."),
        Method("daemon/reload", d.NoParams, d.Reloaded, "Read configuration and agents again; nothing running is touched."),
        Method("daemon/doctor", d.Doctor, d.Diagnosis, "Check the store, the socket and the configuration; repair on request."),
        Method("daemon/prune", d.Prune, d.Pruned, "Remove stored sessions that are over a limit of the configuration."),
        Method("daemon/shutdown", d.Shutdown, d.ShutdownStarted, "Let runs finish, then stop."),
    ]
)  # fmt: skip
