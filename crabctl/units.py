"""The units as files: where they belong, what they say for an installation, and whether one was changed.

Asks no manager and writes nothing.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from crabctl.systemd import SERVICE, SOCKET

# What the templates say where an installation has its own: the programs, and the place of the socket.
CRABD = "%h/.local/bin/crabd"
CRABCTL = "%h/.local/bin/crabctl"
LISTEN = "%t/crabd/crabd.sock"
# Where a user's crabd has its things. The manager need not have these from where a shell has them.
PLACES = ("CRABD_CONFIG_DIR", "CRABD_STATE_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME")


def template_folder() -> Path:
    """Find the templates: an installed package carries them, a source tree has them at its top."""
    root = Path(__file__).parent.parent
    packaged = root / "crabd" / "systemd"
    return packaged if packaged.is_dir() else root / "systemd"


def unit_folder() -> Path:
    """Find where a user's own units are."""
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "systemd" / "user"


def render(programs: Path, socket: str, default_socket: str) -> dict[str, str]:
    """Write both units for the programs in a folder and a socket; returns their texts by name."""
    places = {name: os.path.abspath(os.environ[name]) for name in PLACES if os.environ.get(name)}  # noqa: PTH100  # links stay
    listen = LISTEN
    if socket != default_socket:
        places["CRABD_SOCKET"] = socket
        listen = socket.replace("%", "%%")
    environment = "".join(f"Environment={quote(f'{name}={place}')}\n" for name, place in places.items())
    folder = template_folder()
    return {
        SOCKET: _signed(SOCKET, (folder / SOCKET).read_text().replace(LISTEN, listen)),
        SERVICE: _signed(
            SERVICE,
            (folder / SERVICE)
            .read_text()
            .replace(CRABCTL, quote(str(programs / "crabctl")))
            .replace(CRABD, quote(str(programs / "crabd")))
            .replace("[Service]\n", f"[Service]\n{environment}"),
        ),
    }


def quote(word: str) -> str:
    """Write a word as systemd reads it back: systemd.syntax(7), and percent signs as systemd.unit(5)."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def is_ours(file: Path) -> bool:
    """Tell whether a unit file is as an installation wrote it, whichever one that was."""
    if file.is_symlink() or not file.is_file():
        return False
    text = file.read_text("utf-8", "replace")
    _, _, body = text.partition("\n")
    return text == _signed(file.name, body)


def _signed(name: str, body: str) -> str:
    """Put a first line before a unit by which a change to it shows."""
    digest = sha256(body.encode()).hexdigest()[:16]
    advice = f"Changes belong into a drop-in: systemctl --user edit {name}"
    return f"# Written by crabctl service install ({digest}). {advice}\n{body}"
