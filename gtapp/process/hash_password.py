"""gt.py hash-password: the hash of a password for basicAuth. Called by cli."""

import getpass
import sys

from gtapp.config.passwords import hash_password
from gtapp.errors import ConfigError


def run() -> int:
    """Read a password, twice and without echo from a terminal, else a line of the standard input; print its hash.

    Raises ConfigError.
    """
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("The same again: ") != password:
            raise ConfigError("hash-password: these were two different passwords, try again")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise ConfigError(
            "hash-password: there is no password, type one or send it: echo PASSWORD | gt.py hash-password"
        )
    print(hash_password(password))
    return 0
