"""The option table: every option of GT, once. YAML keys, flags, variables, --help and checks come from here.

To add an option, add a field: its type and attribute, then key, kind, default, section, how a change applies,
and one line of help in English and in Chinese. `gtapp.config.schema.Option` says what each of these means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from gtapp.config.schema import Option, Section, option, option_list, options_of, required
from gtapp.config.values import (
    ADDRESS,
    BASIC_AUTH,
    BOOLEAN,
    CREDENTIAL,
    DOMAIN,
    DURATION,
    FILE,
    FRACTION,
    HEADER_NAME,
    HOST_PREFIX,
    NETWORK,
    PORT_RANGE,
    PROTOCOL,
    REGEX,
    SIZE,
    SPEED,
    TEXT,
    URL,
    VERIFIER,
    WEB_URL,
    WORKERS,
    Address,
    PortRange,
    choice,
    integer,
    ip_of,
    url,
)

LOG_LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")
TLS_VERSIONS = choice("tls1.1", "tls1.2", "tls1.3")
COUNT = integer(0, 1_000_000)
PORT = integer(0, 65535)
REMOTE = url({"tcp": 80, "tls": 443, "quic": 443}, default="tcp")
LOCAL = url({"http": 80, "https": 443, "tcp": None})

# An option is three lines: its name and type, what it takes, what it is for.
# fmt: off


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Logging, the same for every role."""

    log_file: str = option(
        "logFile", FILE, "", Section.LOGGING, "restart",
        en="log to this file instead of standard error", zh="日志文件，留空则输出到标准错误")
    log_file_max_size: int = option(
        "logFileMaxSize", SIZE, 512 * 1024 * 1024, Section.LOGGING, "restart",
        en="size at which a new log file is begun", zh="单个日志文件的最大大小")
    log_file_max_count: int = option(
        "logFileMaxCount", integer(1, 10_000), 7, Section.LOGGING, "restart",
        en="how many log files are kept", zh="保留的日志文件个数")
    log_level: str = option(
        "logLevel", choice(*LOG_LEVELS, "disable"), "info", Section.LOGGING, "live",
        en="least level logged: trace, debug, info, warn, error, fatal, panic or disable",
        zh="日志级别：trace、debug、info、warn、error、fatal、panic 或 disable")
    log_format: str = option(
        "logFormat", choice("text", "json"), "text", Section.LOGGING, "restart",
        en="lines for people or one JSON object a line", zh="日志格式：供人阅读的文本，或每行一个 JSON 对象")


@dataclass(frozen=True, kw_only=True)
class SentryOptions:
    """Error reports to a Sentry server."""

    sentry_dsn: str = option(
        "sentryDSN", TEXT, "", Section.SENTRY, "restart", secret=True,
        en="where reports go; none are sent without it", zh="Sentry DSN，留空则不上报")
    sentry_level: tuple[str, ...] = option_list(
        "sentryLevel", choice(*LOG_LEVELS), ("error", "fatal", "panic"), Section.SENTRY, "restart",
        en="log levels that are reported", zh="上报的日志级别")
    sentry_sample_rate: float = option(
        "sentrySampleRate", FRACTION, 1.0, Section.SENTRY, "restart",
        en="share of the events that is reported", zh="事件采样率")
    sentry_release: str = option(
        "sentryRelease", TEXT, "", Section.SENTRY, "restart",
        en="release named in reports, this version if empty", zh="上报的版本名，留空则为本程序版本")
    sentry_environment: str = option(
        "sentryEnvironment", TEXT, "", Section.SENTRY, "restart",
        en="environment named in reports", zh="上报的环境名")
    sentry_server_name: str = option(
        "sentryServerName", TEXT, "", Section.SENTRY, "restart",
        en="server named in reports", zh="上报的服务器名")
    sentry_debug: bool = option(
        "sentryDebug", BOOLEAN, False, Section.SENTRY, "restart",
        en="log what the reporting itself does", zh="输出 Sentry 自身的调试信息")


@dataclass(frozen=True, kw_only=True)
class ConsoleOptions:
    """The web console."""

    web_addr: Address | None = option(
        "webAddr", ADDRESS, None, Section.CONSOLE, "listeners",
        en="where the console listens", zh="管理后台的监听地址")
    web_cert_file: str = option(
        "webCertFile", FILE, "", Section.CONSOLE, "live",
        en="certificate of the console, auto makes one", zh="管理后台的证书文件，auto 表示自动生成")
    web_key_file: str = option(
        "webKeyFile", FILE, "", Section.CONSOLE, "live",
        en="key of that certificate", zh="管理后台的私钥文件")
    web_hosts: tuple[str, ...] = option_list(
        "webHosts", TEXT, (), Section.CONSOLE, "live",
        en="names by which the console is reached, such as that of a reverse proxy",
        zh="访问管理后台所用的域名，如反向代理的域名")
    web_idle_timeout: float = option(
        "webIdleTimeout", DURATION, 1800.0, Section.CONSOLE, "live",
        en="how long a browser may be idle before it is logged out, 0: no limit but twelve hours",
        zh="浏览器空闲多久后退出登录，0 表示仅受十二小时上限约束")
    admin: str = option(
        "admin", TEXT, "", Section.CONSOLE, "live",
        en="name of the console's administrator", zh="管理员用户名")
    password: str = option(
        "password", TEXT, "", Section.CONSOLE, "live", secret=True,
        en="password of the console's administrator, or its hash by gt.py hash-password",
        zh="管理员密码，或由 gt.py hash-password 生成的哈希")
    signing_key: str = option(
        "signingKey", TEXT, "", Section.CONSOLE, "live", secret=True,
        en="key that signs console sessions, random if empty", zh="会话签名密钥，留空则随机生成")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client may do: on the server for everybody, in an entry of `users` for that user."""

    tcp_range: tuple[PortRange, ...] = option_list(
        "tcpRange", PORT_RANGE, (), Section.LIMITS, "live",
        en="ports that clients may open, none without it", zh="允许客户端打开的端口范围，默认不允许")
    tcp_number: int = option(
        "tcpNumber", PORT, 0, Section.LIMITS, "live",
        en="how many ports a client may open, 0: no limit", zh="每个客户端可打开的端口数，0 表示不限")
    speed: int = option(
        "speed", SPEED, 0, Section.LIMITS, "live",
        en="speed of a client in each direction, 0: no limit", zh="每个客户端每个方向的速度，0 表示不限")
    connections: int = option(
        "connections", COUNT, 10, Section.LIMITS, "live",
        en="how many tunnels a client may hold", zh="每个客户端的最大隧道数")
    host_number: int = option(
        "hostNumber", COUNT, 0, Section.LIMITS, "live",
        en="how many host prefixes a client may publish, 0: no limit", zh="每个客户端可发布的域名前缀数，0 表示不限")
    host_regex: tuple[str, ...] = option_list(
        "hostRegex", REGEX, (), Section.LIMITS, "live",
        en="a host prefix has to match one of these", zh="域名前缀必须匹配其中之一")
    host_with_id: bool = option(
        "hostWithID", BOOLEAN, False, Section.LIMITS, "live",
        en="publish a host prefix as id-prefix", zh="域名前缀以“id-前缀”的形式发布")


@dataclass(frozen=True, kw_only=True)
class VisitorRules:
    """Who may come in: to one service, or to all of a user's."""

    allow_ips: tuple[IPv4Network | IPv6Network, ...] = option_list(
        "allowIPs", NETWORK, (), Section.SERVICES, "live",
        en="only these visitors", zh="仅允许这些访客地址")
    deny_ips: tuple[IPv4Network | IPv6Network, ...] = option_list(
        "denyIPs", NETWORK, (), Section.SERVICES, "live",
        en="not these visitors", zh="拒绝这些访客地址")

    def lets_in(self, visitor: str) -> bool:
        """Whether a visitor of this address, "203.0.113.9:51234", may come in; "" is one that nobody knows."""
        address = ip_of(visitor)
        if address is None:
            return not self.allow_ips
        if any(address in network for network in self.deny_ips):
            return False
        return not self.allow_ips or any(address in network for network in self.allow_ips)


@dataclass(frozen=True, kw_only=True)
class User(Limits, VisitorRules):
    """An entry of `users`: its own limits where it has them, the server's otherwise."""

    id: str
    secret: str | None = option(
        "secret", CREDENTIAL, None, Section.USERS, "live", secret=True,
        en="the client's secret", zh="客户端的密钥")
    verifier: str | None = option(
        "verifier", VERIFIER, None, Section.USERS, "live", secret=True,
        en="instead of the secret: keys that can check it but not log in", zh="代替密钥：只能用于校验、不能用于登录")
    disabled: bool = option(
        "disabled", BOOLEAN, False, Section.USERS, "live",
        en="may not log in", zh="禁止登录")


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Limits, ConsoleOptions, LogOptions, SentryOptions):
    """`options:` of a server's file and the flags of `gt.py server`."""

    domain: str = option(
        "domain", DOMAIN, "", Section.LISTENING, "live",
        en="public domain: clients are reachable as PREFIX.DOMAIN, links and join codes name it",
        zh="公开域名：客户端以“前缀.域名”访问，用于链接和接入码")
    addr: Address | None = option(
        "addr", ADDRESS, None, Section.LISTENING, "listeners",
        en="visitors over HTTP and tunnels over TCP", zh="HTTP 访客与 TCP 隧道的监听地址")
    tls_addr: Address | None = option(
        "tlsAddr", ADDRESS, None, Section.LISTENING, "listeners",
        en="the same over TLS", zh="TLS 监听地址（访客与隧道）")
    tls_version: str = option(
        "tlsVersion", TLS_VERSIONS, "tls1.2", Section.LISTENING, "restart",
        en="oldest TLS version accepted", zh="最低 TLS 版本")
    cert_file: str = option(
        "certFile", FILE, "", Section.LISTENING, "restart",
        en="certificate for TLS, one is made if empty", zh="TLS 证书文件，留空则自动生成")
    key_file: str = option(
        "keyFile", FILE, "", Section.LISTENING, "restart",
        en="key of that certificate", zh="TLS 私钥文件")
    sni_addr: Address | None = option(
        "sniAddr", ADDRESS, None, Section.LISTENING, "listeners",
        en="TLS that is passed through undecrypted, routed by its server name",
        zh="TLS 透传监听地址，按 SNI 转发，不解密")
    quic_addr: Address | None = option(
        "quicAddr", ADDRESS, None, Section.LISTENING, "listeners", available=False,
        en="tunnels over QUIC", zh="QUIC 隧道的监听地址")
    bbr: bool = option(
        "bbr", BOOLEAN, False, Section.LISTENING, "restart", available=False,
        en="BBR congestion control for QUIC", zh="QUIC 使用 BBR 拥塞控制")
    http_mux_header: str = option(
        "httpMUXHeader", HEADER_NAME, "Host", Section.LISTENING, "live",
        en="header that carries the host prefix", zh="携带域名前缀的 HTTP 头")
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = option_list(
        "trustedProxies", NETWORK, (), Section.LISTENING, "live",
        en="who may send PROXY headers", zh="可以发送 PROXY 头的来源")

    id: tuple[str, ...] = option_list(
        "id", CREDENTIAL, (), Section.USERS, "live",
        en="a user's id, paired with --secret in order", zh="用户 id，与 --secret 按顺序配对")
    secret: tuple[str, ...] = option_list(
        "secret", CREDENTIAL, (), Section.USERS, "live", secret=True,
        en="a user's secret", zh="用户密钥")
    users: str = option(
        "users", FILE, "", Section.USERS, "live",
        en="YAML file of users", zh="用户 YAML 文件")
    auth_api: str = option(
        "authAPI", WEB_URL, "", Section.USERS, "live",
        en="URL that is asked whether id and secret are right", zh="校验 id 与密钥的接口地址")
    allow_any_client: bool = option(
        "allowAnyClient", BOOLEAN, False, Section.USERS, "live",
        en="accept unknown ids, each with the first secret it comes with", zh="接受未知 id，并以其首次使用的密钥为准")
    reconnect_times: int = option(
        "reconnectTimes", COUNT, 3, Section.USERS, "live",
        en="failed logins before an address is locked out", zh="登录失败多少次后锁定该地址")
    reconnect_duration: float = option(
        "reconnectDuration", DURATION, 300.0, Section.USERS, "live",
        en="how long it is locked out", zh="锁定时长")

    protocols: tuple[int, ...] = option_list(
        "protocols", PROTOCOL, (1, 3), Section.TUNNELS, "live",
        en="tunnel protocols accepted: 3, and 1 for the original GT", zh="接受的隧道协议：3，以及原版 GT 的 1")
    max_hand_shake_options: int = option(
        "maxHandShakeOptions", integer(1, 65535), 600, Section.TUNNELS, "live",
        en="how many services a client may publish", zh="每个客户端的最大服务数")
    quic_engine: str = option(
        "quicEngine", choice("auto", "aioquic", "qh3"), "auto", Section.TUNNELS, "restart", available=False,
        en="QUIC implementation", zh="QUIC 实现")

    timeout: float = option(
        "timeout", DURATION, 90.0, Section.RELAYING, "live",
        en="how long a connection may be idle", zh="连接的空闲超时")
    timeout_on_unidirectional_traffic: bool = option(
        "timeoutOnUnidirectionalTraffic", BOOLEAN, False, Section.RELAYING, "live",
        en="traffic in one direction alone counts as idle", zh="仅有单向流量也视为空闲")
    route_per_request: bool = option(
        "routePerRequest", BOOLEAN, False, Section.RELAYING, "live",
        en="route every request of a connection by its own Host", zh="按每个请求自己的 Host 转发")

    api_addr: Address | None = option(
        "apiAddr", ADDRESS, None, Section.STATUS, "listeners",
        en="GET /status here proves the whole path", zh="状态接口的监听地址")
    api_cert_file: str = option(
        "apiCertFile", FILE, "", Section.STATUS, "restart",
        en="its certificate", zh="状态接口的证书文件")
    api_key_file: str = option(
        "apiKeyFile", FILE, "", Section.STATUS, "restart",
        en="key of that certificate", zh="状态接口的私钥文件")
    api_tls_version: str = option(
        "apiTLSVersion", TLS_VERSIONS, "tls1.2", Section.STATUS, "restart",
        en="its oldest TLS version", zh="状态接口的最低 TLS 版本")

    stun_addr: Address | None = option(
        "stunAddr", ADDRESS, None, Section.WEBRTC, "listeners", available=False,
        en="STUN server (UDP)", zh="STUN 服务的监听地址（UDP）")
    stun_log_level: str = option(
        "stunLogLevel", choice("trace", "debug", "info", "warn", "error", "disable"), "warn", Section.WEBRTC, "live",
        available=False,
        en="its log level", zh="STUN 服务的日志级别")

    workers: int = option(
        "workers", WORKERS, 1, Section.PROCESSES, "restart",
        en="relay processes, auto: one per core", zh="转发进程数，auto 表示每核一个")
    drain_timeout: float = option(
        "drainTimeout", DURATION, 600.0, Section.PROCESSES, "live",
        en="how long a replaced worker may finish its connections", zh="被替换的进程完成现有连接的时限")


@dataclass(frozen=True, kw_only=True)
class Service(VisitorRules):
    """An entry of `services`: what a client publishes. The flags belong to the `--local` before them."""

    local: URL = required(
        "local", LOCAL, Section.SERVICES, "live",
        en="URL of the service", zh="本地服务的 URL")
    host_prefix: str | None = option(
        "hostPrefix", HOST_PREFIX, None, Section.SERVICES, "live",
        en="its public host prefix, the id if not given", zh="公开的域名前缀，默认为 id")
    remote_tcp_port: int = option(
        "remoteTCPPort", PORT, 0, Section.SERVICES, "live",
        en="port to open on the server", zh="在服务器上打开的端口")
    remote_tcp_random: bool | None = option(
        "remoteTCPRandom", BOOLEAN, None, Section.SERVICES, "live",
        en="whether any other port will do, yes when no port is given",
        zh="端口不可用时是否使用随机端口，未指定端口时为是")
    local_timeout: float = option(
        "localTimeout", DURATION, 120.0, Section.SERVICES, "live",
        en="how long a connection to the service may be idle", zh="到本地服务的连接的空闲超时")
    use_local_as_http_host: bool = option(
        "useLocalAsHTTPHost", BOOLEAN, False, Section.SERVICES, "live",
        en="rewrite Host of each request to the local address", zh="将每个请求的 Host 改写为本地地址")
    proxy_protocol: str = option(
        "proxyProtocol", choice("off", "v1", "v2"), "off", Section.SERVICES, "live",
        en="tell the service the visitor's address by PROXY header", zh="用 PROXY 头告知服务访客地址")
    forwarded_for: bool = option(
        "forwardedFor", BOOLEAN, False, Section.SERVICES, "live",
        en="tell it by X-Forwarded-For", zh="用 X-Forwarded-For 告知服务访客地址")
    basic_auth: str = option(
        "basicAuth", BASIC_AUTH, "", Section.SERVICES, "live", secret=True,
        en="ask visitors for this user and password: user:hash, the hash made by gt.py hash-password",
        zh="要求访客提供用户名和密码：“用户名:哈希”，哈希由 gt.py hash-password 生成")


@dataclass(frozen=True, kw_only=True)
class ClientOptions(ConsoleOptions, LogOptions, SentryOptions):
    """`options:` of a client's file and the flags of `gt.py client` that belong to no service."""

    id: str = option(
        "id", CREDENTIAL, "", Section.IDENTITY, "restart",
        en="who this client is, also its host prefix", zh="客户端 id，同时是默认域名前缀")
    secret: str = option(
        "secret", CREDENTIAL, "", Section.IDENTITY, "restart", secret=True,
        en="proves the id, random if not given", zh="密钥，默认随机生成")

    remote: tuple[URL, ...] = option_list(
        "remote", REMOTE, (), Section.TUNNELS, "restart",
        en="the server, such as tcp://example.com:8080", zh="服务器地址，如 tcp://example.com:8080")
    remote_api: str = option(
        "remoteAPI", WEB_URL, "", Section.TUNNELS, "restart",
        en="URL that names the server", zh="查询服务器地址的接口")
    remote_cert: str = option(
        "remoteCert", FILE, "", Section.TUNNELS, "restart",
        en="CA certificates the server is checked against", zh="校验服务器的 CA 证书文件")
    remote_cert_insecure: bool = option(
        "remoteCertInsecure", BOOLEAN, False, Section.TUNNELS, "restart",
        en="accept any certificate", zh="接受任何证书")
    remote_connections: int = option(
        "remoteConnections", integer(1, 10), 3, Section.TUNNELS, "live",
        en="tunnels in the pool", zh="隧道池的最大隧道数")
    remote_idle_connections: int = option(
        "remoteIdleConnections", integer(1, 10), 1, Section.TUNNELS, "live",
        en="how many of them stay when idle", zh="空闲时保留的隧道数")
    remote_timeout: float = option(
        "remoteTimeout", DURATION, 45.0, Section.TUNNELS, "live",
        en="idle limit of a tunnel", zh="隧道的空闲超时")
    reconnect_delay: float = option(
        "reconnectDelay", DURATION, 5.0, Section.TUNNELS, "live",
        en="pause before reconnecting", zh="重连前的等待时间")
    protocol: str = option(
        "protocol", choice("auto", "1", "3"), "auto", Section.TUNNELS, "restart",
        en="tunnel protocol: 3, or 1 for servers of the original GT", zh="隧道协议：3，或用于原版 GT 服务器的 1")
    allow_plain_secret: bool = option(
        "allowPlainSecret", BOOLEAN, False, Section.TUNNELS, "restart",
        en="the secret may be sent readable over TCP", zh="允许通过 TCP 明文发送密钥")
    bbr: bool = option(
        "bbr", BOOLEAN, False, Section.TUNNELS, "restart", available=False,
        en="BBR congestion control for QUIC", zh="QUIC 使用 BBR 拥塞控制")
    quic_engine: str = option(
        "quicEngine", choice("auto", "aioquic", "qh3"), "auto", Section.TUNNELS, "restart", available=False,
        en="QUIC implementation", zh="QUIC 实现")

    remote_stun: tuple[str, ...] = option_list(
        "remoteSTUN", TEXT, (), Section.WEBRTC, "restart", available=False,
        en="STUN servers", zh="STUN 服务器地址")
    webrtc_connections: int = option(
        "webrtcConnections", integer(1, 50), 30, Section.WEBRTC, "live", available=False,
        en="most peers at once", zh="最大 WebRTC 连接数")
    webrtc_connection_idle_timeout: float = option(
        "webrtcConnectionIdleTimeout", DURATION, 300.0, Section.WEBRTC, "live", available=False,
        en="how long a peer may be idle", zh="WebRTC 连接的空闲超时")
    webrtc_min_port: int = option(
        "webrtcMinPort", PORT, 0, Section.WEBRTC, "restart", available=False,
        en="lowest UDP port of peers, 0: any", zh="WebRTC 的最小 UDP 端口，0 表示不限")
    webrtc_max_port: int = option(
        "webrtcMaxPort", PORT, 0, Section.WEBRTC, "restart", available=False,
        en="highest UDP port of peers, 0: any", zh="WebRTC 的最大 UDP 端口，0 表示不限")
    webrtc_log_level: str = option(
        "webrtcLogLevel", choice("verbose", "info", "warning", "error"), "warning", Section.WEBRTC, "restart",
        available=False,
        en="log level of WebRTC", zh="WebRTC 日志级别")
    webrtc_thread_mode: bool = option(
        "webrtcThreadMode", BOOLEAN, False, Section.WEBRTC, "restart", available=False,
        en="accepted, has no effect", zh="可以设置，没有作用")
    tcp_forward_addr: Address | None = option(
        "tcpForwardAddr", ADDRESS, None, Section.WEBRTC, "listeners", available=False,
        en="listen here for another client's service", zh="访问另一客户端服务的本地监听地址")
    tcp_forward_host_prefix: str = option(
        "tcpForwardHostPrefix", HOST_PREFIX, "", Section.WEBRTC, "restart", available=False,
        en="host prefix of that client", zh="该客户端的域名前缀")
    tcp_forward_connections: int = option(
        "tcpForwardConnections", integer(1, 10), 3, Section.WEBRTC, "live", available=False,
        en="peers in the pool for it", zh="TCP 转发连接池的连接数")

    workers: int = option(
        "workers", WORKERS, 1, Section.PROCESSES, "restart",
        en="relay processes, auto: one per core", zh="转发进程数，auto 表示每核一个")


@dataclass(frozen=True, kw_only=True)
class ConnectOptions:
    """`options:` of a `type: connect` file and the flags of `gt.py connect`."""

    remote: tuple[URL, ...] = option_list(
        "remote", REMOTE, (), Section.TUNNELS, "restart", available=False,
        en="the server, such as tcp://example.com:8080", zh="服务器地址，如 tcp://example.com:8080")
    stun_addr: str = option(
        "stunAddr", TEXT, "", Section.WEBRTC, "restart", available=False,
        en="STUN server", zh="STUN 服务器地址")
    tcp_forward_addr: Address | None = option(
        "tcpForwardAddr", ADDRESS, None, Section.WEBRTC, "listeners", available=False,
        en="listen here", zh="本地监听地址")
    tcp_forward_host_prefix: str = option(
        "tcpForwardHostPrefix", HOST_PREFIX, "", Section.WEBRTC, "restart", available=False,
        en="host prefix of the client whose service is reached", zh="要访问的客户端的域名前缀")


# fmt: on


def _in_order(options: dict[str, Option]) -> Mapping[str, Option]:
    order = list(Section)
    return dict(sorted(options.items(), key=lambda item: order.index(item[1].section)))


OPTIONS = {
    "server": _in_order(options_of(ServerOptions)),
    "client": _in_order(options_of(ClientOptions)),
    "connect": _in_order(options_of(ConnectOptions)),
}
SERVICE = _in_order(options_of(Service))
USER = _in_order(options_of(User))
