"""Per-request mode: the pumps of services with useLocalAsHTTPHost, forwardedFor or basicAuth. Called by services."""

from collections.abc import Callable, Sequence

from gtapp.client.request_rules import Rules
from gtapp.client.request_socket import RequestSocket
from gtapp.config.load import Service
from gtapp.relay.pump import Idle, Pump
from gtapp.relay.sockets import Socket
from gtapp.relay.stream import Stream


def factory(service: Service) -> Callable[[Stream, Idle, str, int], Pump]:
    """What makes the pumps of `service`: of a stream, its idle time, the visitor's address ("" if not known) and the
    flags of its OPEN."""
    rules = Rules(service)
    return lambda stream, idle, visitor, flags: RequestPump(stream, idle, rules, visitor, flags)


class RequestPump(Pump):
    """A pump whose local socket reads along."""

    __slots__ = ("_flags", "_rules", "_visitor")

    def __init__(self, stream: Stream, idle: Idle, rules: Rules, visitor: str, flags: int) -> None:
        super().__init__(stream, idle)
        self._rules = rules
        self._visitor = visitor
        self._flags = flags

    def attach(self, sock: Socket, first: Sequence[bytes] = ()) -> None:
        super().attach(RequestSocket(sock, self._rules, self._visitor, self._flags), first)
