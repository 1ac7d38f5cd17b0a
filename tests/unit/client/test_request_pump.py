"""Which pump a service gets; what it does is in test_request_socket and test_request_rules."""

from __future__ import annotations

from gtapp.client.request_pump import factory
from gtapp.client.request_socket import RequestSocket
from gtapp.config.load import Service
from gtapp.config.values import URL
from gtapp.relay.pump import Idle
from gtapp.wire import frames
from tests.support.relay import Made, read_exactly, tcp_pair

SERVICE = Service(local=URL("http", "127.0.0.1", 80), forwarded_for=True)


def test_a_pump_reads_along_from_the_first_byte(make_tunnel) -> None:
    made: Made = make_tunnel().up()
    stream = made.tunnel.open(0, "", b"")
    sock, service = tcp_pair()
    idle = Idle(5)
    pump = factory(SERVICE)(stream, idle, "[2001:db8::1]:5", frames.OVER_TLS)
    assert pump.idle is idle
    assert stream.sink is pump
    first = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    stream.undelivered = len(first)
    pump.attach(sock, [first[:9], first[9:]])
    assert isinstance(pump.sock, RequestSocket)
    expected = (
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: https\r\n"
        b'X-Forwarded-Host: a\r\nForwarded: for="[2001:db8::1]";proto=https;host=a\r\n\r\n'
    )
    assert read_exactly(service, len(expected)) == expected
    assert stream.undelivered == 0
    stream.reset()
    pump._close(reset=False)
    service.close()
