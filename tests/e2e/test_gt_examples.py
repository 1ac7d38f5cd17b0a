"""The examples of the original GT's README, from its very command lines and YAML files: only ports, host names and
paths are ours. Written as `-flag value`, as its users have them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import make_pair
from tests.support.http import Response, Visitor, fetch
from tests.support.ports import Port
from tests.support.processes import Relay, eventually
from tests.support.services import Connection, Handler, answering, echoing
from tests.support.tls import over_tls, speaking_tls, trusting
from tests.support.world import World

BOTH = pytest.mark.parametrize("protocol", ["3", "1"])
UP = r"tunnel \d+ to .* is up"
REACHED = r"is reached at tcp://127\.0\.0\.1:(\d+)"


class GT:
    """Runs command lines of the README; words of theirs that have a place here are replaced by ours."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.places: dict[str, str] = {}
        self.addr = self.port("8080")
        self.places["tcp://id1.example.com:8080"] = f"tcp://{self.addr}"

    def port(self, word: str) -> Port:
        """A port in place of this word."""
        port = self.world.port()
        self.places[word] = str(port)
        return port

    def service(self, word: str, handler: Handler) -> None:
        """A service in place of this URL."""
        scheme = word.partition(":")[0]
        self.places[word] = self.world.service(handler).url.replace("http", scheme, 1)

    def certificate(self) -> Path:
        """A certificate in place of the README's; the file of it."""
        files = make_pair(["*.example.com"]).write(self.world.directory)
        self.places["/root/openssl_crt/tls.crt"] = str(files.cert)
        self.places["/root/openssl_crt/tls.key"] = str(files.key)
        return files.cert

    def words(self, line: str) -> list[str]:
        return [self.places.get(word, word) for word in shlex.split(line)]

    def server(self, line: str) -> Relay:
        for secret in ("secret1", "secret2", "secret3", "secret1-overwrite"):
            self.world.hidden(secret)
        relay = self.world.gt("server", ["server", *self.words(line)])
        relay.wait_for("runs as process")
        return relay

    def client(self, line: str, protocol: str = "", ready: bool = True) -> Relay:
        more = ["--protocol", protocol] if protocol else []
        relay = self.world.gt("client", ["client", *more, *self.words(line)])
        if ready:
            relay.wait_for(UP)
        return relay

    def secure(self, port: Port, host: str, trusted: Path) -> Visitor:
        """A visitor over TLS who accepts the certificate `trusted` for this host, and no other."""
        visitor = self.world.visitor(port.address)
        over_tls(visitor, trusting(trusted), host)
        return visitor

    def visit(self, host: str, path: str = "/") -> Response:
        return fetch(self.addr.address, host, path)


@pytest.fixture
def gt(world: World) -> GT:
    return GT(world)


def telling_host(connection: Connection) -> None:
    """Answers with the Host that the request has."""
    while head := connection.head():
        host = next(line[5:].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"host:"))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(host), host))


def echoed(port: int) -> bool:
    with Visitor(("127.0.0.1", port)) as visitor:
        visitor.send(b"hello")
        return visitor.exactly(5) == b"hello"


@BOTH
def test_internal_http_penetration(gt: GT, protocol: str) -> None:
    gt.service("http://127.0.0.1:80", answering(b"the page"))
    gt.server("-addr 8080 -id id1 -secret secret1")
    gt.client(
        "-local http://127.0.0.1:80 -remote tcp://id1.example.com:8080 -id id1 -secret secret1", protocol
    )
    assert gt.visit("id1.example.com:8080").body == b"the page"
    assert gt.visit("id2.example.com:8080").status == 404


@BOTH
def test_internal_https_penetration(gt: GT, protocol: str) -> None:
    gt.service("http://127.0.0.1", answering(b"the page"))
    trusted, https = gt.certificate(), gt.port("443")
    gt.places["tls://id1.example.com"] = f"tls://{https}"
    gt.server(
        '-addr "" -tlsAddr 443 -certFile /root/openssl_crt/tls.crt -keyFile /root/openssl_crt/tls.key'
        " -id id1 -secret secret1"
    )
    gt.client(
        "-local http://127.0.0.1 -remote tls://id1.example.com -remoteCertInsecure -id id1 -secret secret1",
        protocol,
    )
    visitor = gt.secure(https, "id1.example.com", trusted)
    for _ in range(3):
        visitor.request("id1.example.com")
        assert visitor.response().body == b"the page"


@BOTH
def test_internal_https_sni_penetration(gt: GT, protocol: str) -> None:
    """The certificate that the visitor sees is the service's: GT has none."""
    theirs = make_pair(["id1.example.com"]).write(gt.world.directory, "service")
    gt.service("https://127.0.0.1", speaking_tls(answering(b"the secret page"), theirs))
    sni = gt.port("443")
    gt.server("-addr 8080 -sniAddr 443 -id id1 -secret secret1")
    gt.client("-local https://127.0.0.1 -remote tcp://id1.example.com:8080 -id id1 -secret secret1", protocol)
    visitor = gt.secure(sni, "id1.example.com", theirs.cert)
    visitor.request("id1.example.com")
    assert visitor.response().body == b"the secret page"


@BOTH
def test_encrypt_client_server_communication_with_tls(gt: GT, protocol: str) -> None:
    gt.service("http://127.0.0.1:80", answering(b"the page"))
    gt.certificate()
    gt.places["tls://id1.example.com"] = f"tls://{gt.port('443')}"
    gt.server(
        "-addr 8080 -tlsAddr 443 -certFile /root/openssl_crt/tls.crt -keyFile /root/openssl_crt/tls.key"
        " -id id1 -secret secret1"
    )
    gt.client(
        "-local http://127.0.0.1:80 -remote tls://id1.example.com -remoteCertInsecure -id id1 -secret secret1",
        protocol,
    )
    assert gt.visit("id1.example.com:8080").body == b"the page"


@BOTH
@pytest.mark.parametrize("taken", [False, True], ids=["free", "taken"])
def test_internal_tcp_penetration(gt: GT, protocol: str, taken: bool) -> None:
    gt.service("tcp://127.0.0.1:22", echoing)
    wanted = gt.world.port()
    gt.places["2222"] = str(wanted.number)
    if taken:
        gt.world.keep(wanted.listen(), until_last=True)
    gt.server("-addr 8080 -id id1 -secret secret1 -tcpNumber 1 -tcpRange 1024-65535")
    client = gt.client(
        "-local tcp://127.0.0.1:22 -remote tcp://id1.example.com:8080 -id id1 -secret secret1"
        " -remoteTCPPort 2222 -remoteTCPRandom",
        protocol,
    )
    port = int(client.wait_for(REACHED)[1])
    assert (port == wanted.number) == (not taken)
    assert echoed(port)


SERVICES_YAML: dict[str, Any] = {
    "services": [
        {"local": "http://127.0.0.1:80", "useLocalAsHTTPHost": True, "hostPrefix": 1},
        {"local": "http://127.0.0.1:8080", "useLocalAsHTTPHost": True, "hostPrefix": 2},
        {"local": "tcp://127.0.0.1:2222", "remoteTCPPort": "2222"},
        {"local": "tcp://127.0.0.1:2223", "remoteTCPPort": "2223"},
    ],
    "options": {"remote": "tcp://id1.example.com:8080", "id": "id1", "secret": "secret1"},
}


@BOTH
@pytest.mark.parametrize("source", ["flags", "yaml"])
def test_client_start_multiple_services_simultaneously(gt: GT, protocol: str, source: str) -> None:
    gt.service("http://127.0.0.1:80", telling_host)
    gt.service("http://127.0.0.1:8080", telling_host)
    for word in ("2222", "2223"):
        gt.service(f"tcp://127.0.0.1:{word}", echoing)
        gt.places[word] = str(gt.world.port().number)
    gt.server(
        "-addr 8080 -id id1 -secret secret1 -tcpNumber 2 -tcpRange 1024-65535 -hostNumber 2 -hostWithID"
        " -hostRegex ^[0-9]+$ -hostRegex ^[a-zA-Z]+$"
    )
    if source == "flags":
        gt.client(
            """-remote tcp://id1.example.com:8080 -id id1 -secret secret1 \
            -local http://127.0.0.1:80 -useLocalAsHTTPHost -hostPrefix 1 \
            -local http://127.0.0.1:8080 -useLocalAsHTTPHost -hostPrefix 2 \
            -local tcp://127.0.0.1:2222 -remoteTCPPort 2222 \
            -local tcp://127.0.0.1:2223 -remoteTCPPort 2223""",
            protocol,
        )
    else:
        gt.client(f"-config {gt.world.write('client.yaml', ours(SERVICES_YAML, gt.places))}", protocol)
    for number, url in ((1, "http://127.0.0.1:80"), (2, "http://127.0.0.1:8080")):
        response = gt.visit(f"id1-{number}.example.com:8080")
        assert response.text == gt.places[url].removeprefix("http://")
    assert echoed(int(gt.places["2222"]))
    assert echoed(int(gt.places["2223"]))
    assert gt.visit("1.example.com").status == 404


def ours(value: Any, places: dict[str, str]) -> Any:
    """A YAML value with our places; what is a number there stays one."""
    if isinstance(value, dict):
        return {key: ours(each, places) for key, each in value.items()}
    if isinstance(value, list):
        return [ours(each, places) for each in value]
    found = places.get(value, value) if isinstance(value, str) else value
    return int(found) if isinstance(found, str) and found.isdigit() else found


# Users


def let_in(gt: GT, id: str, secret: str, protocol: str) -> bool:
    """Whether a client with these credentials gets a tunnel; it ends when that is known."""
    gt.world.hidden(secret)
    line = f"-local http://127.0.0.1:80 -remote tcp://id1.example.com:8080 -id {id} -secret {secret}"
    client = gt.client(line, protocol, ready=False)
    found = client.wait_for(rf"{UP}|unknown id or wrong secret|invalid id or secret")[0]
    client.end()
    return "is up" in found


@BOTH
@pytest.mark.parametrize(
    "line",
    [
        "-addr 8080 -id id1 -secret secret1 -id id2 -secret secret2",
        "-addr 8080 -id id1 -id id2 -secret secret1 -secret secret2",
    ],
    ids=["pairs", "lists"],
)
def test_configure_users_via_command_line(gt: GT, protocol: str, line: str) -> None:
    gt.service("http://127.0.0.1:80", answering(b"the page"))
    gt.server(line)
    assert let_in(gt, "id1", "secret1", protocol)
    assert let_in(gt, "id2", "secret2", protocol)
    assert not let_in(gt, "id1", "secret2", protocol)


USERS_YAML = """
id3:
  secret: secret3
id1:
  secret: secret1-overwrite
"""
CONFIG_YAML = """
version: 1.0
users:
  id1:
    secret: secret1
  id2:
    secret: secret2
options:
  apiAddr: {api}
  certFile: {cert}
  keyFile: {key}
  logFile: {log}
  logFileMaxCount: 1234
  logFileMaxSize: 1234567
  logLevel: debug
  addr: {addr}
  timeout: 1234m1234ms
  tlsAddr: {tls}
  tlsVersion: tls1.3
  users: {users}
"""


def config(gt: GT, users: str = USERS_YAML) -> Path:
    """The README's configuration file, with its users file beside it."""
    files = make_pair(["id1.example.com"]).write(gt.world.directory)
    text = CONFIG_YAML.format(
        api=gt.port("8081"),
        cert=files.cert,
        key=files.key,
        log=gt.world.directory / "server.log",
        addr=gt.addr,
        tls=gt.port("443"),
        users=gt.world.write("users.yaml", users),
    )
    return gt.world.write("server.yaml", text)


def with_config(gt: GT, words: str) -> Path:
    """Starts a server whose log goes to a file, and waits until it is ready."""
    for secret in ("secret1", "secret2", "secret3", "secret1-overwrite"):
        gt.world.hidden(secret)
    path = gt.world.directory / "server.log"
    server = gt.world.gt("server", ["server", *gt.words(words)])
    eventually(lambda: server.running and "runs as process" in path.read_text(), "the server is ready")
    return path


@BOTH
def test_configure_users_via_users_configuration_file(gt: GT, protocol: str) -> None:
    gt.service("http://127.0.0.1:80", answering(b"the page"))
    gt.server(f"-addr 8080 -users {gt.world.write('users.yaml', USERS_YAML)}")
    assert let_in(gt, "id3", "secret3", protocol)
    assert let_in(gt, "id1", "secret1-overwrite", protocol)
    assert not let_in(gt, "id1", "secret1", protocol)


@BOTH
def test_configure_users_via_config_configuration_file(gt: GT, protocol: str) -> None:
    """And with the users file that it names: that one has the last word about id1."""
    gt.service("http://127.0.0.1:80", answering(b"the page"))
    log = with_config(gt, f"-config {config(gt)}")
    assert let_in(gt, "id2", "secret2", protocol)
    assert let_in(gt, "id3", "secret3", protocol)
    assert let_in(gt, "id1", "secret1-overwrite", protocol)
    assert not let_in(gt, "id1", "secret1", protocol)
    text = log.read_text()
    assert "secret" not in text.replace("wrong secret", "")


def test_the_command_line_goes_before_the_users_file_and_that_before_the_config(gt: GT) -> None:
    gt.service("http://127.0.0.1:80", answering(b"the page"))
    with_config(gt, f"-config {config(gt)} -id id3 -secret secret3-from-the-command-line")
    assert let_in(gt, "id3", "secret3-from-the-command-line", "3")
    assert not let_in(gt, "id3", "secret3", "3")
    assert let_in(gt, "id1", "secret1-overwrite", "3")
    assert let_in(gt, "id2", "secret2", "3")


@BOTH
def test_allow_all_clients(gt: GT, protocol: str) -> None:
    """The first secret counts, as long as that id has a tunnel."""
    gt.service("http://127.0.0.1:80", answering(b"the page"))
    gt.server("-addr 8080 -allowAnyClient")
    first = gt.client(
        "-local http://127.0.0.1:80 -remote tcp://id1.example.com:8080 -id anybody -secret first-secret",
        protocol,
    )
    assert gt.visit("anybody.example.com").body == b"the page"
    assert not let_in(gt, "anybody", "other-secret", protocol)
    assert let_in(gt, "anybody", "first-secret", protocol)
    assert let_in(gt, "somebody", "other-secret", protocol)
    first.end()


# TCP for users


TCP_USERS_YAML = """
id1:
  secret: secret1
  tcp:
    - range: 1-65535
id2:
  secret: secret2
"""


def opened(gt: GT, protocol: str, id: str, secret: str, *ports: Port, random: bool = False) -> str:
    """What becomes of a client that wants these ports: the last words of its log that tell."""
    services = "".join(
        f" -local tcp://127.0.0.1:22 -remoteTCPPort {port.number} {'-remoteTCPRandom' if random else ''}"
        for port in ports
    )
    line = f"-remote tcp://id1.example.com:8080 -id {id} -secret {secret}{services}"
    client = gt.client(line, protocol, ready=False)
    found = client.wait_for(rf"{UP}|no tunnel: .*")[0]
    if "is up" in found:
        for port in ports:
            assert echoed(port.number)
    client.end()
    return found


@BOTH
def test_configure_tcp_via_users_configuration_file(gt: GT, protocol: str) -> None:
    gt.service("tcp://127.0.0.1:22", echoing)
    one, other = gt.world.port(), gt.world.port()
    gt.server(f"-addr 8080 -users {gt.world.write('users.yaml', TCP_USERS_YAML)}")
    assert "is up" in opened(gt, protocol, "id1", "secret1", one, other)
    assert "no tunnel" in opened(gt, protocol, "id2", "secret2", one)


TCP_CONFIG_YAML = """
version: 1.0
users:
  id1:
    secret: secret1
    tcp:
      - range: {one}-{one}
      - range: {two}-{two}
    tcpNumber: 0
  id2:
    secret: secret2
tcp:
  - range: {three}-{three}
  - range: {four}-{four}
options:
  addr: {addr}
  tcpNumber: 1
"""


@BOTH
def test_configure_tcp_via_config_configuration_file(gt: GT, protocol: str) -> None:
    """id1 has a range and a number of its own, id2 what holds for everybody."""
    gt.service("tcp://127.0.0.1:22", echoing)
    one, two, three, four = (gt.world.port() for _ in range(4))
    numbers = {"one": one.number, "two": two.number, "three": three.number, "four": four.number}
    text = TCP_CONFIG_YAML.format(addr=gt.addr, **numbers)
    gt.server(f"-config {gt.world.write('server.yaml', text)}")
    assert "is up" in opened(gt, protocol, "id1", "secret1", one, two)
    assert "no tunnel" in opened(gt, protocol, "id1", "secret1", three)
    assert "is up" in opened(gt, protocol, "id2", "secret2", three)
    assert "is up" in opened(gt, protocol, "id2", "secret2", four)
    assert "no tunnel" in opened(gt, protocol, "id2", "secret2", three, four)
    assert "no tunnel" in opened(gt, protocol, "id2", "secret2", one)


# The status API


@pytest.mark.parametrize("users", ["", "-id id1 -secret secret1"], ids=["nobody", "id1"])
def test_server_api(gt: GT, users: str) -> None:
    """It needs no user: it has one of its own."""
    api = gt.port("8081")
    gt.server(f"-addr 8080 -apiAddr 8081 {users}")
    response = fetch(api.address, "id1.example.com:8081", "/status")
    assert response.status == 200
    answer = json.loads(response.body)
    assert answer.keys() == {"status", "version"}
    assert answer["status"] == "ok"


# The example files


EXAMPLE_SERVER_YAML = """
version: 1.0
options:
  addr: {addr}
  sniAddr: {sni}
  #  tlsAddr: 4443
  #  certFile: /opt/crt/tls.crt
  #  keyFile: /opt/crt/tls.key
  logLevel: info
  timeout: 90s
users:
  id-should-be-overwritten:
    secret: secret-should-be-overwritten
    tcp:
      - range: {port}-{port}
      - range: 20000-25000
"""
EXAMPLE_CLIENT_YAML = """
version: 1.0
services:
  # http 转发
  - local: {web}
    hostPrefix: blog
  # http 转发
  - local: {web}
    hostPrefix: web
  # https sni 转发
  - local: {https}
    hostPrefix: www
  # server 10022 tcp 端口转发流量到 client 本地 22 tcp 端口
  - local: {ssh}
    # 服务器端口
    remoteTCPPort: {port}
    # 如果 10022 端口被占用，则使用服务器随机端口
    remoteTCPRandom: true
options:
  id: id-should-be-overwritten
  secret: secret-should-be-overwritten
  # 服务器地址
  # remote: tls://1.1.1.1:4443
  remote: tcp://{addr}
  # 连接池并发连接数
  remoteConnections: 5
  logLevel: info
"""


@BOTH
def test_the_example_files(gt: GT, protocol: str) -> None:
    """example/config/server.yaml and client.yaml (STUN is not there yet)."""
    gt.world.hidden("secret-should-be-overwritten")
    theirs = make_pair(["www.example.com"]).write(gt.world.directory, "service")
    sni, port = gt.world.port(), gt.world.port()
    places = {
        "addr": gt.addr,
        "sni": sni,
        "port": port.number,
        "web": gt.world.service(answering(b"a blog")).url,
        "https": gt.world.service(speaking_tls(answering(b"secure"), theirs)).url.replace("http", "https", 1),
        "ssh": gt.world.service(echoing).url.replace("http", "tcp", 1),
    }
    gt.server(f"-config {gt.world.write('server.yaml', EXAMPLE_SERVER_YAML.format(**places))}")
    gt.client(f"-config {gt.world.write('client.yaml', EXAMPLE_CLIENT_YAML.format(**places))}", protocol)
    for host in ("blog.example.com", "web.example.com"):
        assert gt.visit(host).body == b"a blog"
    visitor = gt.secure(sni, "www.example.com", theirs.cert)
    visitor.request("www.example.com")
    assert visitor.response().body == b"secure"
    assert echoed(port.number)
