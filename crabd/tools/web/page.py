"""A program that turns a web page on its standard input into text to read: ``page.py ADDRESS <PAGE >TEXT``.

It runs as a process of its own, with limits on time and memory: pages are written by strangers, and a
short one can keep a parser busy for hours. It imports the standard library alone, so that it starts in no
time; a reader needs headings, lists, links, tables and code, which is less than a dependency would be.
"""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from urllib.parse import urljoin

CPU_SECONDS = 10
MEMORY_BYTES = 1 << 30
# Shorter than this, what a page declares to be its main part is not what a reader came for.
LEAST_MAIN = 200
# Lists that lie deeper look alike.
MAX_INDENT = 8
HIDDEN = frozenset({"head", "iframe", "noscript", "object", "script", "style", "svg", "template"})
# What stands around the text on every page of a site.
AROUND = frozenset({"aside", "footer", "nav"})
PARAGRAPHS = frozenset(
    {
        *(
            "address",
            "article",
            "aside",
            "blockquote",
            "body",
            "dd",
            "details",
            "div",
            "dl",
            "dt",
            "fieldset",
        ),
        *("figcaption", "figure", "footer", "form", "header", "hr", "main", "nav", "ol", "p", "section"),
        *("summary", "table", "ul"),
    }
)
HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})


class Text:
    """Text that grows: words are parted by one space, and paragraphs by one empty line."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._break = 0
        self._has_space = False

    def add(self, words: str) -> None:
        """Add text; white space in it is one space, and none at the start of a line."""
        text = " ".join(words.split())
        if text:
            self._has_space = self._has_space or words[0].isspace()
            self.open(text)
        self._has_space = self._has_space or words[-1:].isspace()

    def open(self, mark: str) -> None:
        """Add text as it is, behind the space that is due."""
        is_at_start = self._break > 0 or not self.parts
        self.glue(mark if is_at_start or not self._has_space else f" {mark}")

    def close(self, mark: str) -> None:
        """Add text as it is, before the space that is due."""
        has_space = self._has_space
        self.glue(mark)
        self._has_space = has_space

    def glue(self, text: str) -> None:
        """Add text as it is."""
        if self._break and self.parts:
            self.parts.append("\n" * self._break)
        self.parts.append(text)
        self._break, self._has_space = 0, False

    def part(self, newlines: int) -> None:
        """Have what comes next begin so many lines below, at least."""
        self._break, self._has_space = max(self._break, newlines), False

    def __str__(self) -> str:
        return "".join(self.parts)


class Reader(HTMLParser):
    """Reads a page into three texts: all of it, what is not around it on every page, and its main part."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.title = ""
        self._address = address
        self._everything, self._middle, self._main = Text(), Text(), Text()
        self._open: dict[str, int] = {}
        self._lists: list[int | None] = []
        self._links: list[str | None] = []
        self._is_in_title = False

    def text(self) -> str:
        """Give the narrowest of the texts that has something to read in it."""
        main, middle = str(self._main), str(self._middle)
        body = main if len(main) >= LEAST_MAIN else middle or str(self._everything)
        title = " ".join(self.title.split())
        return f"Title: {title}\n\n{body}".strip() if title else body.strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in HIDDEN or tag in AROUND or tag in ("main", "pre"):
            self._open[tag] = self._open.get(tag, 0) + 1
        # Whatever has been forgotten to be closed: what comes now is on the page.
        if tag == "body":
            self._open = {}
        self._is_in_title = tag == "title" and not self.title
        self._lay_out(tag, dict(attrs))

    def _lay_out(self, tag: str, attributes: dict[str, str | None]) -> None:
        if tag in PARAGRAPHS:
            self._part(self._gap(tag))
        match tag:
            case "ol" | "ul":
                self._lists.append(1 if tag == "ol" else None)
            case "li":
                self._begin_item()
            case "tr" | "br":
                self._part(1)
            case "td" | "th":
                self._each(Text.add, " | ")
            case "pre":
                self._part(2)
                self._each(Text.glue, "```\n")
            case "a":
                self._links.append(self._target(attributes.get("href")))
                if self._links[-1]:
                    self._each(Text.open, "[")
            case "img" if attributes.get("alt"):
                self._each(Text.add, f" [image: {attributes['alt']}] ")
            case "code" if not self._is_in("pre"):
                self._each(Text.open, "`")
            case _ if tag in HEADINGS:
                self._part(2)
                self._each(Text.glue, "#" * int(tag[1]) + " ")
            case _:
                pass

    def handle_endtag(self, tag: str) -> None:
        if self._open.get(tag):
            self._open[tag] -= 1
        if tag in ("ol", "ul") and self._lists:
            self._lists.pop()
        if tag in PARAGRAPHS or tag in HEADINGS:
            self._part(self._gap(tag))
        match tag:
            case "title":
                self._is_in_title = False
            case "pre":
                self._each(Text.glue, "\n```")
                self._part(2)
            case "a" if self._links:
                target = self._links.pop()
                if target:
                    self._each(Text.close, f"]({target})")
            case "code" if not self._is_in("pre"):
                self._each(Text.close, "`")
            case _:
                pass

    def handle_data(self, data: str) -> None:
        if self._is_in_title:
            self.title += data
        else:
            self._each(Text.glue if self._is_in("pre") else Text.add, data)

    def _begin_item(self) -> None:
        self._part(1)
        number = self._lists[-1] if self._lists else None
        if number is not None:
            self._lists[-1] = number + 1
        sign = "- " if number is None else f"{number}. "
        self._each(Text.glue, "  " * min(max(len(self._lists) - 1, 0), MAX_INDENT) + sign)

    def _gap(self, tag: str) -> int:
        """Tell how many lines below a paragraph begins: a list in a list follows at once."""
        return 1 if tag in ("ol", "ul") and self._lists else 2

    def _target(self, href: str | None) -> str | None:
        """Find where a link leads, if that is somewhere else on the web."""
        try:
            target = urljoin(self._address, (href or "#").strip())
        except ValueError:
            return None
        is_web = re.match(r"https?://", target) is not None
        return target if is_web and not (href or "#").startswith("#") else None

    def _texts(self) -> list[Text]:
        """List the texts that what comes now belongs to."""
        if any(self._is_in(tag) for tag in HIDDEN):
            return []
        texts = [self._everything]
        if not any(self._is_in(tag) for tag in AROUND):
            texts.append(self._middle)
            if self._is_in("main"):
                texts.append(self._main)
        return texts

    def _is_in(self, tag: str) -> bool:
        return self._open.get(tag, 0) > 0

    def _each(self, add: Callable[[Text, str], None], text: str) -> None:
        for each in self._texts():
            add(each, text)

    def _part(self, newlines: int) -> None:
        for text in self._texts():
            text.part(newlines)


def read(page: str, address: str) -> str:
    """Turn a page into text."""
    reader = Reader(address)
    reader.feed(page)
    reader.close()
    return reader.text()


def main() -> None:
    """Be the program."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    page = sys.stdin.buffer.read().decode("utf-8", "replace")
    sys.stdout.buffer.write(read(page, sys.argv[1]).encode("utf-8", "replace"))


if __name__ == "__main__":
    main()
