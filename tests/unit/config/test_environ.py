"""Options from environment variables."""

import pytest

from gtapp.config.environ import check_names, read_environ, sets_work
from gtapp.config.options import OPTIONS, SERVICE
from gtapp.config.problems import Problems
from gtapp.config.values import Address
from gtapp.errors import ConfigError


def values_of(environ, options=OPTIONS["server"]):
    problems = Problems()
    check_names(environ, problems)
    given = read_environ(environ, options, problems)
    problems.check()
    return {key: value.value for key, value in given.items()}


def test_variables_are_the_keys_in_upper_snake_case():
    environ = {"GT_TLS_ADDR": ":443", "GT_HTTP_MUX_HEADER": "X-Host", "GT_BBR": "true", "PATH": "/bin"}
    assert values_of(environ) == {"tlsAddr": Address("", 443), "httpMUXHeader": "X-Host", "bbr": True}


def test_commas_separate_the_items_of_a_list():
    assert values_of({"GT_ID": "a, b", "GT_SECRET": "s,t"}) == {"id": ("a", "b"), "secret": ("s", "t")}


def test_an_empty_variable_sets_nothing():
    assert values_of({"GT_ADDR": ""}) == {}
    assert not sets_work({"GT_ADDR": "", "PATH": "/bin", "GT_DEBUG_STATS": "/tmp/stats"})


def test_how_gt_logs_and_where_its_console_is_gives_it_nothing_to_do():
    assert not sets_work({"GT_WEB_ADDR": ":8000", "GT_PASSWORD": "x", "GT_LOG_LEVEL": "debug"})


def test_a_variable_of_another_role_is_none_of_our_business():
    assert values_of({"GT_REMOTE": "tcp://a", "GT_LOCAL": "nonsense"}) == {}
    assert sets_work({"GT_REMOTE": "tcp://a"})


def test_one_service_can_be_set():
    service = values_of({"GT_LOCAL": "http://web", "GT_HOST_PREFIX": "p"}, SERVICE)
    assert {key: str(value) for key, value in service.items()} == {
        "local": "http://web:80",
        "hostPrefix": "p",
    }


@pytest.mark.parametrize(
    "name", ["GT_PORT", "GT_SERVICE_HOST", "GT_SERVICE_PORT_HTTP", "GT_PORT_80_TCP_ADDR", "GT_VERSION"]
)
def test_other_names_are_let_be(name):
    assert values_of({name: "x", "GT_DEBUG_STATS": "/tmp/stats"}) == {}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"GT_TLSADDR": "1"}, "GT_TLSADDR: there is no such option, did you mean GT_TLS_ADDR?"),
        ({"GT_SECRETS": "1"}, "GT_SECRETS: there is no such option, did you mean GT_SECRET?"),
        (
            {"GT_TIMEOUT": "90"},
            'GT_TIMEOUT: found "90", allowed: a duration such as 30s, 5m or 1m500ms, from 100ms to 720h',
        ),
        ({"GT_PROTOCOLS": "1,2"}, 'GT_PROTOCOLS: found "2", allowed: 1 or 3'),
        (
            {"GT_SECRET": "a,"},
            "GT_SECRET: found a value that is not shown, allowed: text of 1 to 200 bytes, no control characters",
        ),
    ],
)
def test_a_wrong_variable_is_an_error_that_names_it(environ, expected):
    with pytest.raises(ConfigError) as caught:
        values_of(environ)
    assert str(caught.value) == expected
