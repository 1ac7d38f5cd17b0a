"""Every kind of value: what it reads, what it refuses, and that what it shows reads back."""

import ipaddress

import pytest

from gtapp.config import values
from gtapp.config.values import URL, Address, PortRange

REMOTE = values.url({"tcp": 80, "tls": 443}, default="tcp")
LOCAL = values.url({"http": 80, "tcp": None})
VERIFIER = f"SCRAM-SHA-256$65536:MDEyMzQ1Njc4OWFiY2RlZg==${'A' * 43}=:{'b' * 43}="
BASIC_AUTH = f"me:$argon2id$v=19$m=65536,t=3,p=4${'a' * 22}${'b' * 43}"

VALID = [
    (values.ADDRESS, "80", Address("", 80), ":80"),
    (values.ADDRESS, ":80", Address("", 80), ":80"),
    (values.ADDRESS, "0.0.0.0:80", Address("0.0.0.0", 80), "0.0.0.0:80"),
    (values.ADDRESS, "[::]:80", Address("::", 80), "[::]:80"),
    (values.ADDRESS, "[2001:DB8:0::1]:443", Address("2001:db8::1", 443), "[2001:db8::1]:443"),
    (values.ADDRESS, "localhost:0", Address("localhost", 0), "localhost:0"),
    (REMOTE, "example.com", URL("tcp", "example.com", 80), "tcp://example.com:80"),
    (REMOTE, "127.0.0.1:8080", URL("tcp", "127.0.0.1", 8080), "tcp://127.0.0.1:8080"),
    (REMOTE, "TLS://a_b.example.com", URL("tls", "a_b.example.com", 443), "tls://a_b.example.com:443"),
    (REMOTE, "[::1]", URL("tcp", "::1", 80), "tcp://[::1]:80"),
    (REMOTE, "tls://[::1]:8443/", URL("tls", "::1", 8443), "tls://[::1]:8443"),
    (LOCAL, "tcp://host:22", URL("tcp", "host", 22), "tcp://host:22"),
    (values.DURATION, "30s", 30.0, "30s"),
    (values.DURATION, "5m", 300.0, "5m"),
    (values.DURATION, "1m500ms", 60.5, "1m500ms"),
    (values.DURATION, "1234m1234ms", 74041.234, "20h34m1s234ms"),
    (values.DURATION, "1.5h", 5400.0, "1h30m"),
    (values.DURATION, "1h0m0s", 3600.0, "1h"),
    (values.DURATION, "100ms", 0.1, "100ms"),
    (values.DURATION, "720h", 2592000.0, "720h"),
    (values.SIZE, "0", 0, 0),
    (values.SIZE, "1000", 1000, 1000),
    (values.SIZE, "536870912", 536870912, "512MiB"),
    (values.SIZE, "2GiB", 2 * 1024**3, "2048MiB"),
    (values.SIZE, "3KiB", 3072, 3072),
    (values.BOOLEAN, "true", True, True),
    (values.BOOLEAN, "OFF", False, False),
    (values.BOOLEAN, "1", True, True),
    (values.BOOLEAN, "T", True, True),
    (values.BOOLEAN, "n", False, False),
    (values.integer(1, 10), "10", 10, 10),
    (values.integer(1, 10), "007", 7, 7),
    (values.choice("info", "warn"), "WARN", "warn", "warn"),
    (values.FRACTION, "0.25", 0.25, 0.25),
    (values.FRACTION, "1", 1.0, 1.0),
    (values.PORT_RANGE, "1024-65535", PortRange(1024, 65535), "1024-65535"),
    (values.PORT_RANGE, "22", PortRange(22, 22), "22-22"),
    (values.PORT_RANGE, "0", PortRange(1, 65535), "1-65535"),
    (values.PORT_RANGE, "0-80", PortRange(1, 80), "1-80"),
    (values.WEB_URL, "", "", ""),
    (values.WEB_URL, "HTTP://[::1]:8080", "HTTP://[::1]:8080", "HTTP://[::1]:8080"),
    (values.WEB_URL, *["https://u:p@example.com/api/auth?a=b,c&d=%20#e"] * 3),
    (values.BASIC_AUTH, BASIC_AUTH, BASIC_AUTH, BASIC_AUTH),
    (values.BASIC_AUTH, "", "", ""),
    (values.NETWORK, "10.0.0.0/8", ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
    (values.NETWORK, "::1", ipaddress.ip_network("::1/128"), "::1/128"),
    (values.DOMAIN, "Example.COM.", "example.com", "example.com"),
    (values.DOMAIN, "localhost", "localhost", "localhost"),
    (values.DOMAIN, "", "", ""),
    (values.HOST_PREFIX, "Blog-1", "blog-1", "blog-1"),
    (values.HOST_PREFIX, "1", "1", "1"),
    (values.HEADER_NAME, "X-Host", "X-Host", "X-Host"),
    (values.REGEX, "^[0-9]+$", "^[0-9]+$", "^[0-9]+$"),
    (values.CREDENTIAL, "é" * 100, "é" * 100, "é" * 100),
    (values.TEXT, "", "", ""),
    (values.PROTOCOL, "3", 3, 3),
    (values.WORKERS, "auto", 0, "auto"),
    (values.WORKERS, "4", 4, 4),
    (values.VERIFIER, VERIFIER, VERIFIER, VERIFIER),
]

INVALID = [
    (
        values.ADDRESS,
        ["65536", "-1", "http", "a:", "a:b", "::1:80", "[::1]", "[::1:80", "1.2.3:80", " 80", "٣"],
    ),
    (values.ADDRESS, ["a b:80", "[::g]:80", "http://a:80", "1.2.3.4.5:80", "-a:80", ":", "[]:80", "a\n:80"]),
    (
        REMOTE,
        ["", "tcp://", "quic://a", "tcp://a:0", "tcp://a:65536", "tcp://a/b", "tcp://u@a", "://a", "a:"],
    ),
    (REMOTE, ["tcp://::1", "tcp://a?x", "tcp://a#x", "tcp:///", "tcp://a//", "tcp://[::1]x", "tcp:// a"]),
    (LOCAL, ["127.0.0.1:80", "tcp://127.0.0.1", "udp://a:1", "http://a/b"]),
    (
        values.DURATION,
        ["", "30", "s", "-5s", "5 s", "1s1", "5sec", "99ms", "721h", "1e3s", "1.s", "0s", "٣s", "1d"],
    ),
    (values.DURATION, ["9" * 12 + "h", "9" * 13 + "ms", "5s\n", "infs", "nans"]),
    (values.SIZE, ["", "-1", "1.5MiB", "1MB", "1 MiB", "9" * 16, "0x10", "1_000"]),
    (values.BOOLEAN, ["", "maybe", "2", "tr", "true "]),
    (values.integer(1, 10), ["", "0", "11", "1.0", "+1", "1_0", "0x1", "9" * 5000, "٣", "ten"]),
    (values.choice("info", "warn"), ["", "warning", "info "]),
    (values.FRACTION, ["", "1.1", "-0.1", "0.12345", "nan", "1e-3", "1.", "2"]),
    (
        values.PORT_RANGE,
        ["", "0-0", "1-0", "-1", "1-65537", "65536", "2-1", "1-65536", "1-2-3", "-", "1-", "a-b"],
    ),
    (
        values.WEB_URL,
        ["example.com", "//example.com", "ftp://a", "http://", "http://:80", "http:a", "/a", "http:"],
    ),
    (
        values.WEB_URL,
        ["http://a:0", "http://a:65536", "http://a:b", "http://[::1", "http://a b", "http://a\n"],
    ),
    (
        values.BASIC_AUTH,
        [
            "me:s3cret",
            "me",
            BASIC_AUTH.removeprefix("me"),
            BASIC_AUTH.removeprefix("me:"),
            "x" * 201 + BASIC_AUTH,
            "a:" + BASIC_AUTH,
            "\x00" + BASIC_AUTH,
            BASIC_AUTH + "\n",
            BASIC_AUTH + "$",
            BASIC_AUTH + "=",
            BASIC_AUTH.rpartition("$")[0],
            BASIC_AUTH.replace("argon2id", "argon2i"),
            BASIC_AUTH.replace("v=19", "v=16"),
            BASIC_AUTH.replace("m=65536", "m=0"),
            BASIC_AUTH.replace("m=65536", "m=1000000"),
            BASIC_AUTH.replace("t=3", "t=0"),
            BASIC_AUTH.replace("p=4", "p="),
            BASIC_AUTH.replace("aaaaaaaaaaaaaaaaaaaaaa$", "aa$"),
        ],
    ),
    (values.NETWORK, ["", "10.0.0.1/8", "example.com", "10.0.0.0/33"]),
    (
        values.DOMAIN,
        ["192.0.2.1", "*.example.com", "a..b", ".", "-a.de", "a/b", "http://a", "ü.de", "a" * 64, "a." * 100],
    ),
    (values.HOST_PREFIX, ["", "a.b", "-a", "a-", "a b", "é", "a" * 64, "a\n", "*"]),
    (values.HEADER_NAME, ["", "Host:", "a b", "é", "X\r\nY", "a" * 101]),
    (values.REGEX, ["(", "[", "a{99999999999999999999}", "(" * 500 + ")" * 500, "a\x00"]),
    (values.CREDENTIAL, ["", "é" * 101, "a\x00b", "a\nb", "\udcff", "\x7f", "\x85"]),
    (values.TEXT, ["\x00", "a\tb", "\udc80"]),
    (values.PROTOCOL, ["", "2", "auto", "03"]),
    (values.WORKERS, ["0", "257", "", "AUTO "]),
    (
        values.VERIFIER,
        ["", "secret", "SCRAM-SHA-1$65536:MDEyMzQ1Njc4OWFiY2RlZg==$a:b", "SCRAM-SHA-256$1:a$b:c"],
    ),
    (
        values.VERIFIER,
        [
            VERIFIER.replace("65536", "4095"),
            VERIFIER.replace("65536", "1000001"),
            VERIFIER.replace("==$", "=$"),
            VERIFIER + "=",
        ],
    ),
]


@pytest.mark.parametrize(("kind", "text", "value", "shown"), VALID)
def test_a_value_is_read_and_shown(kind, text, value, shown):
    assert kind.parse(text) == value
    assert kind.show(value) == shown
    assert kind.parse(str(shown)) == value


def test_an_empty_address_is_none():
    assert values.ADDRESS.parse("") is None


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in INVALID for text in texts])
def test_a_wrong_value_is_a_value_error_and_nothing_else(kind, text):
    with pytest.raises(ValueError):  # noqa: PT011  (it has no text: whoever parses says what was allowed)
        kind.parse(text)


def test_choices_and_ranges_say_what_is_allowed():
    assert values.choice("text", "json").allowed == "text or json"
    assert values.choice("a", "b", "c").allowed == "a, b or c"
    assert values.integer(1, 10).allowed == "a whole number from 1 to 10"
    assert values.DURATION.allowed == "a duration such as 30s, 5m or 1m500ms, from 100ms to 720h"
    assert REMOTE.allowed == "one of tcp://host:port, tls://host:port, without a path"


@pytest.mark.parametrize("text", ["a", "A-1", "a" * 63, "_x", "0"])
def test_host_prefixes(text):
    assert values.is_host_prefix(text)


@pytest.mark.parametrize("text", ["", "a.b", "-", "a" * 64, "a\n", "ü"])
def test_no_host_prefixes(text):
    assert not values.is_host_prefix(text)


@pytest.mark.parametrize(
    ("peer", "who"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9:51234", "203.0.113.9"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:3:4:5:6]:51234", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("[fe80::1%eth0]:1", "fe80::/64"),
        ("", ""),
        ("[x:y]:1", "[x:y]:1"),
        ("nonsense", "nonsense"),
    ],
)
def test_who_counts_as_one(peer, who):
    assert values.network_of(peer) == who
