"""The configuration file as text, for people who prefer that: checked by line, reviewed, then saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from flask import Blueprint, Response, flash, make_response, redirect, render_template, request, url_for

from gtapp.config.load import ServerConfig
from gtapp.config.options import OPTIONS, SERVICE, USER
from gtapp.config.schema import Option
from gtapp.config.show import client_yaml, server_yaml
from gtapp.config.store import Conflict, Problem
from gtapp.config.values import MIB
from gtapp.console import changes, conflicts, drafts, review
from gtapp.console.auth import ACCOUNT, needs
from gtapp.console.changes import store_of
from gtapp.console.context import console
from gtapp.console.drafts import Draft
from gtapp.console.merge import fits, merge, together
from gtapp.console.words import _
from gtapp.errors import ConfigError

blueprint = Blueprint("yaml", __name__, url_prefix="/yaml")

MAX_EDIT_BYTES = MIB  # more is no file that people edit in a browser; users can have a file of their own
MAX_LIVE_BYTES = 200_000  # checked while it is typed; checking more would make the typing slow
PART = "yaml"
SCOPE = ACCOUNT  # to read, too: the file has secrets. Programs have the API


@blueprint.get("")
@needs(SCOPE)
def edit() -> str:
    """The file as it is."""
    if console().store is None:
        return render_template("yaml/flags.html", part=PART, text=_as_file())
    now = store_of().read()
    if len(now.text.encode()) > MAX_EDIT_BYTES:
        return render_template("yaml/large.html", part=PART, path=store_of().path, limit=MAX_EDIT_BYTES)
    return _editor(Draft(now.etag, now.text, now.text))


@blueprint.post("/check")
@needs(SCOPE)
def check() -> str:
    """What is wrong with a text that is being typed: a list, for htmx."""
    text = _typed()
    return render_template("yaml/problems.html", problems=_problems(text))


@blueprint.post("")
@needs(SCOPE)
def submit() -> Any:
    """The text is to be saved: what would that change?"""
    draft = drafts.opened(request.form.get(drafts.FIELD, ""))
    return _review(Draft(draft.etag, _like(_typed(), draft.was), draft.was))


@blueprint.post("/review")
@needs(SCOPE)
def review_draft() -> Any:
    """The same for a text that a page carries: of a version, or what has come of a conflict."""
    return _review(drafts.opened(request.form.get(drafts.FIELD, "")))


@blueprint.post("/edit")
@needs(SCOPE)
def edit_draft() -> str:
    """Back to the editor, with what was typed."""
    return _editor(drafts.opened(request.form.get(drafts.FIELD, "")))


@blueprint.post("/apply")
@needs(SCOPE)
def apply() -> Any:
    """Save what was reviewed, and have the running GT take it over."""
    draft = drafts.opened(request.form.get(drafts.FIELD, ""))
    try:
        result = review.settle(changes.save_text(draft.text, draft.etag))
    except Conflict as conflict:
        return conflict_page(conflict, draft)
    except ConfigError as error:
        return make_response(_editor(draft, _problems(draft.text), str(error)), 422)
    again = Draft(result.etag, draft.text, draft.was)
    return render_template(
        "settings/done.html",
        result=result,
        draft=again.sealed(),
        edit_url=url_for("yaml.edit_draft"),
        back_url=url_for("yaml.edit"),
        part=PART,
    )


def conflict_page(conflict: Conflict, draft: Draft) -> Response:
    """The three texts, and the ways to go on."""
    now = conflict.current
    blocks = merge(draft.was, draft.text, now.text)
    both = Draft(now.etag, _like(together(blocks), now.text), now.text).sealed()
    mine = Draft(now.etag, draft.text, now.text).sealed()
    to_review, to_editor = url_for("yaml.review_draft"), url_for("yaml.edit_draft")
    ways = []
    if fits(blocks):
        text, hint = _("Keep both"), _("Your changes and those in the file touch different lines.")
        ways.append(conflicts.Choice(text, hint, to_review, [(drafts.FIELD, both)], "primary"))
    hint = _("Both in one text; where both changed the same lines, the file's stand below yours as comments.")
    ways += [
        conflicts.Choice(_("Put them together by hand"), hint, to_editor, [(drafts.FIELD, both)]),
        conflicts.Choice(
            _("Save mine over it"),
            _("What the file says now is given up; it stays in the history."),
            to_review,
            [(drafts.FIELD, mine)],
        ),
        conflicts.Choice(
            _("Start again from the file"),
            _("Your changes are given up."),
            url_for("yaml.edit"),
        ),
    ]
    return conflicts.page(conflict, conflicts.rows_of_texts(blocks), ways, PART)


def _review(draft: Draft) -> Any:
    """What a draft changes; back to the editor when there is something wrong with it."""
    store = store_of()
    now = store.read()
    if now.etag != draft.etag:
        return conflict_page(Conflict(now), draft)
    if draft.text == now.text:
        flash(_("Nothing has been changed."), "info")
        return redirect(url_for("yaml.edit"), 303)
    if problems := _problems(draft.text):
        return make_response(_editor(draft, problems), 422)
    return render_template(
        "settings/review.html",
        review=review.review(now.text, draft.text, [], show_secrets=True),
        draft=draft.sealed(),
        apply_url=url_for("yaml.apply"),
        edit_url=url_for("yaml.edit_draft"),
        cancel_url=url_for("yaml.edit"),
        part=PART,
    )


def _editor(draft: Draft, problems: Sequence[Problem] | None = None, error: str = "") -> str:
    if problems is None:
        problems = _problems(draft.text) if draft.text != draft.was or not _is_usable() else []
    return render_template(
        "yaml/edit.html",
        text=draft.text,
        lines=draft.text.count("\n") + 1,
        wrong={problem.line for problem in problems},
        draft=Draft(draft.etag, was=draft.was).sealed(),
        problems=problems,
        error=error,
        path=store_of().path,
        changed=draft.text != draft.was,
        live=len(draft.text) <= MAX_LIVE_BYTES,
        part=PART,
    )


def _is_usable() -> bool:
    """Whether the file as it is can be used; that is mostly known already."""
    try:
        console().config()
    except ConfigError:
        return False
    return True


def _problems(text: str) -> list[Problem]:
    if len(text.encode()) > MAX_EDIT_BYTES:
        return [Problem(None, None, _("The text is longer than %(limit)d bytes.", limit=MAX_EDIT_BYTES))]
    return store_of().check(text)


def _typed() -> str:
    """What is in the text area: browsers send the ends of lines as CR LF."""
    return request.form.get("text", "").replace("\r\n", "\n").replace("\r", "\n")


def _like(text: str, model: str) -> str:
    """The text with the ends of lines that `model` has, and one at its end where `model` has one."""
    text = text.replace("\r\n", "\n")
    if text and not text.endswith("\n") and (not model or model.endswith("\n")):
        text += "\n"
    return text.replace("\n", "\r\n") if "\r\n" in model else text


def _as_file() -> str:
    """What a GT that was started by flags does, as a file: secrets are masked, what is at its default is left out."""
    config = console().config()
    role = console().role
    said = yaml.safe_load(server_yaml(config) if isinstance(config, ServerConfig) else client_yaml(config))
    said["options"] = _without_defaults(said["options"], OPTIONS[role])
    if role == "server":
        said["users"] = {
            user: _without_defaults(own, {"disabled": USER["disabled"]})
            for user, own in said["users"].items()
        }
    else:
        said["services"] = [_without_defaults(service, SERVICE) for service in said["services"]]
    text: str = yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=1000)
    return text


def _without_defaults(values: dict[str, Any], table: Mapping[str, Option]) -> dict[str, Any]:
    at_default = {
        key
        for key, entry in table.items()
        if entry.default is not None and values.get(key) == entry.show(entry.default)
    }
    return {key: value for key, value in values.items() if key not in at_default}
