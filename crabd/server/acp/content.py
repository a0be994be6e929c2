"""What a prompt says, as the blocks of a message, and back: what is read, and what is refused. Pure."""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Sequence
from typing import get_args
from urllib.parse import unquote, urlsplit

from crabd.errors import BadRequest
from crabd.messages import MAX_IMAGE, ImageBlock, ImageType, TextBlock, UserBlock
from crabd.server.acp import schema as acp

IMAGE_TYPES: dict[str, ImageType] = {each: each for each in get_args(ImageType)}
NO_SOUNDS = "sounds are not taken: say in words what there is to hear"
NO_BLOBS = "only text can be embedded: name the file instead, as a resource_link"


def read_prompt(prompt: Sequence[acp.ContentBlock]) -> tuple[UserBlock, ...]:
    """Read a prompt's blocks.

    Raises:
      BadRequest: there is nothing in it, or something that no model here can read.
    """
    blocks = [_read(block, f"$.prompt[{place}]") for place, block in enumerate(prompt)]
    if not any(isinstance(block, ImageBlock) or block.text.strip() for block in blocks):
        raise BadRequest("$.prompt", "it is empty: say something")
    return tuple(block for block in blocks if isinstance(block, ImageBlock) or block.text)


def show_block(block: UserBlock) -> acp.Text | acp.Image:
    """Spell a block of somebody's message as clients show it."""
    match block:
        case TextBlock(text=text):
            return acp.Text(text=text)
        case ImageBlock(media_type=type_, data=data):
            return acp.Image(data=b64encode(data).decode(), mime_type=type_)


def _read(block: acp.ContentBlock, path: str) -> UserBlock:
    if isinstance(block, acp.Image):
        return _read_image(block, path)
    return TextBlock(_read_text(block, path))


def _read_image(image: acp.Image, path: str) -> ImageBlock:
    type_ = IMAGE_TYPES.get(image.mime_type)
    if type_ is None:
        raise BadRequest(
            f"{path}.mimeType", f"{image.mime_type!r} is none of {', '.join(IMAGE_TYPES)}: convert it"
        )
    try:
        data = b64decode(image.data, validate=True)
    except (NotBase64, ValueError):
        raise BadRequest(f"{path}.data", "it is not Base64: attach the picture anew") from None
    if not data:
        raise BadRequest(f"{path}.data", "it is empty: attach the picture anew")
    if len(data) > MAX_IMAGE:
        raise BadRequest(
            f"{path}.data", f"it has {len(data)} bytes, and {MAX_IMAGE} are the most: make it smaller"
        )
    return ImageBlock(type_, data)


def _read_text(block: acp.Text | acp.Audio | acp.ResourceLink | acp.EmbeddedResource, path: str) -> str:
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
        case acp.Audio():
            raise BadRequest(path, NO_SOUNDS)


def _place(uri: str) -> str:
    """Spell a file's address as tools take it."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    if parts.scheme != "file":
        return uri
    return unquote(parts.path) + (f"#{parts.fragment}" if parts.fragment else "")
