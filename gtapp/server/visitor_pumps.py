"""The pumps of visitors: what they get when the service gives no answer, and their user's speed. Made by the router."""

from gtapp.relay.bucket import Shaper
from gtapp.relay.pump import Idle, Pump
from gtapp.relay.shaped_pump import Shaped
from gtapp.relay.stream import Stream
from gtapp.server.pages import refuse
from gtapp.server.registry import Kind
from gtapp.wire import frames

_NO_ANSWER = {
    frames.REFUSED: (502, "The service behind this address refused the connection."),
    frames.TIMED_OUT: (504, "The service behind this address does not answer."),
    frames.LIMIT: (503, "The client behind this address has reached a limit."),
    frames.FORBIDDEN: (403, "This address may not use the service."),
}
_NOTHING = (502, "The service behind this address closed the connection without an answer.")
_LOST = (502, "The connection to the service behind this address was lost before it answered.")


class HTTPPump(Pump):
    """The pump of a visitor with a request: where the service gave no byte of an answer, a page says why."""

    __slots__ = ()

    def _end_of_output(self) -> None:
        if self.delivered_any or self.stream.eof_sent:  # answered, or the visitor has left
            super()._end_of_output()
        else:
            self.stream.reset(frames.CANCELLED)
            refuse(self.detach(), *_NOTHING)

    def finished(self, reason: int | None) -> None:
        if self.delivered_any or (reason is None and self.stream.eof_sent):
            super().finished(reason)
            return
        status, text = _NOTHING if reason is None else _NO_ANSWER.get(reason, _LOST)
        refuse(self.detach(), status, text)


class ShapedPump(Shaped, Pump):
    """For the streams of a user with a speed."""

    __slots__ = ()


class ShapedHTTPPump(Shaped, HTTPPump):
    """The same for requests."""

    __slots__ = ()


def visitor_pump(kind: Kind, stream: Stream, idle: Idle, shaper: Shaper | None) -> Pump:
    """The pump for a visitor of this kind of endpoint; to be attached to the visitor's socket."""
    if shaper is None:
        return HTTPPump(stream, idle) if kind == "http" else Pump(stream, idle)
    return ShapedHTTPPump(stream, idle, shaper) if kind == "http" else ShapedPump(stream, idle, shaper)
