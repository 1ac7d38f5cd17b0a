"""Credentials: the same way and the same work, whether the id exists or not; and guests, who are in no file."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import Any

import gevent
import pytest

from gtapp.config.load import User
from gtapp.config.options import ServerOptions
from gtapp.errors import RemoteRefused
from gtapp.server import users as users_module
from gtapp.server.users import MAX_ENROLLED_ITERATIONS, Login, Users
from gtapp.wire import credentials
from gtapp.wire.credentials import MIN_ITERATIONS, Verifier, derive
from tests.support.relay import until

SALT = bytes(range(16))
ONE = User(id="id1", secret="secret1")
STORED = User(id="id2", verifier=str(derive("secret2", SALT, MIN_ITERATIONS)))
ANY = ServerOptions(allow_any_client=True)
API = ServerOptions(auth_api="http://127.0.0.1:1/")
MakeUsers = Callable[..., Users]


class Counted:
    """How often a key was derived: what takes time in a login."""

    def __init__(self) -> None:
        self.count = 0

    def derive(self, secret: str, salt: bytes, iterations: int = 0) -> Verifier:
        self.count += 1
        return derive(secret, salt, MIN_ITERATIONS)

    def of(self, what: Callable[[], Any]) -> int:
        before = self.count
        what()
        return self.count - before


class FakeAPI:
    """An authAPI that knows some secrets. (The real one, over HTTP, has tests of its own.)"""

    def __init__(self, url: str = "") -> None:
        self.known = {"apple": ("pie", frozenset({"tart"})), "id1": ("other", frozenset[str]())}
        self.asked: list[tuple[str, str, tuple[str, ...]]] = []
        self.down = False
        self.closed = False

    def ask(self, user_id: str, secret: str, prefixes: Any, until: float) -> frozenset[str] | None:
        assert 0 < until - monotonic() <= users_module.ASKING_S
        self.asked.append((user_id, secret, tuple(prefixes)))
        if self.down:
            raise RemoteRefused("auth_unavailable", "down")
        right, hosts = self.known.get(user_id, ("", frozenset()))
        return hosts if secret == right else None

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    made = Counted()
    monkeypatch.setattr(credentials, "derive", made.derive)
    return made


@pytest.fixture(autouse=True)
def apis(monkeypatch: pytest.MonkeyPatch) -> list[FakeAPI]:
    """The authAPIs that were made, the last one last."""
    made: list[FakeAPI] = []

    def make(url: str) -> FakeAPI:
        made.append(FakeAPI(url))
        return made[-1]

    monkeypatch.setattr(users_module, "AuthAPI", make)
    return made


@pytest.fixture
def make_users(counted: Counted) -> Iterator[MakeUsers]:
    """make_users(user, ..., options=, own=): with all keys derived, as they are soon after the start."""
    made: list[Users] = []

    def make(*users: User, options: ServerOptions | None = None, own: User | None = None) -> Users:
        made.append(Users(table(*users), options or ServerOptions(), own))
        made[-1].start()
        settled(made[-1])
        return made[-1]

    yield make
    for each in made:
        each.stop()


def table(*users: User) -> dict[str, User]:
    return {user.id: user for user in users}


def settled(users: Users) -> None:
    enabled = {user.id for user in users._users.values() if not user.disabled}
    until(lambda: users._keys._known.keys() == enabled, "all keys are derived")


def check(users: Users, user_id: str, secret: str, *prefixes: str) -> Login:
    """A login that shows the secret."""
    login = users.begin(user_id)
    try:
        login.check(secret, prefixes)
    except RemoteRefused:
        login.close()
        raise
    return login


def refused(what: Callable[[], Any]) -> str:
    """The code of the refusal; invalid_credentials always has the same words."""
    with pytest.raises(RemoteRefused) as caught:
        what()
    if caught.value.code == "invalid_credentials":
        assert str(caught.value) == "unknown id or wrong secret"
    return caught.value.code


def is_right(users: Users, user_id: str, secret: str) -> bool:
    try:
        check(users, user_id, secret).close()
    except RemoteRefused as error:
        if error.code != "invalid_credentials":
            raise
        return False
    return True


def left_of_guests(users: Users) -> list[object]:
    """What is still kept of any."""
    proved = [user_id for user_id in users._proved if user_id not in users._users]
    guests = users._guests
    kept = (guests.here, guests._enrolling, users._logins, proved, users._speeds.users())
    return [each for each in kept if each]


def prove(login: Login, secret: str) -> None:
    """What SCRAM does: the client's keys are those of the verifier it was challenged with."""
    verifier = login.verifier()
    assert verifier is not None
    if derive(secret, verifier.salt, verifier.iterations).stored_key != verifier.stored_key:
        raise users_module.invalid_credentials()
    login.proved()


# ids of the configuration


def test_check(make_users: MakeUsers) -> None:
    users = make_users(ONE, STORED)
    for _ in range(2):
        assert is_right(users, "id1", "secret1")
        assert is_right(users, "id2", "secret2")
        assert not is_right(users, "id1", "secret2")
        assert not is_right(users, "id1", "")
        assert not is_right(users, "id3", "secret1")
    assert users.get("id1") is ONE
    assert users.get("id3") is None


def test_scram(make_users: MakeUsers) -> None:
    users = make_users(ONE, STORED)
    for user_id, secret in (("id1", "secret1"), ("id2", "secret2")):
        login = users.begin(user_id)
        prove(login, secret)
        assert login.user.id == user_id
        assert login.hosts is None
        login.close()
    assert refused(lambda: prove(users.begin("id1"), "secret2")) == "invalid_credentials"
    assert refused(lambda: prove(users.begin("id3"), "secret1")) == "invalid_credentials"


def test_a_login_that_is_not_in_has_no_user(make_users: MakeUsers) -> None:
    users = make_users(ONE)
    login = users.begin("id1")
    assert refused(lambda: login.user) == "invalid_credentials"
    login.check("secret1", [])
    assert login.user is ONE
    login.close()
    assert refused(lambda: login.user) == "invalid_credentials"
    assert refused(lambda: login.check("secret1", [])) == "invalid_credentials"
    login.close()


def test_a_key_is_derived_once(make_users: MakeUsers, counted: Counted) -> None:
    users = make_users(ONE)
    first = users.begin("id1").verifier()
    assert counted.count == 1
    assert users.begin("id1").verifier() is first
    check(users, "id1", "secret1")
    assert counted.of(lambda: check(users, "id1", "secret1")) == 0, "it has been proved"


def test_a_stored_verifier_is_used_as_it_is(make_users: MakeUsers, counted: Counted) -> None:
    users = make_users(STORED)
    assert str(users.begin("id2").verifier()) == STORED.verifier
    assert counted.count == 0


def test_salts_look_alike(make_users: MakeUsers) -> None:
    users = make_users(ONE, STORED, User(id="off", secret="x", disabled=True))

    def salts() -> list[bytes]:
        logins = [users.begin(user_id) for user_id in ("id1", "id2", "off", "unknown", "unknown2")]
        return [verifier.salt for login in logins if (verifier := login.verifier())]

    first = salts()
    assert len(set(first)) == 5
    assert {len(salt) for salt in first} == {16}
    assert first == salts()


def test_the_id_of_a_user_is_his_host_prefix(make_users: MakeUsers) -> None:
    users = make_users(User(id="Id1", secret="x"), STORED, User(id="off", secret="x", disabled=True))
    assert users.reserved_for_others("id1", "id2")
    assert users.reserved_for_others("off", "id2")
    assert not users.reserved_for_others("id1", "Id1")
    assert users.reserved_for_others("id1", "ID1"), "a guest who looks like him is another"
    assert not users.reserved_for_others("free", "id2")


def test_ids_that_differ_in_case_alone_share_their_prefix(make_users: MakeUsers) -> None:
    users = make_users(User(id="Id1", secret="x"), User(id="id1", secret="y"))
    assert not users.reserved_for_others("id1", "id1")
    assert not users.reserved_for_others("id1", "Id1")


@pytest.mark.parametrize("login", ["verifier", "check"])
@pytest.mark.parametrize("known", ["used", "new", "stored", "disabled", "disabled, right secret"])
@pytest.mark.parametrize("options", [ServerOptions(), API], ids=["", "authAPI"])
def test_the_work_does_not_tell_an_unknown_id(
    make_users: MakeUsers,
    counted: Counted,
    apis: list[FakeAPI],
    login: str,
    known: str,
    options: ServerOptions,
) -> None:
    """Most ids that exist have logged in before; one that is asked for the first time must not stand out. And the
    authAPI is asked about them all."""
    users = make_users(ONE, STORED, User(id="off", secret="secret3", disabled=True), options=options)
    if known == "used":
        check(users, "id1", "secret1")
    known_id = {"stored": "id2", "disabled": "off", "disabled, right secret": "off"}.get(known, "id1")
    secret = "secret3" if known.endswith("right secret") else "wrong"

    def try_it(user_id: str) -> tuple[int, int]:
        asked = len(apis[-1].asked) if apis else 0
        if login == "verifier":
            work = counted.of(lambda: users.begin(user_id).verifier())
        else:
            work = counted.of(lambda: is_right(users, user_id, secret))
        return work, len(apis[-1].asked) - asked if apis else 0

    assert [try_it("unknown"), try_it("unknown")] == [try_it(known_id), try_it(known_id)]


@pytest.mark.parametrize("secret", ["\x00", "a\x07b", "͸", "\ue000"])
@pytest.mark.parametrize("user_id", ["id1", "unknown", "\x00"])
@pytest.mark.parametrize("options", [ServerOptions(), ANY, API], ids=["", "any", "authAPI"])
def test_a_secret_that_cannot_be_used_is_wrong(
    make_users: MakeUsers, secret: str, user_id: str, options: ServerOptions
) -> None:
    """It comes from outside: a refusal, and no traceback in the log."""
    assert not is_right(make_users(ONE, options=options), user_id, secret)


def test_a_user_whose_secret_cannot_be_used(make_users: MakeUsers, caplog: pytest.LogCaptureFixture) -> None:
    users = make_users(
        User(id="id1", secret="\x00"), User(id="id2", verifier="SCRAM-SHA-256$4096:AA==$AA==:AA==")
    )
    assert "user id1 cannot log in" in caplog.text
    assert "user id2 cannot log in" in caplog.text
    assert not is_right(users, "id1", "\x00")
    assert users.begin("id2").verifier() == users.begin("id2").verifier()


def test_ids_and_secrets_are_not_run_together(make_users: MakeUsers) -> None:
    users = make_users(User(id="a", secret="bc"), User(id="ab", secret="xy"))
    assert is_right(users, "a", "bc")
    assert not is_right(users, "ab", "c")


def test_a_disabled_user(make_users: MakeUsers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    users = make_users(User(id="off", secret="secret3", disabled=True), ONE)
    assert users.get("off") is None
    assert not is_right(users, "off", "secret3")
    assert refused(lambda: prove(users.begin("off"), "secret3")) == "invalid_credentials"
    assert "user off is disabled and tries to log in" in caplog.messages


def test_the_servers_own_user(make_users: MakeUsers) -> None:
    own = User(id="self", secret="own secret")
    users = make_users(ONE, options=ANY, own=own)
    assert users.is_own("self")
    assert not users.is_own("id1")
    assert is_right(users, "self", "own secret")
    assert not is_right(users, "self", "another")
    assert users.replace(table(ONE), ANY) == set()
    assert is_right(users, "self", "own secret")


# allowAnyClient


def test_without_it_nobody_else_comes_in(make_users: MakeUsers) -> None:
    users = make_users(ONE)
    assert not is_right(users, "guest", "x")
    assert users.begin("guest").verifier() is not None, "not asked to enrol"


def test_the_first_secret_of_an_id_counts_until_its_last_tunnel_goes(make_users: MakeUsers) -> None:
    users = make_users(ONE, options=ANY)
    first = check(users, "guest", "its secret")
    assert users.get("guest") is first.user
    assert first.user.id == "guest"
    second = check(users, "guest", "its secret")
    assert not is_right(users, "guest", "another")
    first.close()
    first.close()
    assert not is_right(users, "guest", "another")
    second.close()
    assert users.get("guest") is None
    third = check(users, "guest", "another")
    assert not is_right(users, "guest", "its secret")
    third.close()
    assert left_of_guests(users) == []


def test_users_of_the_configuration_come_first(make_users: MakeUsers) -> None:
    users = make_users(ONE, User(id="off", secret="x", disabled=True), options=ANY)
    assert not is_right(users, "id1", "another")
    assert not is_right(users, "off", "another")
    for user_id in ("id1", "off"):
        assert users.begin(user_id).verifier() is not None, "not asked to enrol"
    assert users.begin("id1").verifier() is not None


def test_enrolling(make_users: MakeUsers) -> None:
    users = make_users(options=ANY)
    first = users.begin("guest")
    assert first.verifier() is None
    enrolled = derive("its secret", secrets.token_bytes(16), MIN_ITERATIONS)
    first.enrolled(enrolled)
    assert first.user.id == "guest"
    second = users.begin("guest")
    assert second.verifier() is enrolled
    second.proved()
    first.close()
    prove(users.begin("guest"), "its secret")
    assert refused(lambda: prove(users.begin("guest"), "another")) == "invalid_credentials"


def test_both_protocols_share_the_first_secret(make_users: MakeUsers) -> None:
    users = make_users(options=ANY)
    shown = check(users, "shown", "its secret")
    prove(users.begin("shown"), "its secret")
    enrolled = users.begin("enrolled")
    enrolled.verifier()
    enrolled.enrolled(derive("its secret", secrets.token_bytes(16), MIN_ITERATIONS))
    assert is_right(users, "enrolled", "its secret")
    assert not is_right(users, "enrolled", "another")
    shown.close()


def test_other_openings_wait_for_the_one_that_enrols(make_users: MakeUsers) -> None:
    """A client opens its tunnels one soon after the other, each with another salt."""
    users = make_users(options=ANY)
    first = users.begin("guest")
    assert first.verifier() is None
    second, shown = users.begin("guest"), users.begin("guest")
    waiting = gevent.spawn(prove, second, "its secret"), gevent.spawn(shown.check, "its secret", [])
    gevent.sleep(0.02)
    assert not any(each.ready() for each in waiting)
    first.enrolled(derive("its secret", secrets.token_bytes(16), MIN_ITERATIONS))
    gevent.joinall(waiting, timeout=10, raise_error=True)
    assert second.user.id == shown.user.id == "guest"


def test_an_enrolling_that_is_given_up(make_users: MakeUsers) -> None:
    users = make_users(options=ANY)
    first, second = users.begin("guest"), users.begin("guest")
    assert first.verifier() is None
    waiting = gevent.spawn(second.verifier)
    gevent.sleep(0)
    first.close()
    waiting.join(10)
    assert waiting.value is None
    assert waiting.successful(), "it enrols now"
    assert refused(lambda: first.enrolled(derive("x", SALT, MIN_ITERATIONS))) == "invalid_credentials"
    second.close()
    assert users._guests._enrolling == {}


def test_one_secret_of_several_that_come_at_once(make_users: MakeUsers) -> None:
    users = make_users(options=ANY)
    logins = [users.begin("guest") for _ in range(6)]
    tries = [
        gevent.spawn(login.check, f"secret {number % 2}", []) for number, login in enumerate(logins)
    ]  # fmt: skip
    gevent.joinall(tries, timeout=10)
    came_in = [number % 2 for number, each in enumerate(tries) if each.successful()]
    assert len(came_in) == 3
    assert len(set(came_in)) == 1
    for each in tries:
        assert each.successful() or isinstance(each.exception, RemoteRefused)


def test_a_secret_proved_while_its_last_tunnel_went(make_users: MakeUsers) -> None:
    users = make_users(options=ANY)
    first = check(users, "guest", "its secret")
    second = users.begin("guest")
    second.verifier()
    first.close()
    second.proved()
    assert second.user.id == "guest"
    assert is_right(users, "guest", "its secret")
    assert not is_right(users, "guest", "another")


def test_a_secret_proved_while_another_took_the_id(make_users: MakeUsers) -> None:
    users = make_users(options=ANY)
    first = check(users, "guest", "its secret")
    second = users.begin("guest")
    second.verifier()
    first.close()
    check(users, "guest", "another")
    assert refused(second.proved) == "invalid_credentials"


def test_a_verifier_that_would_cost_us_too_much(make_users: MakeUsers) -> None:
    login = make_users(options=ANY).begin("guest")
    login.verifier()
    expensive = Verifier(SALT, bytes(32), bytes(32), MAX_ENROLLED_ITERATIONS + 1)
    assert refused(lambda: login.enrolled(expensive)) == "protocol_error"


def test_a_flood_of_ids_leaves_nothing(make_users: MakeUsers) -> None:
    users = make_users(options=ANY)
    for number in range(300):
        check(users, f"guest{number}", "x").close()
        login = users.begin(f"enrolling{number}")
        login.verifier()
        login.close()
    assert left_of_guests(users) == []


# authAPI


def test_unknown_ids_are_asked_of_the_api(make_users: MakeUsers, apis: list[FakeAPI]) -> None:
    users = make_users(ONE, options=API)
    assert is_right(users, "id1", "secret1")
    assert apis[0].asked == [], "it is known here"
    assert not is_right(users, "apple", "cake")
    login = check(users, "apple", "pie", "tart", "cake")
    assert apis[0].asked[-1] == ("apple", "pie", ("tart", "cake"))
    assert login.user.id == "apple"
    assert login.hosts == frozenset({"apple", "tart"})
    assert users.get("apple") is login.user
    login.close()
    assert users.get("apple") is None
    assert left_of_guests(users) == []


def test_the_api_does_not_decide_about_ids_of_the_configuration(
    make_users: MakeUsers, apis: list[FakeAPI]
) -> None:
    users = make_users(ONE, options=API)
    assert not is_right(users, "id1", "other")
    assert apis[0].asked == [("id1", "other", ())], "so that nobody sees from the time which ids these are"


def test_each_login_is_asked_and_scram_does_not_do(make_users: MakeUsers, apis: list[FakeAPI]) -> None:
    users = make_users(options=API)
    check(users, "apple", "pie")
    check(users, "apple", "pie")
    assert len(apis[0].asked) == 2
    apis[0].known["apple"] = ("cake", frozenset())
    assert not is_right(users, "apple", "pie")
    assert is_right(users, "apple", "cake")
    assert refused(lambda: prove(users.begin("apple"), "pie")) == "invalid_credentials"


def test_where_all_ids_are_the_apis_nothing_is_derived(make_users: MakeUsers, counted: Counted) -> None:
    users = make_users(options=API, own=User(id="self", verifier=STORED.verifier))
    assert counted.of(lambda: check(users, "apple", "pie")) == 0


def test_an_api_that_is_down(make_users: MakeUsers, apis: list[FakeAPI]) -> None:
    users = make_users(ONE, options=API)
    login = check(users, "apple", "pie")
    apis[0].down = True
    assert refused(lambda: check(users, "apple", "pie")) == "auth_unavailable"
    assert refused(lambda: check(users, "id1", "wrong")) == "auth_unavailable"
    assert is_right(users, "id1", "secret1")
    assert login.user.id == "apple", "who is in stays in"


def test_other_services_are_asked_for_again(make_users: MakeUsers, apis: list[FakeAPI]) -> None:
    users = make_users(ONE, options=API)
    login = check(users, "apple", "pie", "tart")
    apis[0].known["apple"] = ("pie", frozenset({"cake"}))
    login.ask_again(["cake"])
    assert apis[0].asked[-1] == ("apple", "pie", ("cake",))
    assert login.hosts == frozenset({"apple", "cake"})
    apis[0].down = True
    assert refused(lambda: login.ask_again(["tart"])) == "auth_unavailable"
    assert login.hosts == frozenset({"apple", "cake"})
    local = check(users, "id1", "secret1")
    local.ask_again(["tart"])
    assert local.hosts is None


def test_the_api_wins_over_allow_any_client(make_users: MakeUsers, caplog: pytest.LogCaptureFixture) -> None:
    users = make_users(options=ServerOptions(auth_api=API.auth_api, allow_any_client=True))
    assert not is_right(users, "guest", "x")
    assert users.begin("guest").verifier() is not None, "not asked to enrol"
    assert "allowAnyClient has no effect" in caplog.text


def test_a_login_closed_while_the_api_was_asked(
    make_users: MakeUsers, apis: list[FakeAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    users = make_users(options=API)
    login = users.begin("apple")
    ask = apis[0].ask

    def slow(*args: Any) -> Any:
        login.close()
        return ask(*args)

    monkeypatch.setattr(apis[0], "ask", slow)
    assert refused(lambda: login.check("pie", [])) == "invalid_credentials"
    assert left_of_guests(users) == []


# limits


def test_guests_have_the_limits_of_the_server(make_users: MakeUsers) -> None:
    options = ServerOptions(allow_any_client=True, connections=7, speed=5000, host_number=2)
    users = make_users(options=options)
    guest = check(users, "guest", "x")
    assert (guest.user.connections, guest.user.speed, guest.user.host_number) == (7, 5000, 2)
    users.replace({}, ServerOptions(allow_any_client=True, connections=8))
    assert (guest.user.connections, guest.user.speed) == (8, 0)


def test_a_user_has_one_shaper(make_users: MakeUsers) -> None:
    users = make_users(User(id="slow", secret="x", speed=1000), ONE, options=ANY)
    shaper = users.shaper("slow")
    assert shaper is not None
    assert users.shaper("slow") is shaper
    assert users.shaper("id1") is None
    assert users.shaper("unknown") is None


def test_the_shaper_of_a_guest_goes_with_him(make_users: MakeUsers) -> None:
    users = make_users(options=ServerOptions(allow_any_client=True, speed=1000))
    login = check(users, "guest", "x")
    assert users.shaper("guest") is not None
    login.close()
    assert users._speeds.users() == []


@pytest.mark.parametrize("speed", [0, 77_000])
def test_a_new_speed_counts_for_what_runs(make_users: MakeUsers, speed: int) -> None:
    users = make_users(User(id="slow", secret="x", speed=1000))
    shaper = users.shaper("slow")
    assert shaper is not None
    users.replace(table(User(id="slow", secret="x", speed=speed)), ServerOptions())
    assert shaper.up._speed == shaper.down._speed == speed
    assert (users.shaper("slow") is shaper) == bool(speed)


# replacing


def test_replacing_the_users(make_users: MakeUsers, counted: Counted) -> None:
    changed = User(id="changed", secret="before")
    removed = User(id="removed", secret="x")
    disabled = User(id="off", secret="x")
    users = make_users(ONE, STORED, changed, removed, disabled)
    logins = [check(users, user.id, user.secret or "secret2") for user in (ONE, changed, removed, disabled)]
    kept = users.begin("id1").verifier()
    more = User(id="id1", secret="secret1", connections=50)
    after = [more, STORED, User(id="changed", secret="after"), User(id="off", secret="x", disabled=True)]
    counted.count = 0
    assert users.replace(table(*after, User(id="new", secret="y")), ServerOptions()) == {
        "changed",
        "removed",
        "off",
    }
    settled(users)
    assert counted.count == 2, "of changed and new; the others' keys are kept"
    assert users.begin("id1").verifier() is kept
    assert logins[0].user is more
    for login in logins[1:]:
        assert refused(partial(getattr, login, "user")) == "invalid_credentials"
        login.close()
    assert is_right(users, "changed", "after")
    assert not is_right(users, "changed", "before")
    assert not is_right(users, "removed", "x")
    assert not is_right(users, "off", "x")
    assert is_right(users, "new", "y")
    assert not users.reserved_for_others("removed", "id1")
    assert users.reserved_for_others("new", "id1")


def test_a_user_that_is_enabled_again(make_users: MakeUsers) -> None:
    users = make_users(User(id="off", secret="x", disabled=True))
    users.replace(table(User(id="off", secret="x")), ServerOptions())
    assert is_right(users, "off", "x")
    prove(users.begin("off"), "x")


def test_a_secret_replaced_by_its_verifier(make_users: MakeUsers) -> None:
    users = make_users(ONE)
    stored = User(id="id1", verifier=str(derive("secret1", SALT, MIN_ITERATIONS)))
    assert users.replace(table(stored), ServerOptions()) == {"id1"}
    assert is_right(users, "id1", "secret1")


@pytest.mark.parametrize("how", ["verifier", "check"])
def test_a_secret_that_changes_while_it_is_proved(make_users: MakeUsers, how: str) -> None:
    users = make_users(ONE)
    login = users.begin("id1")
    replacement = table(User(id="id1", secret="another"))
    if how == "verifier":
        login.verifier()
        users.replace(replacement, ServerOptions())
        assert refused(login.proved) == "invalid_credentials"
    else:
        checking = gevent.spawn(login.check, "secret1", [])
        gevent.sleep(0)
        users.replace(replacement, ServerOptions())
        checking.join(10)
        assert isinstance(checking.exception, RemoteRefused)


def test_guests_when_the_rules_change(make_users: MakeUsers, apis: list[FakeAPI]) -> None:
    users = make_users(options=ANY)
    stays, becomes_user = check(users, "stays", "x"), check(users, "id1", "x")
    assert users.replace(table(ONE), ANY) == {"id1"}
    assert stays.user.id == "stays"
    becomes_user.close()
    assert users.replace(table(ONE), API) == {"stays"}
    stays.close()
    by_api = check(users, "apple", "pie")
    elsewhere = ServerOptions(auth_api="http://127.0.0.1:2/")
    assert users.replace(table(ONE), elsewhere) == set(), "they stay when another API is to be asked"
    assert apis[0].closed
    assert by_api.user.id == "apple"
    assert users.replace(table(ONE), ANY) == {"apple"}
    by_api.close()
    assert left_of_guests(users) == []


def test_a_guest_that_comes_back_before_its_old_login_is_closed(make_users: MakeUsers) -> None:
    """replace() has ended the old one: closing it must not end the new one."""
    users = make_users(options=ANY)
    old = check(users, "guest", "x")
    users.replace({}, API)
    users.replace({}, ANY)
    new = check(users, "guest", "y")
    old.close()
    assert new.user.id == "guest"
    assert not is_right(users, "guest", "x")
