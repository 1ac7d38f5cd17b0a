"""What a container of the image begins with; it becomes what it starts, it does not stay.

    (nothing)                    the appliance: GT under supervisord; the first time with the wizard in the browser
    client --id … | server | …   gt.py with these words, without supervisord: its exit code is the container's
    gt.py …                      the same, as people write it: `docker exec NAME gt.py status`

The value of a variable may be in a file: GT_SECRET_FILE=/run/secrets/gt stands for GT_SECRET.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gtapp.config.config_file import role_of  # noqa: E402
from gtapp.config.environ import check_names, is_option, sets_work  # noqa: E402
from gtapp.config.files import yaml_files  # noqa: E402
from gtapp.config.load import load_client, load_server  # noqa: E402
from gtapp.config.problems import Problems  # noqa: E402
from gtapp.errors import ConfigError  # noqa: E402

DATA = "/data"
BIN = Path(sys.executable).parent
LOW_PORTS = BIN / "python-low-ports"  # the same Python with the capability to bind ports below 1024
CAP_NET_BIND_SERVICE = 10  # its number, capabilities(7)
MAX_SECRET_BYTES = 65536  # the kernel takes no longer variables than twice that
CLIENT_ALONE = ("GT_REMOTE", "GT_REMOTE_API", "GT_LOCAL")
SETUP_ADDRESSES = {"server": ":8000", "client": ":7000"}
SERVER_ALONE = ("GT_ADDR", "GT_TLS_ADDR", "GT_SNI_ADDR")


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
        set_up_first_run("server" if serves else "client", Path(DATA))
        become([python_for(serves), str(ROOT / "gt.py"), *words])
    except ConfigError as error:
        print(error, file=sys.stderr, flush=True)
        return 2


def appliance() -> NoReturn:
    """Hand over to supervisord. Raises ConfigError."""
    place = Path(os.environ.setdefault("GT_CONFIG", DATA))
    role = role_by_variables()
    found = configurations(place)
    if found:
        roles = check(found)
    else:
        if sets_work(os.environ):
            load_server((), os.environ) if role == "server" else load_client((), os.environ)
        else:
            set_up_first_run(role, place)
        del os.environ["GT_CONFIG"]
        os.environ["GT_ROLE"] = role
        roles = {role}
    os.environ["GT_PYTHON"] = python_for("server" in roles)
    become([sys.executable, str(BIN / "supervisord"), "-c", str(ROOT / "supervisord.conf")])


# what there is to run


def set_up_first_run(role: str, place: Path) -> None:
    """Where a GT without a configuration has its wizard: other machines reach only what listens on all addresses."""
    os.environ.setdefault("GT_DATA_DIR", str(place))
    os.environ.setdefault("GT_SETUP_ADDR", SETUP_ADDRESSES[role])


def role_by_variables() -> str:
    """The role that GT_ROLE names, or that options set by variables belong to; without either it is a server.

    Raises ConfigError.
    """
    role = os.environ.get("GT_ROLE")
    if role:
        if role not in ("server", "client"):
            raise ConfigError(f'GT_ROLE: found "{role}", allowed: server, client')
        return role
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


# how it is run


def read_secrets() -> None:
    """Put the contents of the file that GT_NAME_FILE names into GT_NAME. Raises ConfigError.

    GT_CERT_FILE and its like are options themselves and stay as they are.
    """
    problems = Problems()
    for variable, path in sorted(os.environ.items()):
        name = variable.removesuffix("_FILE")
        if not variable.startswith("GT_") or name == variable or is_option(variable) or not path:
            continue
        if not is_option(name):
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
