"""Understanding a bash command: which simple commands it runs and which files it opens by redirection. Pure.

A grammar reads it, and nothing that the grammar says is believed unless it is in the tables here: a kind of
node that is not, a token that could hide another, or text between two tokens is a *doubt*. Whoever judges
must not take a script with doubts for what it seems to be; what was found in it may still be refused.

It knows no rules, and nothing of what a command's arguments mean.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Literal, TypeAlias

import tree_sitter_bash
from msgspec import Struct
from tree_sitter import Language, Node, Parser

# A person reads what is to be run before they allow it, and above this nobody does.
MAX_BYTES = 16 * 1024
# A long text in a here-document is one node; so many are some hundred commands.
MAX_NODES = 6000
# Subshells within substitutions within loops: a person's scripts have five at most.
MAX_DEPTH = 40

WordKind: TypeAlias = Literal["fixed", "glob", "unknown"]


class Word(Struct, frozen=True):
    """A word of a command: its value when ``fixed``, a pattern of file names, or only its source."""

    text: str
    kind: WordKind = "fixed"


class Command(Struct, frozen=True):
    """A simple command; its name comes first."""

    words: tuple[Word, ...]
    is_repeated: bool = False

    @property
    def name(self) -> str | None:
        """Its name as it is written, or null while that is not known before it runs."""
        return self.words[0].text if self.words and self.words[0].kind == "fixed" else None


class Redirect(Struct, frozen=True):
    target: Word
    writes: bool


class Script(Struct, frozen=True):
    """What was found in a command, in the order of its text, and why there may be more to it than that."""

    commands: tuple[Command, ...] = ()
    redirects: tuple[Redirect, ...] = ()
    doubts: tuple[str, ...] = ()


def read_script(text: str, home: str) -> Script:
    """Read a command; quickly, whatever it is. ``home`` is what ``~`` stands for."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        return Script(doubts=(f"it is longer than {MAX_BYTES} bytes",))
    if strange := sorted({each for each in text if _is_strange(each)}):
        return Script(doubts=(f"it has the character {strange[0]!a} in it",))
    source = text.encode()
    root = _parser().parse(source).root_node
    if root.descendant_count > MAX_NODES:
        return Script(doubts=("it has too much in it",))
    reader = _Reader(source, home)
    reader.read(root, "", 0, is_repeated=False)
    doubts = tuple(dict.fromkeys(reader.doubts))
    return Script(tuple(reader.commands), tuple(reader.redirects), doubts)


def is_harmless_variable(name: str) -> bool:
    """Tell whether what a variable is set to changes nothing about which programs run, or from where."""
    return bool(_HARMLESS_VARIABLE.fullmatch(name))


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_bash.language()))


def _is_strange(character: str) -> bool:
    """Tell whether shell, grammar and person may see different things in a character."""
    if character.isascii():
        return not character.isprintable() and character not in "\n\t"
    return unicodedata.category(character)[0] in "CZ"


_HARMLESS_VARIABLE = re.compile(
    r"(?!.*_proxy$)(?!path$|cdpath$|fpath$|histchars$)[a-z][a-z0-9_]*"
    r"|CI|DEBUG|VERBOSE|LANG|LC_[A-Z]+|TZ|TERM|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|CLICOLOR(_FORCE)?"
    r"|NODE_ENV|RUST_BACKTRACE|RUST_LOG|CGO_ENABLED|GOOS|GOARCH|SOURCE_DATE_EPOCH"
    r"|PYTHON(DONTWRITEBYTECODE|UNBUFFERED|HASHSEED|FAULTHANDLER|UTF8)|PYTEST_TIMEOUT"
)
# Nodes that mean no more than what is in them.
_PLAIN = frozenset(
    [
        "program",
        "list",
        "pipeline",
        "subshell",
        "compound_statement",
        "redirected_statement",
        "negated_command",
        "command_name",
        "command_substitution",
        "process_substitution",
        "string",
        "concatenation",
        "do_group",
        "if_statement",
        "elif_clause",
        "else_clause",
        "case_statement",
        "case_item",
        "test_command",
        "unary_expression",
        "binary_expression",
        "variable_assignments",
        "parenthesized_expression",
        "expansion",
        "simple_expansion",
    ]
)
_LOOPS = frozenset(["for_statement", "while_statement"])
# Nodes that are read as a whole.
_READ = frozenset(
    ["command", "file_redirect", "heredoc_redirect", "herestring_redirect", "variable_assignment"]
) | {"heredoc_body", "declaration_command"}
_TOKEN = re.compile(
    r"[;&|(){}=!\"`]|;;|&&|\|\||\|&|\$\(|<\(|>\(|\[\[?|\]\]?|==|!=|=~|if|then|elif|else|fi|for|in|do|done"
    r"|while|until|case|esac|export|\$\{?"
)
_IN_EXPANSION = re.compile(r"\$\{|\}|:[-+]|[-+]|#{1,2}|%{1,2}|//?")
_WORD = re.compile(r"(?!#)(?:[^\s\\'\"`$;&|<>()]|\\(?:.|\n))+", re.DOTALL)
_LEAVES: dict[str, re.Pattern[str]] = {
    "word": _WORD,
    "number": re.compile(r"-?[0-9]+"),
    "raw_string": re.compile(r"'[^']*'"),
    "string_content": re.compile(r"(?:[^\\\"`$]|\\.|\$(?=[\s.,:;%/\"]|$))+", re.DOTALL),
    "variable_name": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "special_variable_name": re.compile(r"[?#$!@*0_-]|[0-9]"),
    "comment": re.compile(r"#[^\n]*"),
    "file_descriptor": re.compile(r"[0-9]"),
    "test_operator": re.compile(r"-[defhrswxznLSbcpO]"),
    "regex": re.compile(r"[^$`'\"\\]*"),
    "extglob_pattern": re.compile(r"[A-Za-z0-9_.*?-]+"),
}
# Between two tokens of a command there is no line's end that is not taken back by a backslash.
_GAP = re.compile(r"(?:[ \t]|\\\n)*")
_WIDE_GAP = re.compile(r"(?:[ \t\n]|\\\n)*")
_TIGHT = frozenset(
    ["command", "concatenation", "variable_assignment", "file_redirect", "declaration_command"]
)
_WORDY = frozenset(["command", "declaration_command"])
_TOUCHING = frozenset(["file_redirect", "herestring_redirect"])
_RESERVED = frozenset(
    [
        "if",
        "then",
        "elif",
        "else",
        "fi",
        "for",
        "in",
        "do",
        "done",
        "while",
        "until",
        "case",
        "esac",
        "select",
        "function",
        "coproc",
        "{",
        "}",
        "!",
        "[[",
        "]]",
    ]
)
_OPENS = {"<": False, ">": True, ">>": True, ">|": True, "&>": True, "&>>": True}
_DELIMITER = re.compile(r"(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\1")
_SUBSTITUTES = re.compile(r"(?<!\\)(?:\\\\)*(?:`|\$[({\[])|\\[`$]")
_ESCAPED = re.compile(r"\\(\n|.)", re.DOTALL)
_GLOB = re.compile(r"(?<!\\)(?:\\\\)*[*?\[]")
_BRACE = re.compile(r"(?<!\\)(?:\\\\)*[{}]")


class _Reader:
    """Walks the grammar's tree once, top-down and in the order of the text."""

    def __init__(self, source: bytes, home: str) -> None:
        self._source = source
        self._home = home
        self.commands: list[Command] = []
        self.redirects: list[Redirect] = []
        self.doubts: list[str] = []

    def read(self, node: Node, parent: str, depth: int, *, is_repeated: bool) -> None:
        """Read a node that is in one of the kind ``parent``."""
        if depth > MAX_DEPTH:
            self.doubts.append("it is nested too deeply")
            return
        self._check(node, parent)
        match node.type:
            case "command":
                self._read_command(node, is_repeated=is_repeated)
            case "file_redirect":
                self._read_redirect(node)
            case "variable_assignment":
                self._read_assignment(node)
            case "heredoc_redirect":
                self._read_heredoc(node)
            case "declaration_command":
                self._read_declaration(node)
            case "test_command" if node.children[0].type == "[":
                self._read_test(node)
            case _:
                pass
        for child in node.children:
            self.read(child, node.type, depth + 1, is_repeated=is_repeated or node.type in _LOOPS)

    def _check(self, node: Node, parent: str) -> None:
        """Doubt what is not in the tables, and text that no token accounts for."""
        if node.is_missing or node.is_error:
            self.doubts.append("it is not what bash can read")
        elif not node.child_count:
            self._check_leaf(node, parent)
        elif node.type not in _PLAIN and node.type not in _READ and node.type not in _LOOPS:
            self.doubts.append(f"it has {_say(node.type)} in it")
        elif node.type not in ("string", "heredoc_body"):
            self._check_gaps(node)

    def _check_leaf(self, node: Node, parent: str) -> None:
        text = self._text(node)
        if node.type == "comment":
            # What is a comment to the grammar is none to bash unless it begins a word.
            before = self._source[node.start_byte - 1 : node.start_byte]
            is_sound = before in (b"", b" ", b"\t", b"\n", b";")
        elif node.type in ("heredoc_start", "heredoc_end", "heredoc_body", "heredoc_content"):
            is_sound = True
        elif parent == "expansion" and not node.is_named:
            is_sound = bool(_IN_EXPANSION.fullmatch(text.strip()))
        elif node.is_named:
            pattern = _LEAVES.get(node.type)
            is_sound = node.type in _PLAIN or bool(pattern and pattern.fullmatch(text))
        else:
            is_redirect = parent in ("file_redirect", "heredoc_redirect", "herestring_redirect")
            is_sound = is_redirect or bool(_TOKEN.fullmatch(text.strip()))
        if not is_sound:
            self.doubts.append(f"it has {_say(node.type)} in it")

    def _check_gaps(self, node: Node) -> None:
        gap = _GAP if node.type in _TIGHT else _WIDE_GAP
        for before, after in pairwise(node.children):
            between = self._source[before.end_byte : after.start_byte].decode(errors="replace")
            # A line that goes on without a blank goes on with the word, which the grammar does not see.
            is_joined = between != "" and not between.replace("\\\n", "")
            # What touches is one word to bash, unless it is a redirection.
            are_one = not between and node.type in _WORDY and not {before.type, after.type} & _TOUCHING
            is_parted = between != "" and node.type == "concatenation"
            if is_joined or are_one or is_parted or not gap.fullmatch(between):
                self.doubts.append(f"it has {_say(node.type)} with something unclear between its words")

    def _read_command(self, node: Node, *, is_repeated: bool) -> None:
        words = tuple(self._word(child) for child in _words_of(node))
        self.commands.append(Command(words, is_repeated))
        if not words or words[0].kind != "fixed":
            self.doubts.append("the name of a command in it is not known before it runs")
        elif words[0].text in _RESERVED:
            self.doubts.append(f"it has the word {words[0].text!r} where a command begins")

    def _read_redirect(self, node: Node) -> None:
        operator = next((child.type for child in node.children if not child.is_named), "")
        targets = [child for child in node.named_children if child.type != "file_descriptor"]
        target = self._word(targets[0]) if len(targets) == 1 else None
        if target is None:
            # The grammar takes for a second target what is the command's next word. `2>&-` has none.
            if operator not in (">&-", "<&-") or targets:
                self.doubts.append("it has words after a redirection")
        elif operator in (">&", "<&"):
            if not re.fullmatch(r"[0-9]", target.text):
                self.doubts.append(f"it redirects by {operator}")
        elif operator in _OPENS:
            self.redirects.append(Redirect(target, _OPENS[operator]))
        else:
            self.doubts.append(f"it redirects by {operator or 'an unknown sign'}")

    def _read_assignment(self, node: Node) -> None:
        name = self._text(node.children[0])
        if node.children[0].type != "variable_name" or node.children[1].type != "=":
            self.doubts.append("it sets a variable in an unusual way")
        elif not is_harmless_variable(name):
            self.doubts.append(f"it sets {name}, which may change what runs")

    def _read_declaration(self, node: Node) -> None:
        """Doubt all but ``export NAME=value``; the assignment is looked at by itself."""
        is_plain = node.children[0].type == "export" and all(
            child.type == "variable_assignment" for child in node.children[1:]
        )
        if not is_plain:
            self.doubts.append(f"it has {node.children[0].type} with more than an assignment")

    def _read_test(self, node: Node) -> None:
        """Doubt what may become several words of a test, and so another test, which may run something."""
        for child in node.named_children:
            if child.type in ("unary_expression", "binary_expression", "parenthesized_expression"):
                self._read_test(child)
            elif child.type not in ("string", "test_operator") and self._word(child).kind != "fixed":
                self.doubts.append("it tests what is not under quotes")

    def _read_heredoc(self, node: Node) -> None:
        """Make sure that what the grammar takes for text is text to bash too."""
        parts = {child.type: child for child in node.children}
        start, body, end = (parts.get(f"heredoc_{part}") for part in ("start", "body", "end"))
        named = _DELIMITER.fullmatch(self._text(start)) if start else None
        if start is None or end is None or named is None or "<<" not in parts:
            self.doubts.append("it has a here-document of an unusual form")
            return
        first = self._source.find(b"\n", start.end_byte) + 1
        lines = self._source[first : end.end_byte].decode(errors="replace").split("\n")
        text = "\n".join(lines[:-1])
        is_simple = lines[-1] == named[2] == self._text(end) and named[2] not in lines[:-1]
        ends_line = self._source[end.end_byte : end.end_byte + 1] in (b"", b"\n")
        opened = self._source[self._source.rfind(b"\n", 0, first - 1) + 1 : first].count(b"<<")
        has_words = any(child.type in ("word", "string", "concatenation") for child in node.children)
        hides = not named[1] and (body is None or not body.child_count) and _SUBSTITUTES.search(text)
        if not is_simple or not ends_line or opened != 1 or has_words or hides:
            self.doubts.append("it has a here-document whose end is hard to tell")

    def _word(self, node: Node) -> Word:
        source = self._text(node)
        value = "".join(pieces) if (pieces := self._values(node)) is not None else None
        if value is None:
            return Word(source, "unknown")
        if _GLOB.search(_unquoted(node, self._source)):
            return Word(value, "glob")
        return Word(value)

    def _values(self, node: Node, *, is_whole: bool = True) -> list[str] | None:
        """Find the pieces that a word is made of, or that they are not known."""
        match node.type:
            case "command_name" if node.child_count == 1:
                return self._values(node.children[0])
            case "word" | "number":
                return self._plain_value(self._text(node), is_whole=is_whole)
            case "raw_string":
                return [self._text(node)[1:-1]]
            case "string":
                return self._string_value(node)
            case "concatenation":
                return self._joined_values(node)
            case _:
                return None

    def _joined_values(self, node: Node) -> list[str] | None:
        found: list[str] = []
        # Braces with nothing in them are themselves.
        is_plain = not _BRACE.search(self._text(node).replace("{}", ""))
        for child in node.children:
            text = self._text(child)
            values = [text] if is_plain and text in ("{", "}", "{}") else self._values(child, is_whole=False)
            if values is None:
                return None
            found += values
        return found

    def _plain_value(self, text: str, *, is_whole: bool) -> list[str] | None:
        if _BRACE.search(text) and not (is_whole and text == "{}"):
            return None
        if text.startswith("~"):
            is_home = text.startswith("~/") or (text == "~" and is_whole)
            return [self._home + _unescape(text[1:])] if is_home else None
        return [_unescape(text)]

    def _string_value(self, node: Node) -> list[str] | None:
        if any(child.type not in ('"', "string_content") for child in node.children):
            return None
        inside = self._text(node).strip()[1:-1]
        return [re.sub(r"\\([\\\"$`\n])", lambda m: "" if m[1] == "\n" else m[1], inside)]

    def _text(self, node: Node) -> str:
        return self._source[node.start_byte : node.end_byte].decode(errors="replace")


def _words_of(command: Node) -> Iterator[Node]:
    for child in command.children:
        if child.type not in ("variable_assignment", "file_redirect", "herestring_redirect"):
            yield child


def _unquoted(node: Node, source: bytes) -> str:
    """Get what of a word is under no quotes."""
    if node.type in ("string", "raw_string"):
        return ""
    if not node.child_count:
        return source[node.start_byte : node.end_byte].decode(errors="replace")
    return " ".join(_unquoted(child, source) for child in node.children)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda found: "" if found[1] == "\n" else found[1], text)


def _say(kind: str) -> str:
    return f"{kind.replace('_', ' ')!r}"
