"""The option table: that it is whole, consistent with itself and with its dataclasses."""

import dataclasses

import pytest

from gtapp.config.options import (
    OPTIONS,
    SERVICE,
    USER,
    ClientOptions,
    ConnectOptions,
    ServerOptions,
    Service,
    User,
)
from gtapp.config.schema import Option, Section
from gtapp.config.values import URL

CONSOLE = "webAddr webCertFile webHosts webIdleTimeout webKeyFile admin password signingKey"
SHARED = f"""
    {CONSOLE}
    logFile logFileMaxSize logFileMaxCount logLevel logFormat
    sentryDSN sentryLevel sentrySampleRate sentryRelease sentryEnvironment sentryServerName sentryDebug
"""
LIMITS = "tcpRange tcpNumber speed connections hostNumber hostRegex hostWithID"
KEYS = {
    "server": f"""
        domain addr tlsAddr tlsVersion certFile keyFile sniAddr quicAddr bbr id secret users authAPI allowAnyClient
        {LIMITS} reconnectTimes reconnectDuration httpMUXHeader maxHandShakeOptions
        timeout timeoutOnUnidirectionalTraffic apiAddr apiCertFile apiKeyFile apiTLSVersion stunAddr stunLogLevel
        {SHARED} protocols quicEngine workers trustedProxies routePerRequest drainTimeout""",
    "client": f"""
        id secret remote remoteAPI remoteCert remoteCertInsecure remoteConnections remoteIdleConnections
        remoteTimeout reconnectDelay remoteSTUN webrtcConnections webrtcConnectionIdleTimeout webrtcMinPort
        webrtcMaxPort webrtcLogLevel webrtcThreadMode tcpForwardAddr tcpForwardHostPrefix tcpForwardConnections
        {SHARED} bbr protocol allowPlainSecret quicEngine workers""",
    "connect": "remote stunAddr tcpForwardAddr tcpForwardHostPrefix",
    "service": """
        local hostPrefix remoteTCPPort remoteTCPRandom localTimeout useLocalAsHTTPHost
        proxyProtocol forwardedFor basicAuth allowIPs denyIPs""",
    "user": f"secret verifier disabled {LIMITS} allowIPs denyIPs",
}
LATER = {
    "server": "quicAddr bbr quicEngine stunAddr stunLogLevel",
    "client": """
        bbr quicEngine remoteSTUN webrtcConnections webrtcConnectionIdleTimeout webrtcMinPort webrtcMaxPort
        webrtcLogLevel webrtcThreadMode tcpForwardAddr tcpForwardHostPrefix tcpForwardConnections""",
    "connect": KEYS["connect"],
    "service": "",
    "user": "",
}
TABLES = {**OPTIONS, "service": SERVICE, "user": USER}
CLASSES = {
    "server": ServerOptions,
    "client": ClientOptions,
    "connect": ConnectOptions,
    "service": Service,
    "user": User,
}
ENTRIES = [
    pytest.param(entry, id=f"{name}-{key}") for name, table in TABLES.items() for key, entry in table.items()
]


@pytest.mark.parametrize("name", TABLES)
def test_the_table_has_every_key(name):
    assert sorted(TABLES[name]) == sorted(KEYS[name].split())


@pytest.mark.parametrize("name", TABLES)
def test_what_is_not_available_yet(name):
    later = [key for key, entry in TABLES[name].items() if not entry.available]
    assert sorted(later) == sorted(LATER[name].split())


@pytest.mark.parametrize("name", TABLES)
def test_attributes_are_the_keys_in_snake_case_and_hold_the_default(name):
    fields = {field.name: field for field in dataclasses.fields(CLASSES[name])}
    for entry in TABLES[name].values():
        default = fields[entry.name].default
        assert default == entry.default or (entry.key == "local" and default is dataclasses.MISSING)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_default_is_one_of_the_allowed_values(entry: Option):
    if entry.default in (None, "", ()):
        return
    shown = entry.show(entry.default)
    texts = shown if entry.many else [shown]
    values = [entry.kind.parse(str(text)) for text in texts]
    assert values == list(entry.default) if entry.many else values == [entry.default]


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_is_one_line_in_both_languages(entry: Option):
    for text in (entry.en, entry.zh):
        assert text
        assert text == text.strip()
        assert not text.endswith((".", "。"))
        assert len(text) <= 90
    assert entry.en.isascii()
    assert not entry.zh.isascii() or entry.zh == entry.en
    assert entry.kind.allowed


@pytest.mark.parametrize(
    ("role", "key", "name", "flag", "env"),
    [
        ("server", "tlsAddr", "tls_addr", "--tlsAddr", "GT_TLS_ADDR"),
        ("server", "httpMUXHeader", "http_mux_header", "--httpMUXHeader", "GT_HTTP_MUX_HEADER"),
        ("server", "hostWithID", "host_with_id", "--hostWithID", "GT_HOST_WITH_ID"),
        ("server", "apiTLSVersion", "api_tls_version", "--apiTLSVersion", "GT_API_TLS_VERSION"),
        ("server", "authAPI", "auth_api", "--authAPI", "GT_AUTH_API"),
        ("client", "remoteSTUN", "remote_stun", "--remoteSTUN", "GT_REMOTE_STUN"),
        ("client", "sentryDSN", "sentry_dsn", "--sentryDSN", "GT_SENTRY_DSN"),
        ("service", "remoteTCPPort", "remote_tcp_port", "--remoteTCPPort", "GT_REMOTE_TCP_PORT"),
        (
            "service",
            "useLocalAsHTTPHost",
            "use_local_as_http_host",
            "--useLocalAsHTTPHost",
            "GT_USE_LOCAL_AS_HTTP_HOST",
        ),
        ("service", "allowIPs", "allow_ips", "--allowIPs", "GT_ALLOW_IPS"),
        ("user", "denyIPs", "deny_ips", "--denyIPs", "GT_DENY_IPS"),
    ],
)
def test_names(role, key, name, flag, env):
    entry = TABLES[role][key]
    assert (entry.name, entry.flag, entry.env) == (name, flag, env)


def test_a_flag_belongs_to_the_client_or_to_a_service_not_to_both():
    assert OPTIONS["client"].keys().isdisjoint(SERVICE)


def test_tables_are_in_the_order_of_their_sections():
    order = list(Section)
    for table in TABLES.values():
        places = [order.index(entry.section) for entry in table.values()]
        assert places == sorted(places)


def test_secrets_are_marked_and_kept_out_of_repr():
    marked = {key for table in TABLES.values() for key, entry in table.items() if entry.secret}
    assert marked == {"secret", "verifier", "password", "signingKey", "sentryDSN", "basicAuth"}
    assert "s3cret" not in repr(ServerOptions(secret=("s3cret",)))
    assert "s3cret" not in repr(ClientOptions(secret="s3cret"))
    assert "s3cret" not in repr(User(id="a", secret="s3cret"))
    assert "s3cret" not in repr(Service(local=URL("http", "a", 80), basic_auth="s3cret"))
