"""A disk that is soon full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=24", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("only root may mount a small disk")
    # Out of sight at once, so that a killed test leaves no mount: the open directory keeps the disk.
    fd = os.open(disk, os.O_RDONLY | os.O_DIRECTORY)
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
    yield Path(f"/proc/self/fd/{fd}")
    os.close(fd)
