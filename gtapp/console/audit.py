"""Who changed what: `audit` is called by whatever changes something for somebody."""

from __future__ import annotations

import logging

from flask_login import current_user

from gtapp.console.context import console
from gtapp.console.database import StorageError
from gtapp.console.security import visitor_address

log = logging.getLogger("gt.console")

MAX_DETAIL = 10_000  # characters


def audit(what: str, detail: str = "", name: str = "") -> None:
    """Note that it was done, by whoever is logged in or by `name`. Never raises: what is done is done.

    `what` is in English, as the log is: "user alice changed". `detail` has no secrets.
    """
    about, address = console(), visitor_address()
    name = name or current_user.name
    log.info("%s (by %s from %s)", what, name or "nobody", address)
    try:
        about.db.add_audit(about.clock(), name, current_user.via, address, what, detail[:MAX_DETAIL])
    except StorageError as error:
        log.error("the audit log lacks this: %s (by %s from %s): %s", what, name or "nobody", address, error)
