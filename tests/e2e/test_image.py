"""The image: built from docker/Dockerfile, and run by podman as people run it. And docker/entrypoint.py by itself."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from gtapp import __version__
from gtapp.config.environ import sets_work
from tests.support.http import Response, fetch
from tests.support.nginx import Nginx
from tests.support.podman import BUILD_DEADLINE_S, LIMITS, STOP_S, Container, Podman
from tests.support.ports import Port
from tests.support.processes import Child, eventually
from tests.support.world import ROOT, World

MAX_IMAGE_BYTES = 200_000_000  # compressed, with all packages
USER = 1000
ENTRYPOINT = ROOT / "docker/entrypoint.py"
COMPOSE = ROOT / "docker/compose.yaml"
HOST_NETWORK = ("--network", "host")
# A container with nothing but loopback: its ports 80 and 443 are nobody else's.
NO_NETWORK = ("--network", "none")
# --read-only-tmpfs=false: as Docker has it, where nothing but volumes (and /dev/shm) can be written to.
READ_ONLY = ("--read-only", "--read-only-tmpfs=false")
FETCH = """
import json, ssl, sys, urllib.error, urllib.request
context = ssl._create_unverified_context()
request = urllib.request.Request(sys.argv[1], headers={"Host": sys.argv[2]})
try:
    response = urllib.request.urlopen(request, timeout=10, context=context)
except urllib.error.HTTPError as error:
    response = error
print(json.dumps([response.status, response.read().decode()]))
"""

whoever_builds = pytest.mark.timeout(BUILD_DEADLINE_S)


@pytest.fixture(scope="session")
def podman() -> Podman:
    return Podman()


@pytest.fixture(scope="session")
def image(podman: Podman) -> str:
    return podman.image()


class Containers:
    """Starts containers of the image, which end with the test, the last one first."""

    def __init__(self, podman: Podman, image: str, world: World) -> None:
        self._podman = podman
        self._image = image
        self._world = world
        self._volumes: list[str] = []

    def __call__(self, name: str, *words: str, options: tuple[str, ...] = (), **variables: str) -> Container:
        """`variables` are those of the container: GT_ADDR="80"."""
        given = tuple(part for key, value in variables.items() for part in ("--env", f"{key}={value}"))
        container = Container(self._podman, self._image, name, *words, options=(*options, *given))
        self._world.keep(container)
        return container

    def volume(self) -> str:
        name = f"gt-{os.getpid()}-{secrets.token_hex(4)}"
        self._podman.run("volume", "create", name)
        self._volumes.append(name)
        return name

    def close(self) -> None:
        for name in self._volumes:
            self._podman.run("volume", "rm", "--force", name)


@pytest.fixture
def start(podman: Podman, image: str, world: World) -> Containers:
    containers: Containers = world.keep(Containers(podman, image, world))
    return containers  # closed after all containers, which come later


def shared_file(world: World, name: str, text: str) -> Path:
    """A file that the container's user may read, in a directory of its own that nobody else can reach."""
    directory = world.directory / name.partition(".")[0]
    directory.mkdir(exist_ok=True)
    directory.chmod(0o777)
    path = directory / name
    path.write_text(text)
    path.chmod(0o644)
    return path


def get(container: Container, url: str, host: str) -> tuple[int, str]:
    """Status and body, fetched inside of the container."""
    status, body = json.loads(container.exec("python", "-c", FETCH, url, host).stdout)
    return status, body


def serve_page(container: Container, port: int = 8000) -> str:
    """A web server in the container, of GT's demo page; its URL."""
    words = (
        "python",
        "-m",
        "http.server",
        str(port),
        "--bind",
        "127.0.0.1",
        "--directory",
        "/opt/gt/web/demo",
    )
    container.podman.run("exec", "--detach", container.id, *words)
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: get(container, url, "any")[0] == 200, "the page is served")
    return url


def becomes_healthy(container: Container) -> None:
    eventually(lambda: container.health() == "healthy", f"{container.name} is healthy")


def server_yml(port: Port | str, secret: str) -> str:
    return yaml.safe_dump(
        {"type": "server", "users": {"id1": {"secret": secret}}, "options": {"addr": str(port)}}
    )


def page(address: tuple[str, int]) -> Response:
    return fetch(address, "id1.example.com")


# the image


@whoever_builds
def test_what_it_says_of_itself(podman: Podman, image: str) -> None:
    found = podman.inspect(image)
    config = found["Config"]
    assert config["User"] == "gt"
    assert list(config["Volumes"]) == ["/data"]
    assert config["Entrypoint"][:2] == ["/usr/bin/tini", "--"]
    assert config["Labels"]["org.opencontainers.image.title"] == "GT"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert found["HealthCheck" if "HealthCheck" in found else "Healthcheck"]["Test"][0] == "CMD"


@whoever_builds
def test_size(podman: Podman, image: str) -> None:
    """Compressed as a registry would have it, with all packages of requirements.txt."""
    save = shlex.join(podman.command("save", image))
    counted = subprocess.run(
        f"{save} 2>/dev/null | gzip -1 | wc -c",
        shell=True,
        env=podman.environ,
        capture_output=True,
        check=True,
    )
    size = int(counted.stdout)
    print(f"the image has {size:,} bytes")
    assert 10_000_000 < size < MAX_IMAGE_BYTES


@whoever_builds
def test_all_packages_are_there(start: Containers) -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    wanted = dict(line.split("==") for line in lines if line)
    code = "import importlib.metadata as m; print({d.name.lower(): d.version for d in m.distributions()})"
    container = start("packages", "server", options=NO_NETWORK, GT_ADDR="8080", GT_ALLOW_ANY_CLIENT="true")
    container.wait_for("listening on")
    installed = yaml.safe_load(container.exec("python", "-c", code).stdout)
    assert {name: installed.get(name.lower()) for name in wanted} == wanted


@whoever_builds
def test_nothing_else_of_the_checkout_is_there(podman: Podman, image: str) -> None:
    """Neither tests nor what somebody keeps beside the compose file, such as secrets."""

    def files(directory: str) -> set[str]:
        words = ("run", "--rm", "--network", "none", *LIMITS, "--entrypoint", "ls", image, directory)
        return set(podman.run(*words).stdout.split()) - {"__pycache__"}

    own = {"LICENSE", "docker", "gt.py", "gtapp", "requirements.txt", "supervisord.conf", "web"}
    assert files("/opt/gt") == own | {"bin", "include", "lib", "lib64", "pyvenv.cfg"}
    assert files("/opt/gt/docker") == {"entrypoint.py", "healthcheck.py"}


# roles


@whoever_builds
def test_first_run(start: Containers, world: World, nginx: Nginx) -> None:
    """Nothing is configured: the wizard is there, and it serves as soon as a configuration without mistakes is."""
    port, secret = world.port(), world.secret()
    data = shared_file(world, "data.txt", "").parent
    config = data / "server.yml"
    console = world.port()
    container = start(
        "appliance",
        options=(*HOST_NETWORK, "--volume", f"{data}:/data"),
        GT_SETUP_ADDR=str(console),
    )
    token = container.wait_for(r"http://\S+/setup#(\S+)").group(1)
    becomes_healthy(container)
    assert fetch(console.address, f"127.0.0.1:{console.number}", "/setup").status in (200, 302, 303)
    assert container.exec("gt.py", "setup-token").stdout.count(token) == 0

    config.write_text("type: server\noptions:\n  adr: 80\n")
    container.wait_for(r'/data/server.yml:3: .*unknown key "adr"')
    container.allowed.append("everything stays as it was")
    config.write_text(server_yml(port, secret))
    container.wait_for(f"listening on {port}")
    client = world.client(port.address, "id1", secret, local=nginx.url)
    assert page(port.address).status == 200
    becomes_healthy(container)

    client.process.end()
    assert container.stop() < 10
    assert container.exit_code == 0


@whoever_builds
def test_a_file_that_its_user_must_not_read(start: Containers, world: World) -> None:
    """With `docker cp` one that is private on this side is root's alone in the container."""
    volume = start.volume()
    container = start("appliance", options=(*NO_NETWORK, "--volume", f"{volume}:/data"))
    container.wait_for("not set up yet")
    container.allowed.append("Permission denied")
    config = world.write("server.yml", server_yml("8080", world.secret()))
    config.chmod(0)
    container.podman.run("cp", str(config), f"{container.id}:/data/")
    container.wait_for("server.yml: cannot be read: Permission denied")
    container.wait_for(f"GT is user {USER}, group {USER}")
    config.chmod(0o644)
    container.podman.run("cp", str(config), f"{container.id}:/data/")
    container.wait_for("listening on")


@whoever_builds
def test_server_and_client_by_variables(start: Containers, world: World, nginx: Nginx) -> None:
    """Unattended, with the secret in a file, as Docker and Kubernetes hand them over."""
    port = world.port()
    secret = shared_file(world, "secret.txt", world.secret() + "\n")
    options = (*HOST_NETWORK, "--volume", f"{secret}:/run/secrets/gt:ro")
    same = {"GT_ID": "id1", "GT_SECRET_FILE": "/run/secrets/gt", "GT_LOG_LEVEL": "debug"}
    server = start("server", options=options, GT_ADDR=str(port), **same)
    server.wait_for(f"listening on {port}")
    client = start("client", options=options, GT_REMOTE=f"tcp://{port}", GT_LOCAL=nginx.url, **same)
    client.wait_for(r"tunnel 1 to .* is up")
    assert page(port.address).status == 200
    for container in (client, server):
        becomes_healthy(container)
        assert container.exec("gt.py", "status").returncode == 0
        assert not container.find(secret.read_text().strip())


@whoever_builds
def test_a_client_without_its_server_is_not_healthy(start: Containers, world: World, nginx: Nginx) -> None:
    remote = world.port()
    variables = {"GT_ID": "id1", "GT_SECRET": world.secret(), "GT_REMOTE": f"tcp://{remote}"}
    client = start("client", options=HOST_NETWORK, GT_LOCAL=nginx.url, **variables)
    client.wait_for("refused")
    assert client.exec("python", "/opt/gt/docker/healthcheck.py", check=False).returncode == 1
    assert client.health() != "healthy"


@whoever_builds
def test_the_client_role(start: Containers, world: World, nginx: Nginx) -> None:
    """With words after the image's name they are gt.py's: no supervisord, and its exit code is the container's."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    words = ["client", "--id", "id1", "--remote", server.remote, "--local", nginx.url]
    client = start("client", *words, options=HOST_NETWORK, GT_SECRET=secret)
    client.wait_for(r"tunnel 1 to .* is up")
    assert page(server.address).status == 200
    commands = client.podman.run("top", client.id, "args").stdout
    assert "gt.py client" in commands
    assert "supervisord" not in commands
    assert client.stop() < 10
    assert client.exit_code == 0


@whoever_builds
@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["connect", "--help"], 0, "usage: gt.py connect"),
        (["version"], 0, f"gt {re.escape(__version__)}"),
        (["gt.py", "version"], 0, f"gt {re.escape(__version__)}"),
        (["client", "--locall", "http://x"], 2, "--locall"),
        (["serve"], 2, 'did you mean "server"'),
        (["gt.py"], 2, "usage: gt.py"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_other_words(start: Containers, words: list[str], code: int, line: str) -> None:
    container = start("gt", *words, options=(*NO_NETWORK, *READ_ONLY))
    container.expected_exit = {code}
    assert container.wait() == code
    assert container.find(line)


# what it may do


@whoever_builds
def test_low_ports_with_a_read_only_root_and_no_root(start: Containers, world: World) -> None:
    """Nothing but /data can be written to, and nobody is root; ports 80 and 443 are served all the same."""
    volume, secret = start.volume(), world.secret()
    options = (*NO_NETWORK, *READ_ONLY, "--volume", f"{volume}:/data")
    same = {"GT_ID": "id1", "GT_SECRET": secret}
    server = start("server", options=options, GT_ADDR="80", GT_TLS_ADDR="443", **same)
    server.wait_for(r"listening on .*:80 ")
    server.wait_for(r"listening on .*:443 ")
    assert server.users() == {USER}
    assert server.exec("touch", "/opt/gt/x", check=False).returncode == 1
    assert server.exec("touch", "/tmp/x", check=False).returncode == 1

    beside = (*READ_ONLY, "--network", f"container:{server.id}")
    web = serve_page(server)
    remote = {"GT_REMOTE": "tls://127.0.0.1", "GT_REMOTE_CERT_INSECURE": "true"}
    client = start("client", options=beside, GT_LOCAL=web, **remote, **same)
    client.wait_for(r"tunnel 1 to tls://127\.0\.0\.1.* is up")
    for url in ("http://127.0.0.1/", "https://127.0.0.1/"):
        status, body = get(server, url, "id1.example.com")
        assert (status, "<html" in body) == (200, True)
    becomes_healthy(server)
    becomes_healthy(client)
    made = server.exec("ls", "/data").stdout.split()
    assert {"gt-cert.pem", "gt-key.pem"} <= set(made)

    mark = server.mark()
    assert "gt: started" in server.exec("supervisorctl", "restart", "gt").stdout
    server.wait_for(r"listening on .*:80 ", after=mark)
    client.wait_for(r"tunnel \d+ to .* is up", after=client.mark() - 1)
    eventually(lambda: get(server, "http://127.0.0.1/", "id1.example.com")[0] == 200, "all is back")
    assert "reloaded" in server.exec("gt.py", "-s", "reload").stdout


@whoever_builds
def test_without_any_capability(start: Containers, world: World) -> None:
    """As careful people run it. The Python that may bind low ports could not even be started there."""
    careful = ("--cap-drop", "all", "--security-opt", "no-new-privileges", *NO_NETWORK, *READ_ONLY)
    server = start("server", options=careful, GT_ADDR="8080", GT_ID="id1", GT_SECRET=world.secret())
    server.wait_for(r"listening on .*:8080 ")


@whoever_builds
def test_any_user(start: Containers, world: World) -> None:
    """OpenShift, for one, runs containers as users that it makes up, in group 0."""
    options = ("--user", "1234567:0", "--volume", f"{start.volume()}:/data", *NO_NETWORK, *READ_ONLY)
    variables = {"GT_TLS_ADDR": "443", "GT_ID": "id1", "GT_SECRET": world.secret()}
    server = start("server", options=options, **variables)
    server.wait_for(r"listening on .*:443 ")
    becomes_healthy(server)


@whoever_builds
def test_stop_lets_a_running_download_finish(start: Containers, world: World, nginx: Nginx) -> None:
    expected = nginx.file("trickle/image-three-seconds.bin", 3_000_000)
    port, secret = world.port(), world.secret()
    server = start("server", options=HOST_NETWORK, GT_ADDR=str(port), GT_ID="id1", GT_SECRET=secret)
    server.wait_for(f"listening on {port}")
    world.client(port.address, "id1", secret, local=nginx.url)
    visitor = world.visitor(port.address)
    visitor.request("id1.example.com", "/trickle/image-three-seconds.bin", headers={"Connection": "close"})
    response = visitor.head()
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    visitor.body(response)
    visitor.close()
    stopping.join(STOP_S + 5)
    assert (response.end, response.sha256) == ("length", expected)
    assert server.exit_code == 0


@whoever_builds
def test_compose(start: Containers, world: World) -> None:
    """What compose.yaml says of its two services, done by podman; both in one network without a way out."""
    compose = yaml.safe_load(COMPOSE.read_text())
    secret = shared_file(world, "secret.txt", world.secret() + "\n")

    def run(name: str, *options: str, **instead: str) -> Container:
        service: dict[str, Any] = compose["services"][name]
        assert set(service) <= HONOURED | IGNORED, name
        variables = service["environment"] | instead
        assert all(sets_work({key.removesuffix("_FILE"): "x"}) for key in variables), variables
        given = [*options, *(READ_ONLY if service["read_only"] else ())]
        given += [f"--cap-drop={each}" for each in service["cap_drop"]]
        given += [f"--security-opt={each.replace(':true', '')}" for each in service["security_opt"]]
        if name == "server":  # its network is the client's, too
            given += [f"--sysctl={key}={value}" for key, value in service["sysctls"].items()]
        given += [f"--volume={secret}:/run/secrets/{each}:ro" for each in service["secrets"]]
        for each in service["volumes"]:
            volume, place = each.split(":")
            assert volume in compose["volumes"]
            given.append(f"--volume={start.volume()}:{place}")
        return start(name, options=tuple(given), **variables)

    server = run("server", *NO_NETWORK)
    server.wait_for(r"listening on .*:443 ")
    server.wait_for(r"listening on .*:80 ")
    local = serve_page(server)
    network = ("--network", f"container:{server.id}")
    client = run("client", *network, GT_REMOTE="tls://127.0.0.1", GT_LOCAL=local)
    client.wait_for(r"tunnel 1 to .* is up")
    assert get(server, "http://127.0.0.1/", "id1.example.com")[0] == 200
    check = compose["services"]["server"]["healthcheck"]["test"]
    assert check[0] == "CMD"
    for container in (server, client):
        becomes_healthy(container)
        assert container.exec(*check[1:]).returncode == 0
    for source in (compose["services"][name]["build"] for name in compose["services"]):
        assert (COMPOSE.parent / source["context"] / source["dockerfile"]).exists()


HONOURED = {
    "environment",
    "read_only",
    "cap_drop",
    "security_opt",
    "sysctls",
    "secrets",
    "volumes",
    "healthcheck",
}
IGNORED = {"image", "build", "restart", "stop_grace_period", "ports", "extra_hosts"}


# the entry point by itself, on this machine


class EntryPoint(Child):
    """docker/entrypoint.py with these variables; `data` stands for /data."""

    def __init__(self, data: Path, *words: str, **variables: str) -> None:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("GT_")}
        runtime = {"GT_CONFIG": str(data), "GT_RUNTIME_DIR": str(data / "run"), "HOME": str(data / "run")}
        super().__init__(
            "entrypoint", [sys.executable, str(ENTRYPOINT), *words], environ | runtime | variables
        )


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"GT_SECRET_FILE": "{data}/none"}, "GT_SECRET_FILE: {data}/none: No such file or directory"),
        ({"GT_SECRET_FILE": "{data}"}, "GT_SECRET_FILE: {data}: Is a directory"),
        ({"GT_SECRET_FILE": "{data}/empty"}, "GT_SECRET_FILE: {data}/empty: is empty"),
        ({"GT_SECRET_FILE": "{data}/zero"}, "GT_SECRET_FILE: {data}/zero: has a zero byte in it"),
        ({"GT_SECRET_FILE": "{data}/latin"}, "GT_SECRET_FILE: {data}/latin: is not UTF-8 text"),
        ({"GT_SECRET_FILE": "{data}/long"}, "GT_SECRET_FILE: {data}/long: is longer than 65,536 bytes"),
        (
            {"GT_SECRET_FILE": "{data}/one", "GT_SECRET": "x"},
            "GT_SECRET_FILE: GT_SECRET is set as well, one of the two is needed",
        ),
        ({"GT_SECRETS_FILE": "{data}/one"}, "GT_SECRETS: there is no such option, did you mean GT_SECRET?"),
        (
            {"GT_ADDR": "8080", "GT_REMOTE": "tcp://x"},
            "GT_REMOTE is for a client and GT_ADDR for a server: GT_ROLE has to say which one",
        ),
        ({"GT_ROLE": "visitor"}, 'GT_ROLE: found "visitor", allowed: server, client'),
        ({"GT_CONFIG": "{data}/none.yml"}, "GT_CONFIG: there is no {data}/none.yml"),
        ({"GT_ID": "id1", "GT_SECRET": "x"}, "server: there is nowhere for tunnels to come in"),
        ({"GT_ROLE": "client", "GT_LOCAL": "http://x"}, "client: there is no id"),
        ({"GT_CONFIG": "{data}/users"}, "is a file of users"),
        ({"GT_CONFIG": "{data}/bad"}, "bad/server.yml:2: is not valid YAML"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_said(tmp_path: Path, variables: dict[str, str], complaint: str) -> None:
    """Exit code 2 at once, and why: not a container that lives on and does nothing."""
    for name, data in {
        "one": b"secret-1\n",
        "empty": b"\n",
        "zero": b"a\0b",
        "latin": b"\xe4",
        "long": b"x" * 70_000,
        "users/users.yml": b"id1: {secret: x}\n",
        "bad/server.yml": b"type: [\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    values = {name: value.format(data=tmp_path) for name, value in variables.items()}
    (tmp_path / "nothing").mkdir()
    entry = EntryPoint(tmp_path / "nothing", **values)
    assert entry.wait() == 2
    assert complaint.format(data=tmp_path) in entry.log
    assert "Traceback" not in entry.log


def test_secrets_by_file(tmp_path: Path) -> None:
    """They are in the environment of what is started, without the line's end; files that are options stay."""
    (tmp_path / "secret").write_text(" correct horse \r\n\n")
    (tmp_path / "run").mkdir()
    entry = EntryPoint(
        tmp_path,
        *("server", "--addr", "127.0.0.1:0", "--id", "id1"),
        GT_SECRET_FILE=str(tmp_path / "secret"),
        GT_LOG_FILE=str(tmp_path / "gt.log"),
    )
    log = tmp_path / "gt.log"
    eventually(lambda: log.exists() and "listening on" in log.read_text(), "it serves")
    environ = Path(f"/proc/{entry.pid}/environ").read_bytes().split(b"\0")
    assert b"GT_SECRET= correct horse " in environ
    assert not [each for each in environ if each.startswith(b"GT_SECRET_FILE=")]
    assert entry.end() == 0
