"""Where the daemon listens. The one rule, for the daemon and for every client."""

from __future__ import annotations

import os


def socket_path() -> str:
    """Find the socket: ``$CRABD_SOCKET``, else the user's runtime directory."""
    explicit = os.environ.get("CRABD_SOCKET")
    if explicit:
        return explicit
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        # Costs a client more than all its other imports, so only where no session manager set a directory.
        import warnings

        import platformdirs

        with warnings.catch_warnings():
            # It warns that it falls back to a temporary directory, which is what is asked of it.
            warnings.simplefilter("ignore")
            runtime = platformdirs.user_runtime_dir()
    return f"{runtime}/crabd/crabd.sock"
