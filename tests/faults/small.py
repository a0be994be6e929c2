"""Disks that are soon full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(place: Path, options: str) -> Generator[int]:
    """Mount a tmpfs that lasts as long as its directory is open; skips the test where that may not be."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("only root may mount a small disk")
    # Out of sight at once, so that a killed test leaves no mount: the open directory keeps the disk.
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    subprocess.run(["umount", "--lazy", str(place)], check=True)
    yield fd
    os.close(fd)
