"""What ``config.toml`` may say of tools. Pure."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

SandboxMode: TypeAlias = Literal["auto", "require", "off"]
# For a build with all its workers; a bomb of forks is put out before it has a thousand.
PROCESSES = 1024
# More than any build or download that an agent should begin; a runaway stops before the disk is full.
FILE_BYTES = 16 << 30


class SandboxSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How commands of tools are confined: as well as the machine can, or not at all, or not without.

    ``write`` and ``hide`` are further paths, with ``~``; ``environment`` names of variables that commands get
    besides the usual ones, with ``*`` at the end if need be. ``processes`` is how many a command may have at
    once, ``file_bytes`` how long a file of its may become. ``memory_bytes`` is a limit on each process's
    address space, which java, node and go do not live with, so that there is none unless it is set.
    """

    mode: SandboxMode = "auto"
    network: bool = False
    write: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    processes: Annotated[int, Meta(ge=1)] = PROCESSES
    file_bytes: Annotated[int, Meta(ge=1)] = FILE_BYTES
    memory_bytes: Annotated[int, Meta(ge=1)] | None = None
