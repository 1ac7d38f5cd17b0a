"""Command line flags, in every form and wrongly used."""

import pytest

from gtapp.config.flags import read_flags
from gtapp.config.options import OPTIONS, SERVICE
from gtapp.config.problems import Problems
from gtapp.config.values import Address
from gtapp.errors import ConfigError


def flags_of(role, words):
    problems = Problems()
    flags = read_flags(words, OPTIONS[role], SERVICE if role == "client" else {}, problems)
    problems.check()
    return flags


def values_of(role, words):
    return {key: given.value for key, given in flags_of(role, words).options.items()}


def services_of(line):
    services = flags_of("client", line.split()).services
    return [{key: str(given.value) for key, given in service.items()} for service in services]


@pytest.mark.parametrize("words", [["--addr", "80"], ["-addr", "80"], ["--addr=80"], ["-addr=80"]])
def test_the_forms_of_a_flag(words):
    assert values_of("server", words) == {"addr": Address("", 80)}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--bbr"], True),
        (["-bbr"], True),
        (["--bbr=true"], True),
        (["--bbr=false"], False),
        (["--bbr=0"], False),
    ],
)
def test_a_boolean_stands_alone_or_has_its_value_after_an_equals_sign(words, value):
    assert values_of("server", [*words, "--addr", "1"])["bbr"] is value


@pytest.mark.parametrize("flag", ["-c", "--c", "-config", "--config"])
def test_the_config_file(flag):
    assert flags_of("server", [flag, "gt.yml"]).path == "gt.yml"
    assert flags_of("server", [f"{flag}=gt.yml"]).path == "gt.yml"


def test_a_list_repeats_its_flag():
    words = ["-id", "a", "-secret", "s", "-id", "b", "-secret", "t"]
    assert values_of("server", words) == {"id": ("a", "b"), "secret": ("s", "t")}


def test_a_value_may_begin_with_a_dash_or_hold_an_equals_sign():
    assert values_of("server", ["--secret", "-x", "--secret=--id", "--secret", "a=b"]) == {
        "secret": ("-x", "--id", "a=b")
    }


def test_an_empty_value_is_a_value():
    assert values_of("server", ["--addr", "", "--logFile="]) == {"addr": None, "logFile": ""}


def test_service_flags_belong_to_the_local_before_them():
    line = (
        "--local http://a -hostPrefix 1 -localTimeout 5s"
        " --local tcp://b:22 -remoteTCPPort 2222 --id x"
        " -local http://c -useLocalAsHTTPHost"
    )
    assert services_of(line) == [
        {"local": "http://a:80", "hostPrefix": "1", "localTimeout": "5.0"},
        {"local": "tcp://b:22", "remoteTCPPort": "2222"},
        {"local": "http://c:80", "useLocalAsHTTPHost": "True"},
    ]


def test_with_one_service_the_order_does_not_matter():
    assert services_of("-hostPrefix p --local http://a") == [{"hostPrefix": "p", "local": "http://a:80"}]


@pytest.mark.parametrize(
    ("role", "words", "expected"),
    [
        ("server", "--adr 80", '"--adr" is not an option here, did you mean "--addr"?'),
        ("server", "-Addr=80", '"-Addr" is not an option here, did you mean "--addr"?'),
        ("server", "--zzz 80 --qqq=1", '"--zzz" is not an option here\n"--qqq" is not an option here'),
        ("server", "--remote a", '"--remote" is not an option here'),
        ("server", "-s reload", '"-s" is not an option here'),
        ("server", "-", '"-" is not an option here'),
        ("server", "--", '"--" is not an option here'),
        ("server", "80", '"80" is not an option, options begin with --'),
        ("server", "--bbr false", '"false" is not an option, options begin with --'),
        ("server", "--addr", "--addr: needs a value"),
        ("server", "--addr --id x", "--addr: needs a value"),
        ("server", "-c", "--c: needs a value"),
        ("server", "--addr 1 --addr=2", "--addr: is there twice"),
        ("server", "-c a --config b", "-config: is there twice"),
        (
            "server",
            "--connections ten",
            '--connections: found "ten", allowed: a whole number from 0 to 1000000',
        ),
        (
            "server",
            "--logLevel loud",
            '--logLevel: found "loud", allowed: trace, debug, info, warn, error, fatal, panic or disable',
        ),
        ("client", "--hostPrefix a", "--hostPrefix: belongs to a service, put it after its --local"),
        (
            "client",
            "--hostPrefix a --local http://a --local http://b",
            "--hostPrefix: belongs to a service, put it after its --local",
        ),
        ("client", "--local http://a --hostPrefix a --hostPrefix b", "--hostPrefix: is there twice"),
        ("client", "--hostPrefix a --local http://a --hostPrefix b", "--hostPrefix: is there twice"),
        (
            "client",
            "--local 127.0.0.1:80",
            '--local: found "127.0.0.1:80", allowed: one of http://host:port, https://host:port,'
            " tcp://host:port, without a path",
        ),
        (
            "client",
            f"--secret {'s' * 201}",
            "--secret: found a value that is not shown, allowed: text of 1 to 200 bytes, no control characters",
        ),
    ],
)
def test_a_wrong_command_line_is_an_error_that_names_the_flag(role, words, expected):
    with pytest.raises(ConfigError) as caught:
        flags_of(role, words.split())
    assert str(caught.value) == expected
