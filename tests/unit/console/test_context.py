"""What an application is about: the configuration as it is on disk now."""

import pytest

from gtapp.config.load import ClientConfig, ServerConfig
from gtapp.console.context import EXTENSION, console
from gtapp.errors import ConfigError
from gtapp.observe import logs
from tests.unit.console.conftest import PASSWORD, SERVER


def test_it_is_found_in_a_view(app):
    with app.test_request_context("/"):
        assert console() is app.extensions[EXTENSION]


def test_the_configuration_of_each_role(make_app):
    assert isinstance(make_app().extensions[EXTENSION].config(), ServerConfig)
    assert isinstance(make_app(role="client").extensions[EXTENSION].config(), ClientConfig)


def test_it_is_what_is_on_disk_now(app):
    about = app.extensions[EXTENSION]
    first = about.config()
    assert about.config() is first, "it is not loaded again without need"
    about.store.path.write_text(SERVER.replace("alice", "bobby"))
    assert set(about.config().users) == {"bobby"}


def test_with_its_users_file(make_app, tmp_path):
    users = tmp_path / "users.yml"
    users.write_text("carol:\n  secret: carols-secret\n")
    about = make_app(text=SERVER.replace("  admin:", f"  users: {users}\n  admin:")).extensions[EXTENSION]
    assert set(about.config().users) == {"alice", "carol"}
    users.write_text("david:\n  secret: davids-secret\n")
    assert set(about.config().users) == {"alice", "david"}


def test_while_it_is_broken(app):
    """Who only has to go on has what it was before."""
    about = app.extensions[EXTENSION]
    before = about.config()
    about.store.path.write_text("nonsense: [")
    with pytest.raises(ConfigError):
        about.config()
    assert about.usable_config() is before
    about.store.path.unlink()
    assert about.usable_config() is before
    about.store.path.write_text(SERVER)
    assert about.config().users.keys() == {"alice"}


def test_one_that_was_never_right(make_app):
    about = make_app(text="nonsense: [").extensions[EXTENSION]
    with pytest.raises(ConfigError):
        about.usable_config()
    page = make_app(text="nonsense: [").test_client().get("/login")
    assert page.status_code == 503


def test_there_is_none_yet(make_app):
    with pytest.raises(ConfigError, match="there is no configuration yet"):
        make_app(setup=True).extensions[EXTENSION].config()


def test_flags_and_environment_count(make_app, tmp_path):
    words = ("-c", str(tmp_path / "server.yml"), "--reconnectTimes", "7")
    about = make_app(words=words, environ={"GT_TIMEOUT": "33s"}).extensions[EXTENSION]
    assert (about.config().options.reconnect_times, about.config().options.timeout) == (7, 33.0)


def test_its_secrets_are_hidden(app):
    app.extensions[EXTENSION].config()
    assert PASSWORD not in logs.redact(f"the password is {PASSWORD}")
    assert "alices-secret" not in logs.redact("and the secret alices-secret")


@pytest.mark.parametrize(
    ("listen", "port", "on_loopback"),
    [
        ("127.0.0.1:8000", "8000", True),
        ("127.1.2.3:80", "80", True),
        ("[::1]:8000", "8000", True),
        ("0.0.0.0:8000", "8000", False),
        ("[::]:8000", "8000", False),
        ("192.0.2.1:8000", "8000", False),
        ("[2001:db8::1]:443", "443", False),
    ],
)
def test_where_it_listens(make_app, listen, port, on_loopback):
    about = make_app(listen=listen).extensions[EXTENSION]
    assert (about.port, about.on_loopback) == (port, on_loopback)
