"""Opens one tunnel with a client's options and closes it again: would it work? Says so in words for people.

It publishes nothing, so that a client which runs with the same id is not disturbed; over protocol 1, which wants a
service, one that nobody asks for. Called by `process.probe`.
"""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from gtapp.client.dialer import Dialer, Opened
from gtapp.client.remote_api import RemoteAPI
from gtapp.client.services import Services
from gtapp.config.load import Service, load_client
from gtapp.config.options import OPTIONS, ClientOptions
from gtapp.config.values import URL
from gtapp.errors import ConfigError, GTError, LinkError, RemoteRefused
from gtapp.relay.clock import Clock
from gtapp.relay.opening import Opening
from gtapp.relay.tunnel import Tunnel
from gtapp.wire import compat

TRIAL_S = 14.0  # all of it
PONG_S = 2.0  # for the first round trip
POLL_S = 0.01
CLOSE_S = 1.0  # for an end in order

# What a tunnel depends on; whatever else a client has set is of no account.
USED = (
    "id",
    "secret",
    "remote",
    "remoteAPI",
    "remoteCert",
    "remoteCertInsecure",
    "protocol",
    "allowPlainSecret",
)

_LET_IN = (
    "host_conflict",
    "host_not_allowed",
    "too_many_hosts",
    "too_many_services",
)  # about services: the rest is right

_WORDS = {
    "name": 'The name "{host}" has no address. Is it spelt right, and has its DNS record been made?',
    "refused": "Nothing listens at {host}, port {port}. Does the server run, and is that its port?",
    "unanswered": "{host}, port {port}, does not answer. Is the address right, and does a firewall let it through?",
    "unreachable": "There is no way to {host}: {error}",
    "no_gt": "What answers at {host}, port {port}, is no GT server. Is that the port of its addr (tcp://) or tlsAddr "
    "(tls://)?",
    "old_server": "What answers at {host}, port {port}, does not speak protocol 3. It is no GT server, or one of the "
    "original GT: that needs protocol: 1, which shows the secret to whoever listens on the way.",
    "silent": "{host}, port {port}, takes the connection and does not answer. Is that the port of its addr (tcp://) or "
    "tlsAddr (tls://)?",
    "invalid_credentials": "The server does not know this id, or the secret is another one. Compare both with the "
    "server's.",
    "locked_out": "Too many logins have failed from this address, and the server waits a while: {error}",
    "too_many_connections": "Id and secret are right; this id has as many tunnels as the server allows.",
}

Result = dict[str, Any]


def try_out(given: Mapping[str, Any]) -> Result:
    """`works`, `code` and `text`; where it works also the round trip and what the server is.

    `given` are options by their keys, as in a configuration file. Waits, at most TRIAL_S.
    """
    try:
        trial = _Trial(read_options(given))
    except ConfigError as error:
        return _failed("options", str(error))
    try:
        return trial.run(monotonic() + TRIAL_S)
    finally:
        trial.stop()


def read_options(given: Mapping[str, Any]) -> ClientOptions:
    """Raises ConfigError."""
    words = ["--local=tcp://127.0.0.1:1"]  # every client has a service
    for key, value in given.items():
        if key not in OPTIONS["client"]:
            raise ConfigError(f"{key}: there is no such option of a client")
        if key in USED and value is not None and value != "":
            words += [f"--{key}={_text(each)}" for each in (value if isinstance(value, list) else [value])]
    try:
        return load_client(words, {}).options
    except ConfigError as error:
        lines = str(error).splitlines()
        raise ConfigError(
            "\n".join(line.removeprefix("--").removeprefix("client: ") for line in lines)
        ) from None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Trial:
    """Raises ConfigError for options that cannot be used."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        instance = secrets.token_hex(16)
        self._native = Dialer(replace(options, protocol="3"), instance) if options.protocol != "1" else None
        self._any = Dialer(options, instance) if options.protocol != "3" else None

    def stop(self) -> None:
        for each in (self._native, self._any):
            if each is not None:
                each.stop()

    def run(self, deadline: float) -> Result:
        """Try one remote after the other."""
        result = _failed("options", "There is no remote.")
        options = self._options
        remotes: tuple[URL, ...] = options.remote
        if options.remote_api and not remotes:
            try:
                remotes = (RemoteAPI(options.remote_api, options.id, options.remote_timeout).ask(),)
            except LinkError as error:
                return _failed("remote_api", f"{error}.")
        for remote in remotes:
            left = deadline - monotonic()
            if left <= 0:
                break
            try:
                with gevent.Timeout(left):
                    opened = self._open(remote)
            except gevent.Timeout:
                result = _failed("unanswered", f"No answer within {TRIAL_S:.0f} s.", remote)
            except RemoteRefused as error:
                result = _let_in(remote) if error.code in _LET_IN else _explained(error, remote)
            except GTError as error:
                result = _explained(error, remote)
            else:
                result = _opened(opened.tunnel, opened.opening, remote)
            if result["works"]:
                break
        return result

    def _open(self, remote: URL) -> Opened:
        """Raises GTError."""
        clock = Clock([self._options.remote_timeout])  # which never runs
        try:
            if self._native is not None:
                return self._native.open(remote, Services([], clock))
        except LinkError as error:
            if self._any is None or error.code != "old_server":
                raise
        assert self._any is not None
        name = f"gt-trial-{secrets.token_hex(4)}"
        service = Service(local=URL("http", "127.0.0.1", 1), host_prefix=name)
        return self._any.open(remote, Services([service], clock))


def _opened(tunnel: Tunnel, opening: Opening, remote: URL) -> Result:
    """It is up: measure the round trip, and end it in order."""
    ended: list[str] = []
    closed = Event()

    def on_closed(reason: str) -> None:
        ended.append(reason)
        closed.set()

    try:
        opening.hand_over(lambda message: _control(tunnel, message), on_closed)
        tunnel.opened()
        left = PONG_S
        while not (tunnel.rtt or tunnel.closed) and left > 0:
            gevent.sleep(POLL_S)
            left -= POLL_S
        if tunnel.closed:
            raise LinkError("".join(ended))
        tunnel.drain()
        closed.wait(CLOSE_S)
    except LinkError as error:
        return _failed("lost", f"The server has accepted the tunnel and closed it at once: {error}.", remote)
    finally:
        tunnel.abort("it was a trial")
    return {
        "works": True,
        "code": "",
        "text": f"A tunnel to {remote} came up.",
        "remote": str(remote),
        "transport": remote.scheme,
        "protocol": tunnel.frames.version,
        "agent": tunnel.agent,
        "rtt_ms": round(tunnel.rtt * 1000, 2),
    }


def _let_in(remote: URL) -> Result:
    """The server has no objection to the client, just to what it would publish here."""
    text = f"{remote} accepts id and secret."
    return {"works": True, "code": "", "text": text, "remote": str(remote), "transport": remote.scheme}


def _control(tunnel: Tunnel, message: Any) -> None:
    """Of what the server may say only the end matters here."""
    if isinstance(message, compat.Close) or (isinstance(message, dict) and message["type"] == "drain"):
        tunnel.drained_by_peer()


def _explained(error: GTError, remote: URL) -> Result:
    code = error.code if isinstance(error, LinkError | RemoteRefused) else ""
    words = _WORDS.get(code)
    cause = error.__cause__
    why = cause.strerror if isinstance(cause, OSError) and cause.strerror else error
    text = words.format(host=remote.host, port=remote.port, error=why) if words else str(error)
    return _failed(code or "failed", text, remote)


def _failed(code: str, text: str, remote: URL | None = None) -> Result:
    named = {"remote": str(remote), "transport": remote.scheme} if remote is not None else {}
    return {"works": False, "code": code, "text": text, **named}
