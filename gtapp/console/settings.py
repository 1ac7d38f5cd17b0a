"""Every option of the table as a form: a page for each section, and one that finds them all. What is typed goes as a
sealed draft from the form to the review, and from there to the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flask import (
    Blueprint,
    Response,
    flash,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from flask_login import current_user
from werkzeug.exceptions import NotFound

from gtapp.config.options import OPTIONS
from gtapp.config.schema import Option, Section
from gtapp.config.store import Conflict, Document, Problem
from gtapp.console import changes, conflicts, drafts, forms, parts, passwords, review, setting_rows
from gtapp.console.auth import audit, needs
from gtapp.console.changes import store_of
from gtapp.console.context import console
from gtapp.console.drafts import Draft
from gtapp.console.words import _, is_chinese
from gtapp.errors import ConfigError

blueprint = Blueprint("settings", __name__, url_prefix="/settings")
blueprint.app_context_processor(lambda: {"settings_parts": parts.parts})

SCOPE = "settings"
_PASSWORD = "password"  # of the administrator: it is kept as a hash


@blueprint.get("")
def index() -> str:
    """All options with their values; `q` finds some of them, `set` leaves out those at their default."""
    query, only_set = request.args.get("q", "").strip(), "set" in request.args
    wanted = query.lower().split()
    found = []
    for each in parts.sections():
        lines = [line for line in setting_rows.lines(each) if line.source or not only_set]
        lines = [line for line in lines if all(word in line.words for word in wanted)]
        href = url_for("settings.section", section=parts.slug(each))
        if lines:
            found.append((each.title(is_chinese()), href, lines))
    return render_template("settings/index.html", part="all", query=query, only_set=only_set, sections=found)


@blueprint.post("/reload")
@needs(SCOPE)
def reload() -> str:
    """Have the running GT take over a file that was edited by other means."""
    lines, problem = changes.reload()
    audit("reloaded")
    result = review.Result("waiting" if problem else "done", problem, lines, "")
    return render_template(
        "settings/done.html", part="all", result=result, back_url=url_for("settings.index")
    )


@blueprint.get("/<section>")
def section(section: str) -> Any:
    """The options of a section."""
    return _form(_section(section))


@blueprint.post("/<section>")
@needs(SCOPE)
def submit(section: str) -> Any:
    """The form is to be saved: what would that change?"""
    which, draft = _section(section), _draft()
    posted = forms.read(OPTIONS[console().role], request.form, draft.own, keys=_keys(which))
    password = str(posted.changes.get(_PASSWORD) or "")
    if problem := _problem_of_password(password):
        posted.errors[_PASSWORD] = problem
    elif password and not passwords.is_hash(password):
        posted.changes[_PASSWORD] = passwords.hash_password(password)
    for key, value in _secrets(draft.changes).items():  # typed before, and not in the form again
        if value and key not in posted.changes and not request.form.get(forms.CLEAR + key):
            posted.changes[key] = value
    if posted.errors:
        right = {key: value for key, value in posted.changes.items() if key not in posted.errors}
        again = Draft(draft.etag, changes=_secrets(right), own=draft.own)
        posted.texts = {key: text for key, text in posted.texts.items() if not _option(key).secret}
        return make_response(_form(which, again, posted), 422)
    return _review(which, Draft(draft.etag, changes=posted.changes, own=draft.own))


@blueprint.post("/<section>/check")
@needs(SCOPE)
def check(section: str) -> Response:
    """What is wrong with the fields that are typed into just now: a sentence for each, "" when nothing is."""
    found = {}
    for key in _keys(_section(section)):
        if key in request.form:
            text = request.form[key] if _option(key).secret else request.form[key].strip()
            found[key] = forms.problem_of(_option(key), text) if text else ""
            if key == _PASSWORD:
                found[key] = found[key] or _problem_of_password(text)
    return jsonify(found)


@blueprint.post("/<section>/review")
@needs(SCOPE)
def review_draft(section: str) -> Any:
    """As the form does, for a draft that a page carries."""
    return _review(_section(section), _draft())


@blueprint.post("/<section>/edit")
@needs(SCOPE)
def edit_draft(section: str) -> Any:
    """Back to the form, with what was typed."""
    return _form(_section(section), _draft())


@blueprint.post("/<section>/apply")
@needs(SCOPE)
def apply(section: str) -> Any:
    """Save what was reviewed, and have the running GT take it over."""
    which, draft = _section(section), _draft()
    try:
        result = review.settle(changes.save_options(draft.changes, draft.etag))
    except Conflict as conflict:
        return _conflict(which, conflict, draft)
    except ConfigError as error:
        return make_response(_form(which, draft, problems=str(error).splitlines()), 422)
    return render_template(
        "settings/done.html",
        part=section,
        result=result,
        draft=Draft(result.etag, changes=draft.changes, own=draft.own).sealed(),
        edit_url=url_for("settings.edit_draft", section=section),
        back_url=url_for("settings.section", section=section),
    )


def _review(which: Section, draft: Draft) -> Any:
    """What a draft changes; back to the form when there is something wrong with it."""
    name = parts.slug(which)
    if not draft.changes:
        flash(_("Nothing has been changed."), "info")
        return redirect(url_for("settings.section", section=name), 303)

    def change(document: Document) -> None:
        for key, value in draft.changes.items():
            document.set_option(key, value)

    try:
        before, after, problems = store_of().preview(change, draft.etag)
    except Conflict as conflict:
        return _conflict(which, conflict, draft)
    except ConfigError as error:
        return make_response(_form(which, draft, problems=str(error).splitlines()), 422)
    if problems:
        return make_response(_form(which, draft, problems=problems), 422)
    return render_template(
        "settings/review.html",
        part=name,
        review=review.review(before, after, problems),
        draft=draft.sealed(),
        apply_url=url_for("settings.apply", section=name),
        edit_url=url_for("settings.edit_draft", section=name),
        cancel_url=url_for("settings.section", section=name),
    )


def _conflict(which: Section, conflict: Conflict, draft: Draft) -> Response:
    """What was, what was typed and what the file says now, and the ways to go on."""
    try:
        now = setting_rows.own(store_of().document(conflict.current.text), _keys(which))
    except ConfigError:  # it can't be read: the next page says so
        now = {}
    again = [(drafts.FIELD, Draft(conflict.current.etag, changes=draft.changes, own=now).sealed())]
    name = parts.slug(which)
    ways = conflicts.choices(
        url_for("settings.review_draft", section=name), again, url_for("settings.section", section=name)
    )
    once_more = conflicts.Choice(
        _("Look at mine once more"),
        _("The form with what you have typed, based on the file as it is now."),
        url_for("settings.edit_draft", section=name),
        again,
    )
    rows = conflicts.rows_of_values(draft.changes, draft.own, now)
    return conflicts.page(conflict, rows, [ways[0], once_more, *ways[1:]], name)


def _form(
    which: Section,
    draft: Draft | None = None,
    posted: forms.Posted | None = None,
    problems: Sequence[Problem | str] = (),
) -> str:
    """The page of a section: of the file as it is, or with what was typed, which is `posted` or in a draft."""
    name, title = parts.slug(which), which.title(is_chinese())
    store = console().store
    if draft is None and store is not None:
        now = store.read()
        try:
            draft = Draft(now.etag, own=setting_rows.own(store_of().document(now.text), _keys(which)))
        except ConfigError as error:
            wrong = str(error).splitlines()
            return render_template("settings/broken.html", part=name, title=title, problems=wrong)
    draft = draft or Draft("")
    if posted is None:
        said = {key: value for key, value in draft.changes.items() if not _option(key).secret}
        posted = forms.Posted(texts={key: forms.text_of(_option(key), value) for key, value in said.items()})
    errors, others = _sorted(problems, which)
    posted = forms.Posted(posted.changes, {**errors, **posted.errors}, posted.texts)
    return render_template(
        "settings/section.html",
        part=name,
        title=title,
        rows=setting_rows.rows(which, draft.own, posted, draft.changes, store is not None),
        draft=draft.sealed(),
        can_save=store is not None,
        problems=others,
        elsewhere=parts.elsewhere(which),
        legend=[(review.BADGES[applies], sentence) for applies, sentence in review.SENTENCES.items()],
    )


def _sorted(problems: Sequence[Problem | str], which: Section) -> tuple[Mapping[str, str], list[str]]:
    """Problems of the file: those that stand beside a field of this section, and the rest."""
    beside: dict[str, str] = {}
    others = []
    keys = _keys(which)
    for problem in problems:
        if isinstance(problem, str):
            others.append(problem)
        elif problem.key in keys and problem.key not in beside:
            beside[problem.key] = problem.message
        else:
            others.append(problem.message)
    return beside, others


def _secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if _option(key).secret}


def _problem_of_password(password: str) -> str:
    if not password or passwords.is_hash(password):
        return ""
    return passwords.problem_of(password, current_user.name)


def _section(name: str) -> Section:
    """Raises NotFound."""
    for each in parts.sections():
        if parts.slug(each) == name:
            return each
    raise NotFound


def _keys(which: Section) -> list[str]:
    """The options of a section that the file decides."""
    given = parts.fixed()
    return [entry.key for entry in parts.sections()[which] if entry.key not in given]


def _option(key: str) -> Option:
    return OPTIONS[console().role][key]


def _draft() -> Draft:
    """What the form carries. Raises BadRequest."""
    return drafts.opened(request.form.get(drafts.FIELD, ""))
