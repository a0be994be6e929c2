"""Where an API key comes from. A key is read when it is first needed and kept in memory only.

A key never leaves this room but in the header of a request: no error, repr or log may hold it.
"""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import trio

from crabd.errors import ProviderError
from crabd.masking import SECRET_LENGTH

# A password manager may ask a person for a passphrase first.
_COMMAND_SECONDS = 60
# The longest keys in use are tokens of some kilobytes.
_MAX_KEY_BYTES = 16 * 1024


class ApiKey:
    """The key of one provider: from a file, else a command's output, else an environment variable.

    With none of the three there is no key to send, which is what servers on this machine want.
    """

    def __init__(
        self,
        provider: str,
        *,
        file: str | None = None,
        command: str | None = None,
        variable: str | None = None,
        env: Mapping[str, str],
        learn: Callable[[str], None] | None = None,
    ) -> None:
        """``learn`` is told the key once it is read, so that it is hidden wherever it turns up."""
        self._provider = provider
        self._file = file
        self._command = command
        self._variable = variable
        self._env = env
        self._learn = learn
        self._value = ""
        self._is_read = False
        # Two first calls at once must not ask a person for a passphrase twice.
        self._reading = trio.Lock()

    def __repr__(self) -> str:
        return f"<ApiKey of {self._provider} from {self.origin}>"

    @property
    def origin(self) -> str:
        """Where the key comes from, for a person to look at."""
        if self._file:
            return f"the file {self._file}"
        if self._command:
            return f"the command {_program(self._command)}"
        return self._variable or "nowhere"

    async def read(self) -> str | None:
        """Get the key, the first time from where it is kept; null when none is meant to be sent.

        Raises:
          ProviderError: ``auth``, saying what to set.
        """
        async with self._reading:
            if not self._is_read:
                self._value = self._checked(await self._fetch())
                self._is_read = True
                if self._learn is not None:
                    self._learn(self._value)
            return self._value or None

    def forget(self) -> None:
        """Read it again next time: a key that was refused may have been replaced meanwhile."""
        self._is_read = False

    def hide(self, data: bytes) -> bytes:
        """Take the key out of what came from outside: servers like to quote it in their errors."""
        if len(self._value) < SECRET_LENGTH:
            return data
        return data.replace(self._value.encode(), b"[key]")

    async def _fetch(self) -> str:
        if self._file:
            return await trio.to_thread.run_sync(self._read_file, self._file)
        if self._command:
            return await self._run(self._command)
        if not self._variable:
            return ""
        value = self._env.get(self._variable, "").strip()
        if not value:
            raise self._missing(
                f"no API key: set {self._variable} in the daemon's environment, or api_key_file, "
                f"api_key_command or api_key_env in [providers.{self._provider}] of config.toml"
            )
        return value

    def _read_file(self, name: str) -> str:
        path = Path(os.path.expandvars(name)).expanduser()
        try:
            # Non-blocking, or a FIFO would hold the thread for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise self._missing(f"api_key_file {path} is not a regular file")
                if status.st_uid != os.getuid() or status.st_mode & 0o077:
                    raise self._missing(
                        f"api_key_file {path} must be yours and closed to others: chmod 600 {path}"
                    )
                return file.read(_MAX_KEY_BYTES).decode(errors="replace").strip()
        except OSError as exc:
            raise self._missing(f"api_key_file {path} cannot be read: {exc.strerror}") from exc

    async def _run(self, command: str) -> str:
        """Run a command without a shell. Cancellation, and the deadline, end it."""
        try:
            with trio.fail_after(_COMMAND_SECONDS):
                done = await trio.run_process(
                    shlex.split(command), capture_stdout=True, stderr=subprocess.DEVNULL
                )
        except trio.TooSlowError:
            problem = f"took longer than {_COMMAND_SECONDS} s"
        except subprocess.CalledProcessError as exc:
            problem = f"ended with status {exc.returncode}"
        except (OSError, ValueError) as exc:
            problem = f"cannot be run ({exc.strerror if isinstance(exc, OSError) else exc})"
        else:
            return done.stdout[:_MAX_KEY_BYTES].decode(errors="replace").strip()
        # Only the program's name, and no cause: the arguments and the output may be secret.
        raise self._missing(
            f"api_key_command {_program(command)} {problem}: run it by hand to see why"
        ) from None

    def _checked(self, key: str) -> str:
        """Refuse what cannot be a header's value here, where the complaint does not quote it."""
        if any(not "!" <= character <= "~" for character in key):
            raise self._missing(f"the API key from {self.origin} has spaces or other characters no key has")
        if not key and (self._file or self._command):
            raise self._missing(f"there is no API key in {self.origin}: it is empty")
        return key

    def _missing(self, problem: str) -> ProviderError:
        return ProviderError("auth", problem, provider=self._provider)


def _program(command: str) -> str:
    return command.split(maxsplit=1)[0] if command.strip() else "''"
