"""Confines itself with Landlock and seccomp, and becomes a command. A program of its own, never imported.

    python -I -S landlock.py [-h HIDDEN] … [-w WRITABLE] … [-t TEMPORARY] [-n] -- COMMAND …

For where no namespaces are to be had, such as in many containers. What follows cannot be undone by the
command nor by what it starts:

* nothing is read at or below HIDDEN, and the directories above it are not listed;
* nothing is written but at or below WRITABLE, unless HIDDEN is below it, and in TEMPORARY, its $TMPDIR;
* there are no sockets, or with -n only those of IP: none of the daemon's, a session bus' or an agent's;
* no process outside is signalled, traced, or has its environment read (signals since Linux 6.12);
* there is no way to more rights, as of sudo, and of root's none is left.

Landlock only ever allows, and for whole trees: in WRITABLE there are no exceptions, and where something
below a directory is hidden, nothing new can be made in the directory itself. Paths are real and absolute.

If anything of this cannot be done, the command is not run: exit code 125 and a line on stderr.

landlock(7), seccomp(2); numbers of system calls from the kernel's tables for x86_64 and aarch64.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Sequence

NOT_CONFINED = 125
NOT_FOUND = 127
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 24, 22, 2
# No kernel has more than these.
CAPABILITIES = 64
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION, PATH_BENEATH = 1, 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
REFER, TRUNCATE, DEVICES = 1 << 13, 1 << 14, 1 << 15
FIRST_RIGHTS = (1 << 13) - 1
# What came with which version of the interface.
LATER_RIGHTS = {2: REFER, 3: TRUNCATE, 5: DEVICES}
# Rights that a rule for something else than a directory may have.
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | DEVICES
READ = EXECUTE | READ_FILE | READ_DIR
NET_VERSION, SCOPE_VERSION = 4, 6
BIND_AND_CONNECT = 0b11
ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
# Who cannot open these is hardly a program.
USUAL_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

AF_INET, AF_INET6, AF_NETLINK = 2, 10, 16
EACCES, ENOSYS = 13, 38
IO_URING = (425, 426, 427)
# Of a machine: what seccomp calls it, the number of socket(2), and the bit of a second table of calls.
MACHINES = {"x86_64": (0xC000003E, 41, 0x4000_0000), "aarch64": (0xC00000B7, 198, 0)}
# Classic BPF: load a word of the data, compare, return. Where in the data the words are: seccomp(2).
LOAD, IF_EQUAL, IF_BITS, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
ALLOW, REFUSE = 0x7FFF0000, 0x00050000

libc = ctypes.CDLL(None, use_errno=True)


def confine(hidden: Sequence[str], writable: Sequence[str], *, has_network: bool) -> None:
    """Give up all other rights, for ever.

    Raises:
      OSError: the kernel does not have what is needed.
    """
    version = call(CREATE_RULESET, None, 0, ASK_VERSION)
    rights = FIRST_RIGHTS | sum(right for since, right in LATER_RIGHTS.items() if since <= version)
    net = BIND_AND_CONNECT if version >= NET_VERSION and not has_network else 0
    scope = ABSTRACT_SOCKETS_AND_SIGNALS if version >= SCOPE_VERSION else 0
    attributes = struct.pack("QQQ", rights, net, scope)
    size = 24 if version >= SCOPE_VERSION else 16 if version >= NET_VERSION else 8
    rules = call(CREATE_RULESET, attributes, size, 0)

    def allow(path: str, wanted: int) -> None:
        add_rule(rules, path, wanted & rights)

    allow_around("/", hidden, lambda path: allow(path, READ))
    for path in writable:
        allow_around(path, hidden, lambda each: allow(each, ~(MAKE_CHAR | MAKE_BLOCK | DEVICES)))
    for path in USUAL_DEVICES:
        allow(path, READ_FILE | WRITE_FILE | TRUNCATE)
    # Root's would open what other processes have; who is not root has none, and is refused.
    for capability in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    call(RESTRICT_SELF, rules, 0)
    os.close(rules)
    filter_calls(has_network=has_network)


def allow_around(path: str, hidden: Sequence[str], allow: Callable[[str], None]) -> None:
    """Allow a path, or where something below it is hidden, whatever it holds besides."""
    if not any(is_below(each, path) for each in hidden):
        allow(path)
        return
    for entry in entries(path):
        # A link is nothing of its own to Landlock, and what it leads to may be what is hidden.
        if not entry.is_symlink() and entry.path not in hidden:
            allow_around(entry.path, hidden, allow)


def entries(path: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            yield from found
    except OSError:
        # What we may not look into, nobody gets a right to.
        return


def is_below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


def add_rule(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        # It has gone since, or never was there.
        return
    try:
        is_directory = os.fstat(place).st_mode & 0o170000 == 0o040000
        wanted = rights if is_directory else rights & FILE_RIGHTS
        call(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", wanted, place), 0)
    finally:
        os.close(place)


def filter_calls(*, has_network: bool) -> None:
    """Refuse all sockets but those of IP, or these as well, and what would open them behind the filter."""
    machine = platform.machine()
    if machine not in MACHINES:
        raise OSError(ENOSYS, f"no filter of system calls is known for {machine}")
    architecture, socket, second_table = MACHINES[machine]
    families = [AF_NETLINK, *((AF_INET, AF_INET6) if has_network else ())]
    refused = (RETURN, 0, 0, REFUSE | EACCES)
    program = [
        (LOAD, 0, 0, ARCHITECTURE),
        (IF_EQUAL, 1, 0, architecture),
        refused,
        (LOAD, 0, 0, NUMBER),
        *([(IF_BITS, 0, 1, second_table), refused] if second_table else []),
    ]
    for number in IO_URING:
        program += [(IF_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | ENOSYS)]
    program += [(IF_EQUAL, 1, 0, socket), (RETURN, 0, 0, ALLOW), (LOAD, 0, 0, FIRST_ARGUMENT)]
    for family in families:
        program += [(IF_EQUAL, 0, 1, family), (RETURN, 0, 0, ALLOW)]
    program.append(refused)
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0))


def call(number: int, *arguments: object) -> int:
    return check(libc.syscall(number, *arguments))


def check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def main(arguments: list[str]) -> int:
    """Read the arguments, confine, and run the command; comes back only if that fails."""
    end = arguments.index("--")
    options, command = iter(arguments[:end]), arguments[end + 1 :]
    hidden: list[str] = []
    writable: list[str] = []
    has_network = False
    for option in options:
        if option == "-h":
            hidden.append(next(options))
        elif option == "-n":
            has_network = True
        else:
            writable.append(next(options))
            if option == "-t":
                os.environ["TMPDIR"] = writable[-1]
    try:
        confine(hidden, writable, has_network=has_network)
    except OSError as exc:
        os.write(2, f"landlock: {exc.strerror}\n".encode())
        return NOT_CONFINED
    # What python has ignored for itself.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        # The whole purpose; what is run has been decided.
        os.execvp(command[0], command)  # noqa: S606
    except OSError as exc:
        os.write(2, f"{command[0]}: {exc.strerror}\n".encode(errors="replace"))
    return NOT_FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
