"""The console's process: makes the application and serves it until it is told to end. Called by `cli`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gevent.ssl
from gevent.event import Event
from gevent.socket import socket

from gtapp.config.store import Store
from gtapp.console import create_app, setup_token
from gtapp.console.accounts import DATABASE
from gtapp.console.context import Console
from gtapp.console.database import Database, StorageError
from gtapp.console.http_server import Server
from gtapp.console.running import Ask, Running
from gtapp.console.sampler import Sampler
from gtapp.errors import ConfigError, GTError

log = logging.getLogger("gt.console")

GRACE_S = 1.5  # for requests that are being answered when the end comes


def run(
    values: Mapping[str, Any],
    ask: Ask,
    listener: socket,
    until: Event,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve with `listener` what `values` say, until the event; `ready` is called when it does. Raises GTError.

    `values`: role, config ("" without a file), words, environ, state, cert_file and key_file ("" for plain HTTP), and
    setup with target, the file to be made. `ask` asks the master.
    """
    logging.getLogger("gt.config").setLevel(logging.ERROR)  # warnings of a file are for the master to log
    about = make_console(values, ask, show_address(listener))
    context = _tls(values["cert_file"], values["key_file"]) if about.tls else None
    if not about.setup:
        about.config()
    app = create_app(about)
    server = Server(listener, app, context)
    if about.sampler is not None:
        about.sampler.start()
    try:
        server.start()
        ready()
        _announce(about)
        until.wait()
    finally:
        server.end(GRACE_S)
        if about.sampler is not None:
            about.sampler.stop()
        about.db.close()


def make_console(values: Mapping[str, Any], ask: Ask, listen: str) -> Console:
    """What the application is about. See `run`."""
    path, state = values["config"] or values.get("target", ""), Path(values["state"])
    words, environ = tuple(values["words"]), dict(values["environ"])
    store = Store(Path(path), values["role"], state, words, environ) if path else None
    running, db = Running(ask, values["config"]), Database(state / DATABASE)
    return Console(
        role=values["role"],
        store=store,
        words=words,
        environ=environ,
        running=running,
        db=db,
        sampler=None if values["setup"] else Sampler(running, db, state),
        state=state,
        tls=bool(values["cert_file"]),
        setup=bool(values["setup"]),
        listen=listen,
    )


def show_address(listener: socket) -> str:
    """Where it listens: 127.0.0.1:8000 or [::1]:8000."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls(cert_file: str, key_file: str) -> gevent.ssl.SSLContext:
    """Raises ConfigError."""
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = gevent.ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert_file, key_file or None)
    except OSError as error:  # of SSL, too
        raise ConfigError(f"webCertFile {cert_file} cannot be used: {error.strerror or error}") from error
    return context


def _announce(about: Console) -> None:
    """Say what its owner has to know, and nobody else may."""
    if not about.on_loopback and not about.tls:
        log.warning(
            "the console on %s can be reached without TLS: passwords go over the network readable for everybody on "
            "the way. Set webCertFile to auto, or webAddr to an address of this machine alone, such as 127.0.0.1:%s",
            about.listen,
            about.port,
        )
    if about.setup:
        try:
            token = setup_token.current_token(about.state) or setup_token.make_token(about.state)
            print(setup_token.invitation(about.listen, token, about.tls), flush=True)
        except GTError as error:
            log.error("%s", error)
        return
    try:
        about.db.row("SELECT 1")
    except StorageError as error:
        log.error("nobody can log in to the console: %s", error)
