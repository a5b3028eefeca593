# SPDX-License-Identifier: Apache-2.0
"""Proxies that requests are sent through by iptables, as sidecars are: haproxy and Envoy.

Each is as light as one for HTTP can be set up: it looks at headers, has one route, keeps its
connections to the server, logs nothing and asks nobody.  It has one thread, since its node is one CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.sites import PORT, SERVER_ADDRESS, Node, Site, listens

PROXY_PORT = 15001
# A user who has nothing else here: what it sends is the proxy's own and goes out as it is.
PROXY_USER = 65534
_HAPROXY = """
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  http-reuse always
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen sidecar
  bind :{port}
  server web {address}:{web} pool-max-conn 1024
"""
_ENVOY_TYPES = "type.googleapis.com/envoy.extensions.filters"
_ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 0.0.0.0, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {types}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: sidecar
          codec_type: HTTP1
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: web
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: web, timeout: 0s}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": {types}.http.router.v3.Router
              suppress_envoy_headers: true
  clusters:
  - name: web
    type: STATIC
    connect_timeout: 10s
    circuit_breakers:
      thresholds: [{{max_connections: 4096, max_pending_requests: 4096, max_requests: 4096}}]
    load_assignment:
      cluster_name: web
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{socket_address: {{address: {address}, port_value: {web}}}}}
"""

# Starts one on a node, with the server's address as it is seen from there.
Sidecar = Callable[[Node, Path, str], AbstractContextManager[None]]
Begin = Callable[[Site, Path, str], AbstractContextManager[None]]


@contextmanager
def haproxy(node: Node, folder: Path, address: str) -> Iterator[None]:
    config = folder / f"{node.namespace}.cfg"
    config.write_text(_HAPROXY.format(port=PROXY_PORT, address=address, web=PORT))
    with _serving(node, "haproxy", "-db", "-f", str(config)):
        yield


@contextmanager
def envoy(node: Node, folder: Path, address: str) -> Iterator[None]:
    config = folder / f"{node.namespace}.yaml"
    text = _ENVOY.format(types=_ENVOY_TYPES, port=PROXY_PORT, address=address, web=PORT)
    config.write_text(text)
    flags = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "off")
    with _serving(node, "envoy", "-c", str(config), *flags):
        yield


@contextmanager
def _serving(node: Node, *command: str) -> Iterator[None]:
    # Connections that have ended are not to fill the table that REDIRECT brings along.
    node.run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_time_wait=1")
    user = str(PROXY_USER)
    as_user = ("setpriv", "--reuid", user, "--regid", user, "--clear-groups")
    with node.running(*as_user, *command) as process:
        listens(node, PROXY_PORT, process)
        yield


def on_server(sidecar: Sidecar) -> Begin:
    """What comes to the server's node goes through it."""

    @contextmanager
    def begin(site: Site, folder: Path, _kafka: str) -> Iterator[None]:
        with sidecar(site.server, folder, "127.0.0.1"):
            site.server.run(*_redirect("PREROUTING"))
            yield

    return begin


def on_both(sidecar: Sidecar) -> Begin:
    """And through another one before it leaves the client's node."""

    @contextmanager
    def begin(site: Site, folder: Path, kafka: str) -> Iterator[None]:
        is_not_its_own = ("-m", "owner", "!", "--uid-owner", str(PROXY_USER))
        with (
            on_server(sidecar)(site, folder, kafka),
            sidecar(site.client, folder, SERVER_ADDRESS),
        ):
            site.client.run(*_redirect("OUTPUT", *is_not_its_own))
            yield

    return begin


def _redirect(chain: str, *others: str) -> tuple[str, ...]:
    match = ("-p", "tcp", "--dport", str(PORT), *others)
    return (
        *("iptables", "-t", "nat", "-A", chain, *match),
        *("-j", "REDIRECT", "--to-ports", str(PROXY_PORT)),
    )
