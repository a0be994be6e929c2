"""The wire of the Agent Client Protocol: what a client may ask, what it is answered and told. Types only.

Fields are in camel case there. What is not known is ignored, as the protocol wants it.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct, field

PROTOCOL_VERSION = 1

Meta: TypeAlias = dict[str, Any]
ToolKind: TypeAlias = Literal["read", "edit", "search", "execute", "think", "fetch", "other"]
ToolStatus: TypeAlias = Literal["pending", "in_progress", "completed", "failed"]
StopReason: TypeAlias = Literal["end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled"]
PlanStatus: TypeAlias = Literal["pending", "in_progress", "completed"]
SteeringOutcome: TypeAlias = Literal["injected", "startedNewTurn", "promptRequired"]


class Wire(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The base of all that travels."""


# What both ends say.


class Text(Wire, frozen=True, tag="text"):
    text: str


class Image(Wire, frozen=True, tag="image"):
    """A picture: ``data`` is the file, in Base64."""

    data: str
    mime_type: str


class Audio(Wire, frozen=True, tag="audio"):
    """A sound; its data is not looked at."""


class ResourceLink(Wire, frozen=True, tag="resource_link"):
    uri: str
    name: str = ""
    title: str | None = None
    description: str | None = None


class Resource(Wire, frozen=True):
    """The content of something: ``text``, or a ``blob`` in Base64."""

    uri: str
    text: str | None = None
    blob: str | None = None


class EmbeddedResource(Wire, frozen=True, tag="resource"):
    resource: Resource


ContentBlock: TypeAlias = Text | Image | Audio | ResourceLink | EmbeddedResource


class Implementation(Wire, frozen=True):
    name: str = ""
    version: str = ""
    title: str | None = None


# What a client asks.


class FileCapabilities(Wire, frozen=True):
    read_text_file: bool = False
    write_text_file: bool = False


class Elicitation(Wire, frozen=True):
    form: Meta | None = None


class ClientSession(Wire, frozen=True):
    notices: Meta | None = None


class ClientCapabilities(Wire, frozen=True):
    """``client_info`` is here with some clients, which is not where it belongs."""

    fs: FileCapabilities | None = None
    terminal: bool | None = None
    elicitation: Elicitation | None = None
    session: ClientSession | None = None
    client_info: Implementation | None = None


class Initialize(Wire, frozen=True):
    client_capabilities: ClientCapabilities | None = None
    client_info: Implementation | None = None


class Authenticate(Wire, frozen=True):
    """Which method it is does not matter: there is none, and no need for one."""


class NewSession(Wire, frozen=True):
    """``mcp_servers`` are looked at when they are started."""

    cwd: str
    mcp_servers: list[Any] | None = None
    meta: Meta | None = field(name="_meta", default=None)


class OfSession(Wire, frozen=True):
    session_id: str


class OpenSession(OfSession, frozen=True):
    """A session that is there works where it did before, whatever ``cwd`` says."""

    cwd: str | None = None
    mcp_servers: list[Any] | None = None


class ListSessions(Wire, frozen=True):
    cwd: str | None = None
    cursor: str | None = None


class SetMode(OfSession, frozen=True):
    mode_id: str


class SetOption(OfSession, frozen=True):
    config_id: str
    value: Any


class Prompt(OfSession, frozen=True):
    prompt: tuple[ContentBlock, ...]
    meta: Meta | None = field(name="_meta", default=None)


# What it is answered.


class Nothing(Wire, frozen=True):
    """An answer that says only that it was done. It is never null: clients take that for a failure."""


NOTHING = Nothing()


class PromptCapabilities(Wire, frozen=True, omit_defaults=False):
    image: bool = False
    audio: bool = False
    embedded_context: bool = False


class McpCapabilities(Wire, frozen=True, omit_defaults=False):
    http: bool = False
    sse: bool = False


class SessionCapabilities(Wire, frozen=True):
    """Each of these is said by an empty object."""

    list: Nothing
    resume: Nothing
    close: Nothing
    delete: Nothing
    fork: Nothing


class AgentCapabilities(Wire, frozen=True):
    load_session: bool
    prompt_capabilities: PromptCapabilities
    mcp_capabilities: McpCapabilities
    session_capabilities: SessionCapabilities


class Initialized(Wire, frozen=True):
    protocol_version: int
    agent_capabilities: AgentCapabilities
    auth_methods: tuple[str, ...]
    agent_info: Implementation
    meta: Meta = field(name="_meta")


class SessionMode(Wire, frozen=True):
    id: str
    name: str
    description: str


class SessionModes(Wire, frozen=True):
    current_mode_id: str
    available_modes: tuple[SessionMode, ...]


class Choice(Wire, frozen=True):
    value: str
    name: str
    description: str | None = None


class ConfigOption(Wire, frozen=True, tag="select"):
    """A setting that is one of several values."""

    id: str
    name: str
    category: str
    current_value: str
    options: tuple[Choice, ...]
    description: str | None = None


class SessionOpened(Wire, frozen=True):
    modes: SessionModes
    config_options: tuple[ConfigOption, ...]


class SessionMade(SessionOpened, frozen=True):
    session_id: str


class SessionEntry(Wire, frozen=True):
    session_id: str
    cwd: str
    updated_at: str
    title: str | None = None


class SessionPage(Wire, frozen=True):
    sessions: tuple[SessionEntry, ...]
    next_cursor: str | None = None


class OptionSet(Wire, frozen=True):
    config_options: tuple[ConfigOption, ...]


class Prompted(Wire, frozen=True):
    stop_reason: StopReason


class Steered(Wire, frozen=True):
    outcome: SteeringOutcome


# What it is told.


class Update(Wire, frozen=True, tag_field="sessionUpdate"):
    """The base of all updates."""


class Chunk(Update, frozen=True):
    """A piece of a message; pieces of one message have its id."""

    content: Text | Image
    message_id: str


class UserChunk(Chunk, frozen=True, tag="user_message_chunk"):
    pass


class AgentChunk(Chunk, frozen=True, tag="agent_message_chunk"):
    pass


class ThoughtChunk(Chunk, frozen=True, tag="agent_thought_chunk"):
    pass


class Content(Wire, frozen=True, tag="content"):
    content: Text


class Diff(Wire, frozen=True, tag="diff"):
    """What becomes of a file, or of a part of it; without an old text it is new."""

    path: str
    new_text: str
    old_text: str | None = None


ToolContent: TypeAlias = Content | Diff


class Location(Wire, frozen=True):
    path: str
    line: int | None = None


class ToolCall(Update, frozen=True, tag="tool_call"):
    tool_call_id: str
    title: str
    name: str
    kind: ToolKind
    status: ToolStatus
    raw_input: Any
    locations: tuple[Location, ...] = ()
    content: tuple[ToolContent, ...] = ()


class ToolCallUpdate(Update, frozen=True, tag="tool_call_update"):
    """What has changed about a call; its content takes the place of what was told before."""

    tool_call_id: str
    status: ToolStatus | None = None
    title: str | None = None
    locations: tuple[Location, ...] | None = None
    content: tuple[ToolContent, ...] | None = None


class PlanEntry(Wire, frozen=True):
    content: str
    status: PlanStatus
    priority: Literal["medium"]


class Plan(Update, frozen=True, tag="plan"):
    entries: tuple[PlanEntry, ...]


class CommandInput(Wire, frozen=True):
    hint: str


class Command(Wire, frozen=True):
    name: str
    description: str
    input: CommandInput | None = None


class CommandsUpdate(Update, frozen=True, tag="available_commands_update"):
    available_commands: tuple[Command, ...]


class ModeUpdate(Update, frozen=True, tag="current_mode_update"):
    current_mode_id: str


class OptionsUpdate(Update, frozen=True, tag="config_option_update"):
    config_options: tuple[ConfigOption, ...]


class InfoUpdate(Update, frozen=True, tag="session_info_update"):
    title: str


class Cost(Wire, frozen=True):
    amount: float
    currency: Literal["USD"]


class UsageUpdate(Update, frozen=True, tag="usage_update"):
    """Tokens that the context has, of those that the model takes."""

    used: int
    size: int
    cost: Cost | None = None


class Notice(Update, frozen=True, tag="notice"):
    """Something that a person should know, for clients that show such things."""

    severity: Literal["info", "warning", "error"]
    title: str
    description: str | None = None


class Told(Wire, frozen=True):
    """The parameters of ``session/update``."""

    session_id: str
    update: Update
