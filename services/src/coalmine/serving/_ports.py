"""Whether a port is free, and keeping it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from coalmine.serving._errors import StartupError

__all__ = ["free_port", "hold_port", "is_listening", "shared_socket"]


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; StartupError, before a model is loaded, if it is taken."""
    with _socket(host) as probe:
        return _bind(probe, host, port)


@contextmanager
def hold_port(host: str, port: int) -> Iterator[int]:
    """Keep a port for processes that will share it. StartupError if anybody listens on it."""
    # Asked without SO_REUSEPORT first: with it, the port of another group like ours would be free.
    port = free_port(host, port)
    # Bound and not listening, it gets no connection.
    with shared_socket(host, port):
        yield port


def shared_socket(host: str, port: int) -> socket.socket:
    """A bound socket whose port processes of the same user may share."""
    made = _socket(host)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(made, host, port)
    except BaseException:
        made.close()
        raise
    return made


def _socket(host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def _bind(made: socket.socket, host: str, port: int) -> int:
    try:
        made.bind((host, port))
    except OSError as error:
        said = f"cannot listen on {host}:{port}: {error.strerror}"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            said += "; --port names another"
        raise StartupError(said) from error
    chosen: int = made.getsockname()[1]
    return chosen


def is_listening(port: int) -> bool:
    """Whether this very process listens on a port; another that shares it does not count."""
    for number in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                continue
            copy = os.dup(int(number))
        except OSError:  # closed meanwhile
            continue
        with socket.socket(fileno=copy) as found:
            if (
                found.family in (socket.AF_INET, socket.AF_INET6)
                and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                and found.getsockname()[1] == port
            ):
                return True
    return False
