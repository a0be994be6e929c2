"""What a prompt says, as the blocks of a message: what is text, and what is refused. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from crabd.errors import BadRequest
from crabd.messages import TextBlock, UserBlock
from crabd.server.acp import schema as acp

NO_PICTURES = "pictures and sounds are not taken: say what there is to see, or name a file"
NO_BLOBS = "only text can be embedded: name the file instead, as a resource_link"


def read_prompt(prompt: Sequence[acp.ContentBlock]) -> tuple[UserBlock, ...]:
    """Read a prompt's blocks.

    Raises:
      BadRequest: there is nothing in it, or something that no model here can read.
    """
    blocks = [TextBlock(_read(block, f"$.prompt[{place}]")) for place, block in enumerate(prompt)]
    if not any(block.text.strip() for block in blocks):
        raise BadRequest("$.prompt", "it is empty: say something")
    return tuple(block for block in blocks if block.text)


def _read(block: acp.ContentBlock, path: str) -> str:
    match block:
        case acp.Text(text=text):
            return text
        case acp.ResourceLink():
            name = block.title or block.name
            place = _place(block.uri)
            # Models take it for the file that the words around it are about.
            return f"[@{name}]({place})" if name else place
        case acp.EmbeddedResource(resource=resource) if resource.text is not None:
            place = _place(resource.uri).replace('"', "%22")
            return f'\n<context ref="{place}">\n{resource.text}\n</context>\n'
        case acp.EmbeddedResource():
            raise BadRequest(path, NO_BLOBS)
        case acp.Image() | acp.Audio():
            raise BadRequest(path, NO_PICTURES)


def _place(uri: str) -> str:
    """Spell a file's address as tools take it."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    if parts.scheme != "file":
        return uri
    return unquote(parts.path) + (f"#{parts.fragment}" if parts.fragment else "")
