"""The versions of the configuration file that are kept: what each has changed, and the way back to it. Their secrets
are masked; who wants to see them opens a version in the editor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Blueprint, make_response, render_template, request, url_for
from werkzeug.exceptions import NotFound

from gtapp.config.store import BY_HAND, Conflict, Text, Version
from gtapp.console import changes, drafts, review
from gtapp.console.auth import needs
from gtapp.console.changes import store_of
from gtapp.console.context import console
from gtapp.console.drafts import Draft
from gtapp.console.masks import compare_masked, masked
from gtapp.console.words import _
from gtapp.errors import ConfigError

blueprint = Blueprint("history", __name__, url_prefix="/history")

PART = "history"
VIEWS = (
    "before",
    "now",
    "text",
)  # the difference from the version before, from what is there now, and all of it


@dataclass(frozen=True)
class Entry:
    """A version as the pages show it."""

    id: str
    who: str
    what: str
    time: str
    stamp: str  # for machines
    age_s: float
    is_now: bool  # the file says just this


@blueprint.get("")
def index() -> str:
    """The versions, newest first."""
    if console().store is None:
        return render_template("history/index.html", part=PART, entries=[], unknown=False)
    now = store_of().read()
    entries = [_entry(each, now) for each in store_of().versions()]
    unknown = bool(entries) and not entries[0].is_now
    return render_template("history/index.html", part=PART, entries=entries, unknown=unknown)


@blueprint.get("/<version>")
def version(version: str) -> str:
    """One version. `view` says how: see VIEWS."""
    store, now = store_of(), store_of().read()
    found, before = _find(version)
    text = store.version(version)
    view = request.args.get("view", "")
    view = view if view in VIEWS else "before" if before else "text"
    other = store.version(before.id) if before else ""
    lines = compare_masked(text, now.text) if view == "now" else compare_masked(other, text)
    return render_template(
        "history/version.html",
        part=PART,
        entry=_entry(found, now),
        first=before is None,
        view=view,
        text=masked(text) if view == "text" else "",
        lines=lines,
        draft=Draft(now.etag, text, now.text).sealed(),
    )


@blueprint.get("/<version>/restore")
@needs("settings")
def ask(version: str) -> str:
    """What would change if it were the file again?"""
    return _review(version, store_of().read())


@blueprint.post("/<version>/restore")
@needs("settings")
def restore(version: str) -> Any:
    """Make it the file again, and have the running GT take it over."""
    draft = drafts.opened(request.form.get(drafts.FIELD, ""))
    _find(version)
    try:
        result = review.settle(changes.restore_version(version, draft.etag))
    except Conflict as conflict:  # nothing was typed that could be lost: ask once more
        return make_response(_review(version, conflict.current, changed=True), 409)
    except ConfigError:
        return make_response(_review(version, store_of().read()), 422)
    return render_template("settings/done.html", part=PART, result=result, back_url=url_for("history.index"))


def _review(version: str, now: Text, changed: bool = False) -> str:
    """What it would change; `changed`: somebody has saved since that was asked before."""
    found, _before = _find(version)
    text = store_of().version(version)
    return render_template(
        "history/restore.html",
        part=PART,
        entry=_entry(found, now),
        changed=changed,
        review=review.review(now.text, text, store_of().check(text)),
        draft=Draft(now.etag).sealed(),
        text=Draft(now.etag, text, now.text).sealed(),
    )


def _find(id: str) -> tuple[Version, Version | None]:
    """A version, and the one before it, if that is kept. Raises NotFound."""
    versions = store_of().versions()
    for at, each in enumerate(versions):
        if each.id == id:
            return each, versions[at + 1] if at + 1 < len(versions) else None
    raise NotFound(_("There is no such version any more: only the last ones are kept."))


def _entry(version: Version, now: Text) -> Entry:
    when = datetime.fromtimestamp(version.time).astimezone()
    by_hand = version.who == BY_HAND
    return Entry(
        version.id,
        _("edited by hand") if by_hand else version.who or "–",
        "" if by_hand else version.what,
        f"{when:%Y-%m-%d %H:%M:%S}",
        when.isoformat(timespec="seconds"),
        time.time() - version.time,
        version.etag == now.etag,
    )
