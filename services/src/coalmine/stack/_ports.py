"""The ports of a local stack: ten in a row, so that one number moves them all."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from coalmine.arms import Arm
from coalmine.stack._errors import PortsTakenError

__all__ = ["DEFAULT_PORT", "Ports", "check_ports"]

DEFAULT_PORT = 8080
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one stack, counted from the gateway's.

    >>> ports = Ports(8080)
    >>> ports.control, ports.arms[Arm.CANARY]
    (8081, 8084)
    """

    gateway: int = DEFAULT_PORT

    @property
    def control(self) -> int:
        """All the FastAPI apps, under their prefixes."""
        return self.gateway + 1

    @property
    def admin(self) -> int:
        """Envoy's admin interface."""
        return self.gateway + 2

    @property
    def arms(self) -> dict[Arm, int]:
        """The model servers."""
        arms = (Arm.STABLE, Arm.CANARY, Arm.SHADOW)
        ports = {arm: self.gateway + 3 + place for place, arm in enumerate(arms)}
        return {**ports, Arm.BASELINE: self.gateway + 8}

    @property
    def prometheus(self) -> int:
        """Prometheus, where it is installed."""
        return self.gateway + 6

    @property
    def alertmanager(self) -> int:
        """Alertmanager, where it is installed."""
        return self.gateway + 7

    @property
    def alibi(self) -> int:
        """The monitors of alibi-detect, where the service file asks for them."""
        return self.gateway + 9

    def by_part(self) -> dict[str, int]:
        """Every port that any service needs, by the name of the part that listens there."""
        return {
            "gateway": self.gateway,
            "control": self.control,
            "gateway admin": self.admin,
            **{f"{arm} arm": port for arm, port in self.arms.items()},
            "prometheus": self.prometheus,
            "alertmanager": self.alertmanager,
        }


def url(port: int) -> str:
    """The address of a part on this machine."""
    return f"http://{_HOST}:{port}"


def check_ports(ports: Ports, *, alibi: bool = False) -> None:
    """Raise `PortsTakenError`, naming each part whose port another program uses."""
    needed = ports.by_part() | ({"alibi": ports.alibi} if alibi else {})
    taken = [f"{port} ({part})" for part, port in needed.items() if not _is_free(port)]
    if taken:
        noun = "port" if len(taken) == 1 else "ports"
        raise PortsTakenError(
            f"{noun} in use: {', '.join(taken)}; the stack takes {ports.gateway} to "
            f"{max(needed.values())}, move it with: --port {ports.gateway + 1000}"
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the parts do themselves: connections of an earlier run that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError):
            return False
        return True
