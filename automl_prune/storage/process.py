"""Which process on which host: so that a dead neighbour is known at once, not by its lease."""

from __future__ import annotations

import functools
import json
import os
import socket
from pathlib import Path


@functools.cache
def host_name() -> str:
    """This host's name."""
    return socket.gethostname()


@functools.cache
def _place() -> str:
    """What process numbers refer to: this boot of this host, in this PID namespace."""
    parts = [host_name()]
    for path in ("/proc/sys/kernel/random/boot_id",):
        try:
            parts.append(Path(path).read_text().strip())
        except OSError:
            parts.append("?")
    try:
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    except OSError:
        parts.append("?")
    return "/".join(parts)


def identity(pid: int | None = None) -> str:
    """A text that names one process for good: process numbers are used again, start times not."""
    number = os.getpid() if pid is None else pid
    return json.dumps({"place": _place(), "pid": number, "start": _start_time(number)})


def known_dead(text: str) -> bool:
    """Whether the process of an :func:`identity` is certainly gone; False where it is unknown.

    Only processes of this host, boot and namespace can be told.
    """
    content = json.loads(text)
    if content["place"] != _place():
        return False
    pid, start = content["pid"], content["start"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return start is not None and _start_time(pid) != start


def _start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None where the system does not tell.

    A zombie has no start time: it will never write again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
