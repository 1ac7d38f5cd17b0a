"""What a container of the image begins with; it becomes what it starts, it does not stay.

    (nothing)                    the appliance: GT under supervisord, as soon as there is a configuration
    client --id … | server | …   gt.py with these words, without supervisord: its exit code is the container's
    gt.py …                      the same, as people write it: `docker exec NAME gt.py status`

The value of a variable may be in a file: GT_SECRET_FILE=/run/secrets/gt stands for GT_SECRET.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gtapp.config.config_file import role_of  # noqa: E402
from gtapp.config.environ import check_names, sets_options  # noqa: E402
from gtapp.config.files import yaml_files  # noqa: E402
from gtapp.config.load import load_client, load_server  # noqa: E402
from gtapp.config.options import OPTIONS, SERVICE  # noqa: E402
from gtapp.config.problems import Problems  # noqa: E402
from gtapp.config.schema import Section  # noqa: E402
from gtapp.errors import ConfigError  # noqa: E402

DATA = "/data"
BIN = Path(sys.executable).parent
LOW_PORTS = BIN / "python-low-ports"  # the same Python with the capability to bind ports below 1024
CAP_NET_BIND_SERVICE = 10  # its number, capabilities(7)
POLL_S = 1.0
MAX_SECRET_BYTES = 65536  # the kernel takes no longer variables than twice that
ASIDE = (Section.LOGGING, Section.SENTRY, Section.CONSOLE)  # what says how GT runs, not what it does
CLIENT_ALONE = ("GT_REMOTE", "GT_REMOTE_API", "GT_LOCAL")
SERVER_ALONE = ("GT_ADDR", "GT_TLS_ADDR", "GT_SNI_ADDR")
FIRST_RUN = """\
GT waits for its configuration, and starts as soon as it is there. Either put server.yml or client.yml into {data}:

    docker cp server.yml NAME:{data}/

or start the container with variables:

    docker run … -e GT_ADDR=80 -e GT_ID=id1 -e GT_SECRET=secret1 …                              a server
    docker run … -e GT_REMOTE=tcp://SERVER -e GT_LOCAL=http://HOST -e GT_ID=id1 -e GT_SECRET=secret1 …   a client
"""


def main() -> int:
    """Become what the words ask for; the exit code when that is not to be. 2: a mistake in the settings."""
    try:
        read_secrets()
        make_runtime_directories()
        words = sys.argv[1:]
        if words[:1] == ["gt.py"]:
            words = words[1:]
        elif not words:
            return appliance()
        serves = not words or words[0] == "server" or words[0].startswith("-")
        become([python_for(serves), str(ROOT / "gt.py"), *words])
    except ConfigError as error:
        say(error)
        return 2


def say(error: ConfigError) -> None:
    print(error, file=sys.stderr)
    if "Permission denied" in str(error):
        ids = f"user {os.getuid()}, group {os.getgid()}"
        print(f"In this container GT is {ids}: these need the right to read it.", file=sys.stderr)
    sys.stderr.flush()


def appliance() -> int:
    """Hand over to supervisord when there is something to run. Returns 0 when told to end before that.

    Raises ConfigError.
    """
    place = os.environ.setdefault("GT_CONFIG", DATA)
    role = role_by_variables()
    if not (found := configurations(Path(place))) and role is None:
        if not wait_for_configuration(Path(place)):
            return 0
        found = configurations(Path(place))
    if found:
        roles = check(found)
    else:
        assert role is not None
        load_server((), os.environ) if role == "server" else load_client((), os.environ)
        del os.environ["GT_CONFIG"]
        os.environ["GT_ROLE"] = role
        roles = {role}
    os.environ["GT_PYTHON"] = python_for("server" in roles)
    become([sys.executable, str(BIN / "supervisord"), "-c", str(ROOT / "supervisord.conf")])


# what there is to run


def role_by_variables() -> str | None:
    """The role that GT_ROLE names, or that options set by variables belong to; None without either.

    Raises ConfigError.
    """
    role = os.environ.get("GT_ROLE")
    if role:
        if role not in ("server", "client"):
            raise ConfigError(f'GT_ROLE: found "{role}", allowed: server, client')
        return role
    tables = (*OPTIONS.values(), SERVICE)
    decisive = {entry.env for table in tables for entry in table.values() if entry.section not in ASIDE}
    if not any(os.environ.get(name) for name in decisive):
        return None
    client = [name for name in CLIENT_ALONE if os.environ.get(name)]
    server = [name for name in SERVER_ALONE if os.environ.get(name)]
    if client and server:
        raise ConfigError(
            f"{client[0]} is for a client and {server[0]} for a server: GT_ROLE has to say which one"
        )
    return "client" if client else "server"


def configurations(place: Path) -> list[Path]:
    """The files that may be configurations. Raises ConfigError."""
    if place.is_dir():
        return yaml_files(place)
    if place != Path(DATA) and not place.exists():
        raise ConfigError(f"GT_CONFIG: there is no {place}")
    return [place] if place.exists() else []


def check(paths: list[Path]) -> set[str]:
    """The roles of the configurations among these files. Raises ConfigError with all that is wrong with them."""
    roles, problems = set(), []
    for path in paths:
        try:
            role = role_of(path)
            if role == "server":
                load_server(("-c", str(path)), os.environ)
            elif role == "client":
                load_client(("-c", str(path)), os.environ)
            roles.add(role)
        except ConfigError as error:
            problems.append(str(error))
    if not (roles - {"users"} or problems):
        problems.append(
            f"{paths[0]}: is a file of users, there is no configuration of a server that names it"
        )
    if problems:
        raise ConfigError("\n".join(problems))
    return roles


def wait_for_configuration(place: Path) -> bool:
    """Wait until there is one without mistakes; False when SIGTERM or SIGINT comes first."""
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    print(FIRST_RUN.format(data=place), end="", flush=True)
    refused: object = None
    while signal.sigtimedwait(ending, POLL_S) is None:
        now = state(place)
        if not now or now == refused:
            continue
        try:
            check([Path(name) for name, *_ in now])
        except ConfigError as error:  # it may be half written
            say(error)
            print("GT waits until that is put right.", file=sys.stderr, flush=True)
            refused = now
            continue
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
        return True
    return False


def state(place: Path) -> list[tuple[str, int, int]]:
    """What shows whether a file has been changed, or who may read it."""

    def each() -> Iterator[tuple[str, int, int]]:
        for path in configurations(place):
            found = path.stat()
            yield str(path), found.st_ino, found.st_ctime_ns

    try:
        return list(each())
    except OSError:  # gone again
        return []


# how it is run


def read_secrets() -> None:
    """Put the contents of the file that GT_NAME_FILE names into GT_NAME. Raises ConfigError.

    GT_CERT_FILE and its like are options themselves and stay as they are.
    """
    problems = Problems()
    for variable, path in sorted(os.environ.items()):
        name = variable.removesuffix("_FILE")
        if not variable.startswith("GT_") or name == variable or sets_options({variable: "x"}) or not path:
            continue
        if not sets_options({name: "x"}):
            check_names({name: ""}, problems)
            continue
        if os.environ.get(name):
            problems.add(f"{variable}: {name} is set as well, one of the two is needed")
            continue
        try:
            os.environ[name] = secret_in(Path(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            problems.add(f"{variable}: {path}: {reason}")
        del os.environ[variable]
    problems.check()


def secret_in(path: Path) -> str:
    """The text of a file without the line ends after it. Raises OSError, ValueError."""
    with path.open("rb") as file:
        data = file.read(MAX_SECRET_BYTES + 1)
    if len(data) > MAX_SECRET_BYTES:
        raise ValueError(f"is longer than {MAX_SECRET_BYTES:,} bytes")
    try:
        text = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if not text or "\0" in text:
        raise ValueError("has a zero byte in it" if text else "is empty")
    return text


def make_runtime_directories() -> None:
    """Where control sockets and files of the moment are. Raises ConfigError."""
    for variable in ("GT_RUNTIME_DIR", "HOME"):
        path = Path(os.environ.get(variable) or "/")
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{variable}: cannot make {path}: {error.strerror}. Let GT_RUNTIME_DIR and HOME name a directory "
                f"that user {os.getuid()} may write to (for example with --tmpfs /run/gt:mode=1777)"
            ) from None


def python_for(serves: bool) -> str:
    """The Python to run GT with: one that may bind low ports if GT needs that, and if the container lets it have it.

    A program with a capability ignores variables such as SSL_CERT_FILE, and is not started at all in a container that
    has dropped this capability (`cap_drop: ALL`): so only where nothing else gives the right.
    """
    if not serves or os.geteuid() == 0 or not LOW_PORTS.exists() or _free_ports_from() <= 80:
        return sys.executable
    return str(LOW_PORTS) if _bounding_set() >> CAP_NET_BIND_SERVICE & 1 else sys.executable


def _free_ports_from() -> int:
    """The lowest port that everybody may bind. Docker makes it 0 in a container with a network of its own."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024


def _bounding_set() -> int:
    """The capabilities that a program in this container can have at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return int(line.split()[1], 16)
    return 0


def become(words: list[str]) -> NoReturn:
    os.execv(words[0], words)


if __name__ == "__main__":
    sys.exit(main())
