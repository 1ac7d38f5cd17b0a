"""A tunnel: the streams between a server and a client over one link. Admission and dialer open it."""

import itertools
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent import get_hub

from gtapp.errors import WireError
from gtapp.observe import metrics
from gtapp.observe.logs import Limited
from gtapp.observe.metrics import counters, stream_seconds, tunnel_rtt
from gtapp.relay.link import Link
from gtapp.relay.sockets import sent_again
from gtapp.relay.stream import Stream
from gtapp.wire import compat, frames

log = logging.getLogger("gt.tunnel")
strangers = Limited("gt.tunnel")  # for lines that anybody can cause

SPARE_WINDOW = 64 * 1024 * 1024  # how much the windows of a tunnel's streams may grow, all together
PROBE_AFTER_S = 2.0  # written to and silent for so long: ask whether the other end is there
SUSPECT_AFTER_S = 3.0  # a PING unanswered for so long: don't count on this tunnel
DOUBTED_S = 10.0  # the same when its client has opened another tunnel meanwhile: it is dead
LAST_STREAM_ID = 0xFFFF0000  # below protocol 1's signals; a tunnel that gets there is drained and replaced
HOLD_S = 10.0  # protocol 1: how long one stream may keep the tunnel from being read, which stops all others
HELD_PING_S = 15.0  # protocol 1: a client whose pings lie unread behind held data hears from us this often
RTT_EVERY_S = 5.0  # how often a tunnel in use measures its round trip, which the windows grow by

Frames = frames.Frames | compat.CompatFrames

_numbers = itertools.count(1)


class Tunnel:
    """One tunnel. Callbacks, set by the owner before `start`:

    `on_control(message)`  a CONTROL (dict) or a signal of protocol 1
    `on_open(stream, opened)`  the other end opens a stream; without it that is a protocol error
    `on_closed(reason)`  once, whichever way it ends; its streams have been reset by then, but for those of
        which everything has arrived: they go on delivering it
    `on_drain()`  once, when it begins to open no streams any more
    `on_suspect()`  it does not answer

    Until `opened()` is called only control messages are handed out; streams that arrive earlier wait, and the
    link is not read meanwhile: nothing is relayed for an end that has not proved who it is.
    """

    def __init__(self, link: Link, wire: Frames, idle_timeout: float, is_server: bool) -> None:
        self.link = link
        self.frames = wire
        self.name = link.peer
        self.has_windows = wire.version == 3
        self.is_server = is_server
        self._may_ping = self.has_windows or not is_server  # protocol 1: only clients ask
        self.idle_timeout = idle_timeout
        self.streams: dict[int, Stream] = {}
        self.age = 0.0  # seconds, in ticks
        self.rtt = 0.0  # seconds; 0 until the first PONG
        self.draining = False  # opens no new streams, closes after the last one
        self.peer_drains = False  # the other end has said that it does
        self.suspect = False  # does not answer
        self.closed = False
        self.on_control: Callable[[Any], None] = lambda message: None
        self.on_open: Callable[[Stream, frames.Open], None] | None = None
        self.on_closed: Callable[[str], None] = lambda reason: None
        self.on_drain: Callable[[], None] = lambda: None
        self.on_suspect: Callable[[], None] = lambda: None
        self._number = 0
        self.agent = ""  # what the other end calls itself, once that is known
        self._past_from_local = 0  # bytes of streams that are over
        self._past_to_local = 0
        self._held: list[frames.Event] | None = []
        self._counted = (0, 0)  # of bytes_from_local, bytes_to_local
        self._next_id = 2 if is_server else 1
        self._last_foreign_id = 0
        self._spare_window = SPARE_WINDOW
        self._holders: dict[Stream, float] = {}  # value: seconds, in ticks
        self._held_s = 0.0  # of all of them, since the last unasked PING
        self._heard = True  # something has been read since the last tick
        self._silent = 0.0  # seconds, in ticks
        self._relayed_then = 0  # bytes_from_local when something was last heard
        self._ping_sent_at = 0.0  # monotonic; 0: none is out
        self._doubted = False
        self._ping_wait = 0.0  # seconds, in ticks, since the last PING
        self._rtt_age = 0.0
        link.on_data = self.receive
        link.on_lost = self._ended
        if self.has_windows:  # protocol 1 holds the other end back by not reading
            link.bound_silence()

    def __repr__(self) -> str:
        return f"<Tunnel {self.name} {self.state} protocol={self.frames.version} streams={len(self.streams)}>"

    @property
    def number(self) -> int:
        """By which people point at it: one of this process, given to the tunnels that come up."""
        if not self._number:
            self._number = next(_numbers)
        return self._number

    @property
    def state(self) -> str:
        """For people: closed, draining, suspect or up."""
        states = ((self.closed, "closed"), (self.draining, "draining"), (self.suspect, "suspect"))
        return next((name for holds, name in states if holds), "up")

    @property
    def over(self) -> bool:
        """Closed, what had arrived before is delivered, and what was to be sent before is out."""
        return self.closed and not self.streams and self.link.closed

    @property
    def loss(self) -> float:
        """Share of what was sent to the other end that the network lost, 0.0 to 1.0."""
        return 0.0 if self.closed else sent_again(self.link.sock)

    # opening and ending

    def start(self) -> None:
        self.link.start()

    def opened(self) -> None:
        """Both ends are who they say: streams may come and go from now on."""
        held, self._held = self._held, None
        if self.closed:
            return
        self._dispatch(held or [])
        if not self.closed:
            self.link.resume_reading()
            if self._may_ping:
                self.ping()

    def send_control(self, message: dict[str, Any]) -> None:
        assert isinstance(self.frames, frames.Frames)
        self.link.write(self.frames.control(message))

    def send_signal(self, signal: compat.Signal) -> None:
        assert isinstance(self.frames, compat.CompatFrames)
        self.link.write(compat.signal(signal))

    def drain(self) -> None:
        """Open nothing new here, close when the last stream is done. The other end is told."""
        if self.draining or self.closed:
            return
        self.draining = True
        if isinstance(self.frames, frames.Frames):
            self.send_control({"type": "drain"})
        else:
            self.send_signal(compat.Close())
        self.on_drain()
        self._close_if_drained()

    def call_over(self) -> None:
        """Server: ask the client for new tunnels, which will lead to another process. This one goes on as before,
        until it is drained."""
        if self.draining or self.closed:
            return
        if isinstance(self.frames, frames.Frames):
            self.send_control({"type": "reconnect"})
        else:
            self.link.write(compat.reconnect())

    def drained_by_peer(self) -> None:
        """The other end said it opens nothing new and wants nothing new."""
        self.peer_drains = True
        if not self.draining:
            self.draining = True
            self.on_drain()
        self._close_if_drained()

    def finish(self, reason: str) -> None:
        """Send what is queued, then close."""
        if not self.closed:
            self.link.finish()
            self._ended(reason)

    def abort(self, reason: str) -> None:
        """Close now; visitors and services in the middle of something see a reset."""
        if not self.closed:
            self.link.abort()
            self._ended(reason)

    def disconnect(self, reason: str) -> None:
        """The same because somebody wants it so: it does not count as lost."""
        if not self.closed:
            self.draining = True
            self.abort(reason)

    def broken(self, reason: str) -> None:
        """The other end broke the protocol."""
        strangers.warning("%s: protocol error, closing the tunnel: %s", self.name, reason)
        self.abort(f"protocol error: {reason}")

    def _ended(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self.count()
        for stream in list(self.streams.values()):
            stream.tunnel_ended()
        self._held = None
        self.on_closed(reason)

    def _close_if_drained(self) -> None:
        """Only the server knows that no stream is on its way: the client closes when it, too, has said `drain`."""
        if self.draining and not self.streams and not self.closed and (self.is_server or self.peer_drains):
            self.finish("drained")

    # streams

    def open(self, service: int, visitor: str, data: bytes, flags: int = 0) -> Stream:
        """Open a stream for `service` with the bytes already read from `visitor` ("203.0.113.9:51234").

        The caller gives it a sink at once. `data` is at most a window.
        """
        stream = Stream(self, self._next_id, visitor)
        self._next_id += 2
        self.streams[stream.id] = stream
        stream.send_window -= len(data)
        stream.bytes_from_local = len(data)
        self.link.write(self.frames.open(stream.id, service, visitor, data, flags))
        if self._next_id > LAST_STREAM_ID:
            self.drain()
        return stream

    def forget(self, stream: Stream) -> None:
        """A stream is over: its bytes are the tunnel's past, and its account's."""
        self.streams.pop(stream.id, None)
        from_local, to_local = stream.bytes_from_local, stream.bytes_to_local
        self._past_from_local += from_local
        self._past_to_local += to_local
        account = stream.account
        if account is not None:
            account.ended += 1
            account.bytes_in += from_local if self.is_server else to_local
            account.bytes_out += to_local if self.is_server else from_local
            if self.age == stream.began:
                stream_seconds.counts[0] += 1  # less than a tick
            else:
                stream_seconds.observe(self.age - stream.began)
        if self.draining and not self.streams:
            get_hub().loop.run_callback(self._close_if_drained)

    def take_window(self, wanted: int) -> int:
        """How much of `wanted` a stream's window may grow."""
        taken = min(wanted, self._spare_window)
        self._spare_window -= taken
        return taken

    def give_window(self, size: int) -> None:
        self._spare_window += size

    def hold(self, stream: Stream) -> None:
        """Protocol 1: `stream` has too much undelivered; stop reading until all who hold have released.

        Who holds too long is cut: the other end would take our silence for a dead tunnel, and end all of it.
        """
        self._holders[stream] = 0.0
        self.link.pause_reading()

    def release(self, stream: Stream) -> None:
        self._holders.pop(stream, None)
        if not self._holders:
            self.link.resume_reading()

    # what arrives

    def receive(self, data: memoryview) -> None:
        """Take bytes of the link; `start` makes this happen by itself."""
        self._heard = True
        try:
            events = self.frames.receive(data)
        except WireError as error:
            self.broken(str(error))
            return
        if self._held is None:
            self._dispatch(events)
        else:
            self._hold_back(events)

    def _dispatch(self, events: list[frames.Event]) -> None:
        streams = self.streams
        for kind, stream_id, value in events:
            if kind == frames.DATA:
                stream = streams.get(stream_id)
                if stream is not None:
                    stream.receive(value)
            elif kind == frames.WINDOW:
                stream = streams.get(stream_id)
                if stream is not None:
                    stream.receive_window(value)
            elif kind == frames.OPEN:
                self._opened_by_peer(stream_id, value)
            elif kind in (frames.EOF, frames.CLOSED):
                stream = streams.get(stream_id)
                if stream is not None:
                    stream.receive_eof()
            elif kind == frames.RESET:
                stream = streams.get(stream_id)
                if stream is not None and stream.sink is not None:
                    stream.sink.deliver_reset(value)
            else:
                self._receive_other(kind, value)
            if self.closed:
                return

    def _opened_by_peer(self, stream_id: int, opened: frames.Open) -> None:
        if self.on_open is None:
            self.broken("it may not open streams")
            return
        if self.has_windows:
            if stream_id % 2 == self._next_id % 2 or stream_id <= self._last_foreign_id:
                self.broken(f"stream id {stream_id} is not its to use, or used before")
                return
            self._last_foreign_id = stream_id
        elif stream_id in self.streams:
            self.broken(f"task {stream_id} exists")
            return
        stream = Stream(self, stream_id, opened.visitor)
        self.streams[stream_id] = stream
        self.on_open(stream, opened)
        if opened.data and stream.sink is not None and stream_id in self.streams:
            stream.receive(memoryview(opened.data))

    def _receive_other(self, kind: int, value: Any) -> None:
        if kind == frames.PING:
            if self.has_windows or self.is_server:
                self.link.write(self.frames.pong(value))
            else:
                self._pong_received()
        elif kind == frames.PONG:
            self._pong_received()
        else:
            self.on_control(value)

    def _hold_back(self, events: list[frames.Event]) -> None:
        """Before `opened`: control messages go through, whatever else comes waits (its bytes copied)."""
        assert self._held is not None
        for kind, stream_id, value in events:
            if self._held is None or self.closed:
                return
            if kind == frames.CONTROL and not self._held:
                self.on_control(value)
            elif self.on_open is None:
                self.broken("frames before the opening is done")
            else:
                kept = memoryview(bytes(value)) if kind == frames.DATA else value
                self._held.append((kind, stream_id, kept))
                self.link.pause_reading()

    # time

    def ping(self) -> None:
        if not self._ping_sent_at:
            self._ping_sent_at = monotonic()
            self._ping_wait = self._rtt_age = 0.0
            self.link.write(self.frames.ping(bytes(8)))

    def _pong_received(self) -> None:
        if self._ping_sent_at:
            sample = monotonic() - self._ping_sent_at
            tunnel_rtt.observe(sample)
            self.rtt = sample if not self.rtt else self.rtt + (sample - self.rtt) / 8
            self._ping_sent_at = 0.0
            self.suspect = self._doubted = False

    def doubt(self) -> None:
        """Its client has opened another, perhaps because this one is dead: don't count on it until it answers."""
        self._doubted = True
        if self._may_ping:
            self.suspect = True
            self.ping()
        elif self._silent > SUSPECT_AFTER_S:  # until something is heard
            self.suspect = True

    def is_dead(self, seconds: float) -> bool:
        """Whether it is doubted and nothing has been heard of it for so long."""
        return self._doubted and not self._heard and self._silent >= seconds

    def tick(self, period: float) -> None:
        """Called every `period` seconds. Time is counted in ticks, so that a process that was stopped for a
        while (a closed laptop, a debugger) does not take its own absence for the other end's silence."""
        for stream in list(self.streams.values()):
            if stream.sink is not None:
                stream.sink.tick()
        if self.closed:
            return
        self.count()
        self.age += period
        for stream, held in list(self._holders.items()):
            self._holders[stream] = held + period
            if held > HOLD_S:
                log.info("%s: cuts a stream that does not take its data and holds up the others", self.name)
                stream.cut(frames.LIMIT)
        if self._holders and self.is_server:
            self._held_s += period
            if self._held_s >= HELD_PING_S:  # what counts for a client is to hear something
                self._held_s = 0.0
                self.link.write(self.frames.ping(bytes(8)))
        if self._heard or self._holders:  # while we don't read, its silence says nothing
            self._heard = False
            self._silent = 0.0
            self._relayed_then = self._counted[0]
            if not self._ping_sent_at:
                self.suspect = self._doubted = False
        else:
            self._silent += period
        if self._silent > self.idle_timeout:
            self.abort(f"nothing heard for {self._silent:.0f} s")
        elif self._doubted and self.has_windows and min(self._ping_wait, self._silent) > DOUBTED_S:
            self.abort("its client has come back without it")
        elif self._held is None and self._may_ping:
            self._probe(period)

    @property
    def bytes_from_local(self) -> int:
        """Given to the other end so far."""
        return self._past_from_local + sum(each.bytes_from_local for each in self.streams.values())

    @property
    def bytes_to_local(self) -> int:
        """Received from the other end so far."""
        return self._past_to_local + sum(each.bytes_to_local for each in self.streams.values())

    @property
    def relayed(self) -> tuple[int, int]:
        """Bytes from visitors, and from services."""
        counts = self.bytes_from_local, self.bytes_to_local
        return counts if self.is_server else (counts[1], counts[0])

    def count(self) -> None:
        """Bring the process's counters up to date: once a tick costs less than once a frame."""
        counted = self.bytes_from_local, self.bytes_to_local
        from_local, to_local = counted[0] - self._counted[0], counted[1] - self._counted[1]
        self._counted = counted
        counters.bytes_in += from_local if self.is_server else to_local
        counters.bytes_out += to_local if self.is_server else from_local

    def _probe(self, period: float) -> None:
        self._rtt_age += period
        self._ping_wait += period
        waits_for_answer = self.link.queued > 0 or self._counted[0] != self._relayed_then
        if (
            self._silent > self.idle_timeout / 2
            or (waits_for_answer and self._silent > PROBE_AFTER_S)
            or (self.streams and self._rtt_age > RTT_EVERY_S)
        ):
            self.ping()
        if self._ping_sent_at and not self.suspect and min(self._ping_wait, self._silent) > SUSPECT_AFTER_S:
            self.suspect = True
            log.warning("%s: does not answer, new visitors go elsewhere", self.name)
            self.on_suspect()


def watch(tunnels: Callable[[], list[Tunnel]]) -> None:
    """Let the gauges that both ends have tell of these tunnels."""
    metrics.watch("tunnels", lambda: len(tunnels()))
    metrics.watch("streams", lambda: sum(len(tunnel.streams) for tunnel in tunnels()))
    metrics.watch("queued_bytes", lambda: sum(tunnel.link.queued for tunnel in tunnels()))
