"""What every tunnel has to do, whatever it speaks: two ends, real sockets all the way."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from gtapp.relay.link import HIGH_WATER
from gtapp.relay.stream import HOLD_BYTES, INITIAL_WINDOW, MAX_WINDOW
from gtapp.wire import frames
from tests.conformance.conftest import Way
from tests.support.relay import random_bytes, read_all, read_exactly, reset, sha, turn, until

Ways = Callable[..., Way]


def send(sock: Any, data: bytes, then_end: bool = False) -> gevent.Greenlet[..., None]:
    """Send from a greenlet, in pieces of random sizes."""

    def run() -> None:
        sizes = random.Random(len(data))
        at = 0
        while at < len(data):
            size = sizes.choice([1, 100, 1460, 16384, 70_000, 300_000])
            sock.sendall(data[at : at + size])
            at += size
        if then_end:
            sock.shutdown(socket.SHUT_WR)

    return gevent.spawn(run)


# opening


def test_open_with_the_first_bytes(way: Way) -> None:
    visitor, service = way.visit(b"GET / HTTP/1.1\r\n\r\n", service=3)
    assert read_exactly(service, 18) == b"GET / HTTP/1.1\r\n\r\n"
    opened = way.opened[0]
    assert opened.service == 3
    assert opened.visitor == ("192.0.2.1:5" if way.version == 3 else "")
    service.sendall(b"answer")
    assert read_exactly(visitor, 6) == b"answer"


@pytest.mark.parametrize("size", [0, 1, 2, 16384, 32768])
def test_first_bytes_of_every_size(way: Way, size: int) -> None:
    data = random_bytes(size)
    visitor, service = way.visit(data)
    visitor.sendall(b"!")
    assert read_exactly(service, size + 1) == data + b"!"


# data


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, INITIAL_WINDOW, INITIAL_WINDOW + 1, 3_000_001])
def test_every_byte_both_ways(way: Way, size: int) -> None:
    up, down = random_bytes(size, 1), random_bytes(size, 2)
    visitor, service = way.visit()
    send(visitor, up)
    send(service, down)
    received = gevent.spawn(read_exactly, service, size)
    assert sha(read_exactly(visitor, size)) == sha(down)
    assert sha(received.get(timeout=10)) == sha(up)


def test_every_byte_through_narrow_sockets(ways: Ways, version: int) -> None:
    """Partial writes everywhere: on the link and at both local sockets."""
    way = ways(version, link_buffer_bytes=8192, local_buffer_bytes=4096).up()
    size = 700_000
    up, down = random_bytes(size, 1), random_bytes(size, 2)
    visitor, service = way.visit()
    send(visitor, up)
    send(service, down)
    received = gevent.spawn(read_exactly, service, size)
    assert sha(read_exactly(visitor, size)) == sha(down)
    assert sha(received.get(timeout=10)) == sha(up)


def test_many_streams_at_once(way: Way) -> None:
    count, size = 40, 60_000
    pairs = [way.visit(bytes([number])) for number in range(count)]
    for number, (visitor, service) in enumerate(pairs):
        send(visitor, random_bytes(size, number))
        send(service, random_bytes(size, 1000 + number))
    readers = [gevent.spawn(read_exactly, service, size + 1) for _, service in pairs]
    for number, (visitor, _) in enumerate(pairs):
        assert sha(read_exactly(visitor, size)) == sha(random_bytes(size, 1000 + number))
    for number, reader in enumerate(readers):
        assert sha(reader.get(timeout=10)) == sha(bytes([number]) + random_bytes(size, number))
    assert way.streams() == 2 * count


def test_streams_that_come_and_go(way: Way) -> None:
    for number in range(200):
        visitor, service = way.visit(b"%d" % number)
        service.sendall(read_exactly(service, len(str(number))))
        assert read_exactly(visitor, len(str(number))) == b"%d" % number
        (visitor if number % 2 else service).close()
        (service if number % 2 else visitor).close()
    until(lambda: way.streams() == 0)
    assert way.ended == []


# the end of a stream


def test_half_close_by_the_visitor(ways: Ways) -> None:
    way = ways(3).up()
    visitor, service = way.visit(b"question")
    visitor.shutdown(socket.SHUT_WR)
    assert read_all(service) == b"question"
    send(service, bytes(2_000_000), then_end=True)
    assert len(read_all(visitor)) == 2_000_000
    until(lambda: way.streams() == 0)


def test_half_close_by_the_service(ways: Ways) -> None:
    way = ways(3).up()
    visitor, service = way.visit()
    service.shutdown(socket.SHUT_WR)
    assert read_all(visitor) == b""
    send(visitor, bytes(2_000_000), then_end=True)
    assert len(read_all(service)) == 2_000_000
    until(lambda: way.streams() == 0)


def test_half_close_by_both_at_once(ways: Ways) -> None:
    way = ways(3).up()
    visitor, service = way.visit()
    send(visitor, random_bytes(500_000, 1), then_end=True)
    send(service, random_bytes(500_000, 2), then_end=True)
    received = gevent.spawn(read_all, service)
    assert read_all(visitor) == random_bytes(500_000, 2)
    assert received.get(timeout=10) == random_bytes(500_000, 1)
    until(lambda: way.streams() == 0)


@pytest.mark.parametrize("by", ["visitor", "service"])
def test_protocol_1_closes_both_directions(ways: Ways, by: str) -> None:
    way = ways(1).up()
    visitor, service = way.visit()
    one, other = (visitor, service) if by == "visitor" else (service, visitor)
    send(one, bytes(2_000_000), then_end=True)
    assert len(read_all(other)) == 2_000_000
    assert read_all(one) == b""
    until(lambda: way.streams() == 0)


@pytest.mark.parametrize("by", ["visitor", "service"])
def test_a_response_that_ends_by_close(way: Way, by: str) -> None:
    visitor, service = way.visit()
    one, other = (visitor, service) if by == "visitor" else (service, visitor)
    data = random_bytes(1_500_000)
    send(one, data).join()
    one.close()
    assert sha(read_all(other)) == sha(data)
    other.close()
    until(lambda: way.streams() == 0)


@pytest.mark.parametrize("by", ["visitor", "service"])
def test_a_reset(way: Way, by: str) -> None:
    visitor, service = way.visit()
    one, other = (visitor, service) if by == "visitor" else (service, visitor)
    one.sendall(b"half of it")
    assert read_exactly(other, 10)
    reset(one)
    if way.version == 3:
        with pytest.raises(ConnectionResetError):
            read_all(other)
    else:
        assert read_all(other) == b""  # protocol 1 does not tell one from the other
    until(lambda: way.streams() == 0)
    assert way.ended == []


@pytest.mark.parametrize("by", ["visitor", "service"])
def test_one_leaves_while_the_other_sends(way: Way, by: str) -> None:
    visitor, service = way.visit()
    one, other = (visitor, service) if by == "visitor" else (service, visitor)
    sender = gevent.spawn(other.sendall, bytes(40_000_000))  # more than all buffers take
    until(lambda: way.server.bytes_to_local + way.client.bytes_to_local > 100_000)
    one.close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        sender.get(timeout=10)
    until(lambda: way.streams() == 0)
    assert way.ended == []
    assert read_exactly(way.visit(b"next")[1], 4) == b"next"


# back pressure


@pytest.mark.parametrize("slow", ["visitor", "service"])
def test_a_slow_reader_holds_its_sender(ways: Ways, version: int, slow: str) -> None:
    """What lies between the two has a bound, and the rest of it arrives when it is read."""
    way = ways(version, link_buffer_bytes=65536, local_buffer_bytes=16384).up()
    visitor, service = way.visit()
    reader, writer = (visitor, service) if slow == "visitor" else (service, visitor)
    data = random_bytes(8_000_000)
    sender = gevent.spawn(writer.sendall, data)
    count = 0

    def at_rest() -> bool:
        nonlocal count
        before, count = count, way.server.bytes_from_local + way.client.bytes_from_local
        gevent.sleep(0.1)
        return count == before > 0

    until(at_rest)
    window = INITIAL_WINDOW if version == 3 else HOLD_BYTES + 256 * 1024
    assert count <= window + HIGH_WATER + 3 * 65536 + 500_000, "what the kernel's buffers take"
    for tunnel in (way.server, way.client):
        assert tunnel.link.queued <= HIGH_WATER + 2 * 65536
        assert all(stream.undelivered <= window for stream in tunnel.streams.values())
    assert sha(read_exactly(reader, len(data))) == sha(data)
    sender.get(timeout=10)


def test_a_slow_reader_does_not_hold_the_others(ways: Ways) -> None:
    way = ways(3, local_buffer_bytes=16384).up()
    slow, its_service = way.visit()
    stuck = gevent.spawn(its_service.sendall, bytes(8_000_000))
    until(lambda: way.server.bytes_to_local >= INITIAL_WINDOW)
    visitor, service = way.visit()
    send(service, random_bytes(3_000_000))
    assert read_exactly(visitor, 3_000_000) == random_bytes(3_000_000)
    assert not stuck.ready()
    slow.close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        stuck.get(timeout=10)


def test_streams_share_a_link_that_is_full(ways: Ways, version: int) -> None:
    """Whoever waited for room gets his turn: nobody starves."""
    way = ways(version, link_buffer_bytes=8192).up()
    pairs = [way.visit() for _ in range(8)]
    for number, (_, service) in enumerate(pairs):
        send(service, random_bytes(400_000, number))
    readers = [gevent.spawn(read_exactly, visitor, 400_000) for visitor, _ in pairs]
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, way.client.link.queued)
        return all(reader.ready() for reader in readers)

    until(done, seconds=20)
    assert most <= HIGH_WATER + 9 * 65536
    for number, reader in enumerate(readers):
        assert reader.get() == random_bytes(400_000, number)


def test_a_window_grows_for_a_quick_reader_on_a_long_way(ways: Ways) -> None:
    way = ways(3).up()
    visitor, service = way.visit()
    way.server.rtt = 10.0  # as over a far country: every grant comes within a round trip
    size = 6 * MAX_WINDOW
    sender = gevent.spawn(service.sendall, bytes(size))
    stream = next(iter(way.server.streams.values()))
    assert len(read_exactly(visitor, size)) == size
    sender.get(timeout=10)
    assert stream._window == MAX_WINDOW
    assert way.client.streams[stream.id].send_window <= MAX_WINDOW
    assert way.ended == []


# the end of a tunnel


@pytest.mark.parametrize("cut", ["server", "client"])
def test_a_tunnel_cut_in_the_middle(way: Way, cut: str) -> None:
    """Never a clean end of what was not complete."""
    visitor, service = way.visit()
    service.sendall(b"half of it")
    assert read_exactly(visitor, 10)
    getattr(way, cut).abort("cut")
    with pytest.raises(ConnectionResetError):
        read_all(visitor)
    with pytest.raises(ConnectionResetError):
        read_all(service)
    until(lambda: len(way.ended) == 2)
    assert way.streams() == 0


def test_a_tunnel_cut_when_all_had_arrived(ways: Ways) -> None:
    way = ways(3, local_buffer_bytes=8192).up()
    visitor, service = way.visit()
    data = random_bytes(INITIAL_WINDOW - 1000)
    send(service, data, then_end=True)
    stream = next(iter(way.server.streams.values()))
    until(lambda: stream.eof_received)
    assert stream.undelivered > 0
    way.client.abort("cut")
    until(lambda: way.server.closed)
    assert read_all(visitor) == data
    until(lambda: way.server.over)


def test_a_tunnel_cut_under_many_busy_streams(ways: Ways, version: int) -> None:
    way = ways(version, link_buffer_bytes=16384, local_buffer_bytes=16384).up()
    pairs = [way.visit() for _ in range(30)]
    senders = [gevent.spawn(sock.sendall, bytes(2_000_000)) for pair in pairs for sock in pair]
    until(lambda: way.client.bytes_from_local > 1_000_000)
    way.server.link.sock.shutdown(socket.SHUT_RDWR)  # the network, not one of the ends
    until(lambda: len(way.ended) == 2 and way.streams() == 0)
    for sender in senders:
        sender.join(timeout=10)
        assert sender.exception is not None
    assert all(pump.sock.fileno() < 0 for pump in (*way.visitor_pumps, *way.service_pumps))


@pytest.mark.parametrize("by", ["server", "client"])
def test_drain_lets_what_runs_run(way: Way, by: str) -> None:
    visitor, service = way.visit(b"question")
    tunnel = getattr(way, by)
    tunnel.drain()
    until(lambda: way.server.draining)
    data = random_bytes(1_000_000)
    sender = send(service, data)
    assert read_exactly(visitor, len(data)) == data
    sender.join()
    turn(5)
    assert way.ended == []
    service.close()
    visitor.close()
    until(lambda: len(way.ended) == 2)
    way.clock().wait(5)
    assert way.server.over
    assert way.client.over


@pytest.mark.parametrize("by", ["server", "client"])
def test_an_idle_tunnel_that_is_drained_ends_at_once(way: Way, by: str) -> None:
    getattr(way, by).drain()
    until(lambda: len(way.ended) == 2)
    until(lambda: way.server.over and way.client.over)


def test_drain_with_the_last_bytes_still_on_their_way(ways: Ways, version: int) -> None:
    """The last stream is over at the client when its bytes are queued; they have to get through."""
    way = ways(version, link_buffer_bytes=8192).up()
    visitor, service = way.visit()
    if version == 3:
        visitor.shutdown(socket.SHUT_WR)
        assert read_all(service) == b""
    way.server.drain()
    until(lambda: way.client.draining)
    data = random_bytes(900_000)
    send(service, data).join()
    service.close()
    assert sha(read_all(visitor)) == sha(data)


def test_streams_opened_until_the_very_drain(way: Way) -> None:
    """The client is told to open nothing new, not to forget what came before."""
    pairs = [way.visit(b"x") for _ in range(5)]
    way.server.drain()
    for visitor, service in pairs:
        service.sendall(read_exactly(service, 1))
        assert read_exactly(visitor, 1) == b"x"


# who is there


def test_the_round_trip_is_measured(way: Way) -> None:
    assert 0 < way.client.rtt < 1
    assert way.server.rtt < 1
    way.client.ping()
    until(lambda: not way.client._ping_sent_at)


def test_ticks_of_a_quiet_tunnel_that_is_answered(way: Way) -> None:
    for _ in range(60):
        for _ in range(4):
            way.server.tick(1.0)
            way.client.tick(1.0)
        turn(2)
    until(lambda: not way.client._ping_sent_at)
    assert way.ended == []


def test_an_unknown_kind_of_control_message_is_ignored(ways: Ways) -> None:
    way = ways(3).up()
    seen: list[Any] = []
    way.client.on_control = seen.append
    way.server.send_control({"type": "of a later version", "more": [1, 2, 3]})
    until(lambda: seen)
    assert way.ended == []
    assert read_exactly(way.visit(b"fine")[1], 4) == b"fine"


@pytest.mark.parametrize("end", ["server", "client"])
def test_garbage_ends_the_tunnel_and_nothing_else(way: Way, end: str) -> None:
    visitor, _ = way.visit()
    getattr(way, end).link.write(b"\x00\x00\x00\x02\xff\xff\xff\xff" * 3)
    until(lambda: len(way.ended) == 2)
    with pytest.raises(ConnectionResetError):
        read_all(visitor)


def test_data_for_a_stream_that_never_was(way: Way) -> None:
    for tunnel in (way.server, way.client):
        header = bytearray(tunnel.frames.data_header_bytes)
        tunnel.frames.write_data_header(header, 4242, 3)
        tunnel.link.write(bytes(header) + b"abc")
        tunnel.link.write(tunnel.frames.eof(4242) + tunnel.frames.reset(4242, frames.CANCELLED))
    assert read_exactly(way.visit(b"fine")[1], 4) == b"fine"
    assert way.ended == []
