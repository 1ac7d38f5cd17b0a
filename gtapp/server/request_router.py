"""Option routePerRequest: each request of a visitor's connection goes to the service of its own host.

The router calls `split` for each visitor. A connection is split into *lanes*, one for each host that it asks for: a
socket in memory, which arrives, is routed and pumped as any visitor's is, the pages that say why not included.
"""

import logging
import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gevent import get_hub

from gtapp.observe.metrics import counters
from gtapp.relay.sockets import EV_READ, EV_WRITE, Socket, Watcher, reset_on_close, send_some
from gtapp.server.arrivals import HTTPArrival
from gtapp.server.lanes import Lane
from gtapp.server.pages import Farewell, refuse
from gtapp.wire import http_head
from gtapp.wire.http_messages import END
from gtapp.wire.http_requests import BadRequest, Request, RequestReader
from gtapp.wire.http_responses import BadResponse, ResponseReader

if TYPE_CHECKING:
    from gtapp.server.router import Router

log = logging.getLogger("gt.server")

READ_BYTES = 65536  # of a visitor at once
MAX_LANES = 16  # hosts of one connection at a time; the one used longest ago makes room
DROPPED_BYTES = 1024 * 1024  # how much of a body is read that no service takes, before the connection is cut

_CLOSE = re.compile(rb"\r\nconnection:[^\r\n]*", re.IGNORECASE)
_NOT_HTTP = "The service behind this address gives an answer that is not HTTP."

_read_buffer = memoryview(bytearray(READ_BYTES))  # used up before a callback returns


def split(router: "Router", sock: Socket, peer: str, data: bytes, flags: int) -> None:
    """Take over a visitor's connection with the bytes already read, and the flags for its OPENs."""
    counters.visitors_accepted += 1
    SplitVisitor(router, sock, peer, data, flags).start()


class LaneArrival(HTTPArrival):
    """A lane that wants to its host; `data` is the head of the first request, which has been read."""

    __slots__ = ()

    def start(self) -> None:
        self.route(self.name)


class SplitVisitor:
    """A visitor's connection. One exchange is under way at a time, in the current lane."""

    __slots__ = (
        "_dropped", "_ending", "_flags", "_lane", "_lanes", "_left", "_looked_at", "_out", "_out_bytes", "_peer",
        "_plain", "_reader", "_reopened", "_request", "_requests", "_responses", "_router", "_sock", "_timer",
        "_unread", "_writer", "closed",
    )  # fmt: skip

    def __init__(self, router: "Router", sock: Socket, peer: str, data: bytes, flags: int) -> None:
        self._router = router
        self._sock = sock
        self._peer = peer
        self._flags = flags
        self._unread = data  # read, and not yet taken; between requests the beginning of a head
        self._looked_at = 0  # bytes of that head in which there is no end
        self._requests = RequestReader(router.mux_header)
        self._responses = ResponseReader()
        self._request: Request | None = None  # the last one
        self._lanes: dict[str, Lane] = {}  # by host, the last used one at the end
        self._lane: Lane | None = None  # the current one
        self._reopened = False  # the service says that it closes, but the visitor is not told
        self._dropped = 0  # bytes of a body
        self._left = False  # the visitor has sent its EOF
        self._plain = False  # a WebSocket: bytes are bytes
        self._ending = False  # close when `_out` is empty
        self._out: list[bytes | memoryview] = []  # what the visitor has not taken yet: from one `lane_sends`
        self._out_bytes = 0
        self._reader = sock.watch(EV_READ)
        self._writer: Watcher | None = None
        self._timer: Any = None  # of a visitor that no pump looks after
        self.closed = False

    def __repr__(self) -> str:
        return f"<SplitVisitor {self._peer} {'closed' if self.closed else 'open'} lanes={list(self._lanes)}>"

    def start(self) -> None:
        """Begin with what has been read."""
        self._router.splits.add(self)
        self._look_after()
        self._go_on()

    def _guarded(self, step: Callable[[], None]) -> None:
        if self.closed:
            return
        try:
            step()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._cut()
        except Exception:
            log.exception("unexpected error with the requests of %s", self._peer)
            self._cut()

    # visitor -> lanes

    def _readable(self) -> None:
        self._guarded(self._read)

    def _read(self) -> None:
        count = self._sock.recv_into(_read_buffer)
        self._left = not count
        self._unread += _read_buffer[:count]
        self._take()

    def _go_on(self) -> None:
        """Something that was in the way is not any more."""
        self._guarded(self._take)

    def _take(self) -> None:
        """Take what may be taken of what was read, and read on if that is all of it."""
        blocked = False
        try:
            while self._unread and not blocked and not self.closed:
                if self._plain:
                    blocked = not self._take_bytes()
                elif not self._requests.complete:
                    blocked = not self._take_body()
                elif self._lane is not None or self._out or self._ending:
                    blocked = True
                elif not self._take_head():
                    break
                else:  # where it has been answered already, others have their turn first
                    blocked = self._lane is None and bool(self._unread)
        except BadRequest as error:
            self._refuse_malformed(error)
        if self.closed:
            return
        if blocked or self._left:
            self._reader.stop()
        else:
            self._reader.start(self._readable)
        if self._left and not blocked:
            self._visitor_left()

    def _take_bytes(self) -> bool:
        lane = self._lane
        assert lane is not None
        if lane.is_full:
            return False
        lane.put(self._unread)
        self._unread = b""
        return True

    def _take_body(self) -> bool:
        lane = self._lane
        if lane is not None and lane.is_full:
            return False
        body, taken = self._requests.body(self._unread)
        self._unread = self._unread[taken:]
        if self._timer is not None:
            self._look_after()
        if lane is None or lane.over:
            self._dropped += taken
            if self._dropped > DROPPED_BYTES:
                self._cut()
                return False
        else:
            lane.put(body)
        self._end_exchange_if_done()
        return True

    def _take_head(self) -> bool:
        """Begin the next request; False when its head is not complete."""
        data, known = self._unread, self._looked_at
        self._looked_at = len(data)
        if not http_head.is_worth_a_look(data, known):
            return False
        found = self._requests.head(data)
        if found is None:
            return False
        request, end = found
        self._looked_at = 0
        self._unread = data[end:]
        self._router.forget(self)
        self._request = request
        self._dropped = 0
        self._responses.expect(request.method, request.websocket)
        name = self._router.name_of(request.host)
        lane = self._lanes.pop(name, None)
        if lane is not None:
            self._lane = self._lanes[name] = lane
            lane.is_used_again = True
            lane.put(request.head())
            return True
        if len(self._lanes) >= MAX_LANES:
            self._lanes.pop(next(iter(self._lanes))).finish()
        self._lane = self._lanes[name] = Lane(self, name, self._sock)
        LaneArrival(self._router, self._lane, self._peer, request.head(), name, self._flags).start()
        return True

    def _visitor_left(self) -> None:
        """It sends nothing any more, and all it has sent is taken."""
        if self._plain:
            assert self._lane is not None
            self._lane.finish()
        elif not self._requests.complete:
            self._cut()
        elif self._lane is None and not self._out:
            self.close()

    # lanes -> visitor

    def lane_sends(self, lane: Lane, data: bytes | memoryview) -> int:
        """What came from a service. All of it is taken or, while the visitor is slow, BlockingIOError is raised."""
        if self.closed or lane is not self._lane:
            lane.cut()  # nobody has asked
            raise ConnectionResetError
        if self._out:
            raise BlockingIOError
        if self._plain:
            self._write(data)
            return len(data)
        begun = self._responses.begun
        try:
            used = self._responses.receive(data)
        except BadResponse as error:
            log.info("the answer of a service cannot be passed on: %s", error)
            lane.cut()
            if begun:
                self._cut()
            else:
                refuse(self._let_go(), 502, _NOT_HTTP)
            raise ConnectionResetError from error
        part = data[:used]
        if not begun and self._responses.status:
            part = self._reopen(part)
        self._write(part)
        self._end_exchange_if_done()
        if self._responses.upgraded:
            self._write(data[used:])
        elif used < len(data):
            lane.cut()
        return len(data)

    def _reopen(self, part: bytes | memoryview) -> bytes | memoryview:
        """Where a service closes after its answer the visitor's connection need not: others use it, too."""
        responses, request = self._responses, self._request
        assert request is not None
        self._reopened = False
        if (
            responses.keep_alive
            or not responses.delimited
            or not request.keep_alive
            or request.version != "1.1"
        ):
            return part
        if request.expects_continue and not self._requests.complete:
            return part  # whether the body comes is anyone's guess
        data = bytes(part)
        head, end, rest = data.partition(END)
        if not end or head[:12] != b"HTTP/1.1 %d" % responses.status:
            return part
        self._reopened = True
        return _CLOSE.sub(b"", head) + end + rest

    def _write(self, data: bytes | memoryview) -> None:
        """Raises OSError when the visitor is gone."""
        sent = 0
        if not self._out:
            try:
                sent = self._sock.send(data) if data else 0
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self._cut()
                raise
        if sent < len(data):
            self._out.append(bytes(data[sent:]))
            self._out_bytes += len(data) - sent
            if self._writer is None:
                self._writer = self._sock.watch(EV_WRITE)
            self._writer.start(self._writable)

    def _writable(self) -> None:
        self._guarded(self._flush)

    def _flush(self) -> None:
        sent = send_some(self._sock, self._out, self._out_bytes)
        self._out_bytes -= sent
        if self._out:
            if sent and self._timer is not None:
                self._look_after()
            return
        assert self._writer is not None
        self._writer.stop()
        if self._ending:
            self._say_goodbye()
            return
        if self._timer is not None:
            self._look_after()
        if self._lane is not None:
            self._lane.has_room()
            if self._plain and self._lane.over:
                self._sock.shutdown(socket.SHUT_WR)
        self._take()

    def lane_has_room(self, lane: Lane) -> None:
        """A lane that was full is not any more."""
        if lane is self._lane:
            get_hub().loop.run_callback(self._go_on)

    def lane_ended(self, lane: Lane, clean: bool) -> None:
        """The service sends no more; not `clean`: its connection was cut."""
        if self._lanes.get(lane.name) is lane:
            del self._lanes[lane.name]
        if not (self._plain and lane is self._lane):
            lane.finish()
        if self.closed:
            return
        if self._plain:
            if lane is not self._lane:
                return
            if not clean:
                self._cut()
            elif not self._out:
                self._sock.shutdown(socket.SHUT_WR)
            return
        if lane is self._lane:
            if not self._responses.complete:
                self._end_response(lane, clean)
            get_hub().loop.run_callback(self._go_on)  # what waited for room in the lane
        if not self._lanes and not self.closed:
            self._look_after()

    def lane_closed(self, lane: Lane) -> None:
        """Both directions of a lane have ended."""
        if self._plain and lane is self._lane and not self.closed:
            self._end()

    def _end_response(self, lane: Lane, clean: bool) -> None:
        if not self._responses.begun and lane.is_used_again:
            self._end()  # as services do that have been idle for too long: whoever asks twice asks again
            return
        try:
            if not clean:
                raise BadResponse("the connection was cut")
            self._responses.end()
        except BadResponse:
            self._cut()
        else:
            self._end_exchange_if_done()

    def _end_exchange_if_done(self) -> None:
        """When request and response are both complete, the next request may come."""
        lane = self._lane
        if lane is None or not self._responses.complete:
            return
        request = self._request
        assert request is not None
        if not self._requests.complete:
            if request.expects_continue:
                self._end()
            return
        if self._responses.upgraded:
            self._plain = True
        elif not (request.keep_alive and (self._responses.keep_alive or self._reopened)):
            self._end()
            return
        else:
            self._lane = None
            if not self._responses.keep_alive:  # the service closes that one
                self._lanes.pop(lane.name, None)
                lane.finish()
            if not self._lanes:
                self._look_after()
        if self._unread or self._left:
            get_hub().loop.run_callback(self._go_on)

    def _look_after(self) -> None:
        """No pump, which has an idle time, does: the visitor is to take or send something within that time, or the
        next request within the router's."""
        self._stop_timer()
        self._router.forget(self)
        if self._out or self._ending or not self._requests.complete:
            self._timer = get_hub().loop.timer(self._router.idle_s)
            self._timer.start(self._cut)
        else:
            self._router.expect(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    # the end

    def _refuse_malformed(self, error: BadRequest) -> None:
        if self._lane is None or not self._responses.begun:
            refuse(self._let_go(), error.status, f"{error}.")
        else:
            self._cut()

    def _end(self) -> None:
        """Close the connection once the visitor has got what is for it."""
        if self._out:
            self._ending = True
            self._reader.stop()
            self._look_after()
        else:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        Farewell(self._let_go(), b"")

    def _cut(self) -> None:
        """Nobody must take what the visitor has got for a whole answer."""
        if not self.closed:
            if self._lane is not None:
                self._lane.cut()
            reset_on_close(self._sock)
            self.close()

    def close(self) -> None:
        if not self.closed:
            self._let_go().close()

    def _let_go(self) -> Socket:
        self.closed = True
        self._reader.stop()
        if self._writer is not None:
            self._writer.stop()
        self._stop_timer()
        self._out.clear()
        self._router.forget(self)
        self._router.splits.discard(self)
        current, self._lane = self._lane, None
        lanes = list(self._lanes.values())
        self._lanes.clear()
        for lane in lanes:
            if lane is current and not (self._requests.complete and self._responses.complete):
                lane.cut()
            else:
                lane.finish()
        return self._sock
