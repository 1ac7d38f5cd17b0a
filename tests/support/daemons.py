"""Real services and proxies that are not nginx: OpenSSH, redis, HAProxy. Each on ports of its own, in the foreground,
with all its files in a directory of the test. The world closes them. Used by e2e tests."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.support.ports import Address, Port
from tests.support.processes import PATIENCE_S, Child, eventually

SSHD = """
ListenAddress {address}
HostKey {root}/host_key
AuthorizedKeysFile {root}/visitor_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
MaxStartups 100
Subsystem sftp internal-sftp
"""


def binary(name: str, package: str) -> str:
    """Where the program is; the test is skipped where it is not."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install {package})")
    return found


class Daemon:
    """A process that listens on these ports when the constructor returns."""

    def __init__(self, name: str, argv: Sequence[str], ports: Sequence[Port]) -> None:
        self.ports = list(ports)
        self.child = Child(name, list(argv))
        try:
            # Looked up, not tried: a proxy would pass the connection on.
            eventually(self._listens, f"{name} listens")
        except BaseException:
            print(self.child.tail())
            self.close()
            raise

    def _listens(self) -> bool:
        assert self.child.running
        found = psutil.Process(self.child.pid).net_connections("tcp4")
        listening = {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
        return {port.number for port in self.ports} <= listening

    def close(self) -> None:
        self.child.end()
        for port in self.ports:
            port.close()


class SSHDaemon(Daemon):
    """sshd for the user who runs the test, who logs in with a key made here."""

    def __init__(self, root: Path) -> None:
        program = binary("sshd", "openssh-server")
        self.root = root
        self.user = getpass.getuser()
        self.port = Port()
        root.mkdir()
        for key in ("host_key", "visitor_key"):
            subprocess.run(
                [
                    binary("ssh-keygen", "openssh-client"),
                    "-q",
                    "-t",
                    "ed25519",
                    "-N",
                    "",
                    "-f",
                    str(root / key),
                ],
                check=True,
            )
        host_key = (root / "host_key.pub").read_text()
        (root / "known_hosts").write_text(f"gt {host_key}")
        config = root / "sshd_config"
        config.write_text(SSHD.format(address=self.port, root=root))
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # wanted by sshd that starts as root
        # It insists on being called by its full path, because it calls itself again.
        super().__init__("sshd", [program, "-D", "-e", "-f", str(config)], [self.port])

    def words(self, program: str, port: int) -> list[str]:
        """The start of a command line of ssh or scp that logs in by way of that port."""
        options = {
            "BatchMode": "yes",
            "HostKeyAlias": "gt",
            "UserKnownHostsFile": str(self.root / "known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "IdentityFile": str(self.root / "visitor_key"),
            "ExitOnForwardFailure": "yes",
            "ConnectTimeout": str(round(PATIENCE_S)),
        }
        words = [binary(program, "openssh-client"), "-F", "/dev/null", "-q"]
        words += ["-P" if program == "scp" else "-p", str(port)]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return words

    def ssh(self, port: int, *command: str) -> list[str]:
        return [*self.words("ssh", port), f"{self.user}@127.0.0.1", *command]


class Redis(Daemon):
    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.port = Port()
        program = binary("redis-server", "redis-server")
        words = [
            program,
            "--bind",
            "127.0.0.1",
            "--port",
            str(self.port.number),
            "--save",
            "",
            "--dir",
            str(root),
        ]
        super().__init__("redis", words, [self.port])


class HAProxy(Daemon):
    """Passes TCP on from ports of its own, with a PROXY header in front. `source` is the address it comes from."""

    def __init__(self, root: Path, targets: dict[str, Address], send: str, source: str = "127.0.0.2") -> None:
        ports = {name: Port() for name in targets}
        lines = ["global", " maxconn 1000", "defaults", " mode tcp", " timeout connect 10s"]
        lines += [" timeout client 1m", " timeout server 1m"]
        for name, port in ports.items():
            host, number = targets[name]
            lines += [f"listen {name}", f" bind {port}", f" server gt {host}:{number} {send} source {source}"]
        root.mkdir()
        config = root / "haproxy.cfg"
        config.write_text("\n".join(lines) + "\n")
        self.addresses = {name: port.address for name, port in ports.items()}
        program = binary("haproxy", "haproxy")
        super().__init__("haproxy", [program, "-db", "-f", str(config)], list(ports.values()))
