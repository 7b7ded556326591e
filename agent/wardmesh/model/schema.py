# SPDX-License-Identifier: Apache-2.0
"""The keys of config.yaml, as one table.

Every key of the seed documents is here, nested or flat as they write it. A key whose feature is
not built is accepted and reported as inactive, so an operator's existing file loads as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BOOL, INT, STR, STRS, MAP, NUM, PORT, DURATION, DOCS, EXCEPTIONS = (
    "boolean",
    "integer",
    "string",
    "list of strings",
    "map of strings",
    "number",
    "port",
    "duration",
    "list of maps",
    "list of exceptions",
)


@dataclass(frozen=True)
class Key:
    """One leaf: dotted path, type, default, whether this version acts on it, and its meaning."""

    path: str
    kind: str
    default: Any
    active: bool
    text: str
    choices: tuple[str, ...] = ()
    low: int = 0
    high: int = 2**31


KEYS: tuple[Key, ...] = (
    Key("cluster.name", STR, "default", True, "Name of the cluster that this host belongs to."),
    Key("cluster.id", INT, 1, True, "Number of the cluster; the upper bits of identities.", (), 1, 255),
    Key("encryption.enabled", BOOL, True, True, "Encrypt traffic between members."),
    Key("encryption.type", STR, "wireguard", True, "Kind of encryption.", ("wireguard", "ipsec")),
    Key("encryption.nodeEncryption", BOOL, True, True, "Encrypt what the hosts themselves send."),
    Key(
        "encryption.mode",
        STR,
        "strict",
        True,
        "The wish: prefer encrypts where a tunnel is up; strict drops plain packets between members "
        "once the rollout has verified the tunnels.",
        ("prefer", "strict"),
    ),
    Key(
        "encryption.backend",
        STR,
        "auto",
        True,
        "WireGuard of the kernel, or wireguard-go.",
        ("auto", "kernel", "userspace"),
    ),
    Key("encryption.listenPort", PORT, 51871, True, "UDP port of the tunnel.", (), 1, 65535),
    Key(
        "encryption.exceptions",
        EXCEPTIONS,
        [],
        True,
        "Protocols and ports that may stay plain between members, as [{protocol: TCP, port: 22}].",
    ),
    Key(
        "encryption.keyRotation",
        DURATION,
        None,
        True,
        "The host rotates its key by itself after this time (1m or more); needs a store.",
    ),
    Key("devices", STRS, [], True, "Devices that the guard watches; empty means detect them."),
    Key("mtu", INT, None, True, "MTU of the tunnel; unset means derive it (device - 80).", (), 1280, 65535),
    Key("labels", MAP, {}, True, "Labels of this host."),
    Key("nodes", STRS, [], False, "Static node addresses (the fleet map carries the members)."),
    Key("debug.enabled", BOOL, False, True, "Log at level debug."),
    Key("log.format", STR, "text", True, "Form of log lines.", ("text", "json")),
    Key(
        "log.level",
        STR,
        "info",
        True,
        "Lowest level that is logged.",
        ("debug", "info", "warning", "warn", "error"),
    ),
    Key("bpf.membersMax", INT, 65536, True, "Entries of the address maps.", (), 16, 4194304),
    Key("bpf.policyRowsMax", INT, 4096, True, "Groups of peers that a policy tells apart.", (), 16, 1048576),
    Key("bpf.flowsMax", INT, 131072, True, "Answered IPv4 connections that are known.", (), 1024, 16777216),
    Key("bpf.mapDynamicSizeRatio", NUM, None, False, "Share of memory for maps."),
    Key("bpf.preallocateMaps", BOOL, None, False, "Allocate maps at once."),
    Key("bpf.lbAlgorithm", STR, None, False, "Load balancing algorithm."),
    Key("hostFirewall.enabled", BOOL, False, True, "Enforce policies on this host."),
    Key(
        "hostFirewall.failsafeIngress",
        EXCEPTIONS,
        [{"protocol": "TCP", "port": 22}],
        True,
        "What may always come in, whatever policy says; an empty list is a lock-out risk.",
    ),
    Key(
        "hostFirewall.failsafeEgress",
        EXCEPTIONS,
        [
            {"protocol": "UDP", "port": 53},
            {"protocol": "TCP", "port": 53},
            {"protocol": "TCP", "port": 2379},
            {"protocol": "TCP", "port": 2380},
            {"protocol": "TCP", "port": 8500},
        ],
        True,
        "What may always go out: names, etcd, Consul. DHCP is always among both.",
    ),
    Key("ipam.mode", STR, None, False, "Address management."),
    Key("k8s.enabled", BOOL, False, False, "Use a Kubernetes API."),
    Key("hubble.enabled", BOOL, False, True, "Observe flows and serve the Hubble API."),
    Key(
        "hubble.listenAddress",
        STR,
        None,
        True,
        "HOST:PORT of the Hubble API beside its socket; without TLS only loopback and, in strict mode, own "
        "addresses, for members.",
    ),
    Key(
        "hubble.eventBufferCapacity",
        INT,
        4095,
        True,
        "Flows that are kept; one less than a power of two.",
        (),
        1,
        131071,
    ),
    Key("hubble.tls.certFile", STR, None, True, "Certificate of Hubble API, relay and page (PEM)."),
    Key("hubble.tls.keyFile", STR, None, True, "Its private key (PEM)."),
    Key("hubble.tls.clientCaFile", STR, None, True, "Who signs the certificates of clients and peers (PEM)."),
    Key(
        "hubble.tls.revoked",
        STRS,
        [],
        True,
        "SHA-256 fingerprints (hexadecimal) of certificates that are refused, whoever signed them.",
    ),
    Key("hubble.relay.listenAddress", STR, "127.0.0.1:4245", True, "HOST:PORT of the relay."),
    Key(
        "hubble.ui.listenAddress",
        STR,
        "127.0.0.1:4246",
        True,
        "HOST:PORT of the page of `wardmesh ui`; without TLS only loopback.",
    ),
    Key("hubble.export.static.enabled", BOOL, False, True, "Write flows to a file, in Hubble's JSON form."),
    Key("hubble.export.static.filePath", STR, "/var/log/wardmesh/flows.log", True, "That file."),
    Key("hubble.export.static.fieldMask", STRS, [], True, "Fields of a flow that are written; empty: all."),
    Key("hubble.export.static.allowList", STRS, [], True, "Filters as JSON (FlowFilter): what is written."),
    Key("hubble.export.static.denyList", STRS, [], True, "Filters as JSON (FlowFilter): what is not."),
    Key("hubble.export.fileMaxSizeMb", INT, 10, True, "Size at which the file is rotated.", (), 1, 10240),
    Key("hubble.export.fileMaxBackups", INT, 5, True, "Rotated files that are kept.", (), 0, 1000),
    Key("hubble.export.fileCompress", BOOL, False, True, "Compress rotated files with gzip."),
    Key("prometheus.enabled", BOOL, False, True, "Serve metrics (wardmesh-observer.service)."),
    Key("prometheus.port", PORT, 9962, True, "Port of the metrics.", (), 1, 65535),
    Key(
        "prometheus.tls",
        BOOL,
        False,
        True,
        "HTTPS with the Hubble API's certificate; loopback stays plain.",
    ),
    Key(
        "prometheus.listenAddresses",
        STRS,
        [],
        True,
        "Addresses on which metrics are served, beside loopback; empty: this member's own addresses.",
    ),
    Key(
        "prometheus.admit",
        STRS,
        [],
        True,
        "Networks that may read metrics, beside this host and the members of the fleet.",
    ),
    Key(
        "prometheus.peersMax",
        INT,
        1000,
        True,
        "Peers that have metrics of their own; those that are not up come first.",
        (),
        0,
        100000,
    ),
    Key(
        "etcd.endpoints",
        STRS,
        [],
        True,
        "Servers of one etcd, as https://HOST:PORT. With it, members are learned from the store, too.",
    ),
    Key("etcd.tls.ca", STR, None, True, "File of the CA that signed etcd's certificates."),
    Key("etcd.tls.cert", STR, None, True, "File of this host's certificate; its common name is the user."),
    Key("etcd.tls.key", STR, None, True, "File of the certificate's private key."),
    Key("etcd.tls.serverName", STR, None, True, "Name in etcd's certificates, where it is not the host's."),
    Key("etcd.username", STR, None, True, "User with a password, instead of a certificate's name."),
    Key("etcd.passwordFile", STR, None, True, "File of the user's password."),
    Key("etcd.lease", DURATION, "60s", True, "A host that dies is gone after this time; 5s to 24h."),
    Key(
        "discovery.networks",
        STRS,
        [],
        True,
        "Where addresses of members may lie that only the store knows; empty is anywhere, without subnets.",
    ),
    Key(
        "discovery.grace",
        DURATION,
        "1h",
        True,
        "For so long the addresses of a member that is gone stay sealed, where they were.",
    ),
    Key("consul.address", STR, None, True, "A Consul as the store, as https://HOST:PORT, instead of etcd."),
    Key("consul.tls.ca", STR, None, True, "File of the CA that signed Consul's certificate."),
    Key("consul.tls.cert", STR, None, True, "File of this host's certificate."),
    Key("consul.tls.key", STR, None, True, "File of the certificate's private key."),
    Key(
        "consul.tls.serverName", STR, None, True, "Name in Consul's certificate, where it is not the host's."
    ),
    Key("consul.tokenFile", STR, None, True, "File of the ACL token."),
    Key(
        "consul.lease",
        DURATION,
        "60s",
        True,
        "TTL of this host's session; 10s to 24h. Ends after up to twice that.",
    ),
    Key(
        "clustermesh.config.enabled",
        BOOL,
        None,
        True,
        "Connect several clusters; unset: where clusters are given.",
    ),
    Key(
        "clustermesh.config.clusters",
        DOCS,
        [],
        True,
        "The other clusters, each with name, id (1..255) and either address (its etcd; with tls, username, "
        "passwordFile) or nodes (its members); networks: where its addresses may lie.",
    ),
    Key("monitor.sampling", INT, None, True, "Tell of one in so many flows; drops are always told.", (), 1),
    Key("healthChecking.enabled", BOOL, False, True, "Check the peers, and answer their checks on TCP 4240."),
    Key(
        "healthChecking.interval",
        DURATION,
        "10s",
        True,
        "Round in which a host checks its peers: all of a small fleet, some of a large one; 1s to 1h.",
    ),
    Key("policyAuditMode", BOOL, False, True, "Record what policy would drop, and let it pass."),
    Key("resources.limits.cpu", STR, None, False, "CPU limit of the agent."),
    Key("resources.limits.memory", STR, None, False, "Memory limit of the agent."),
    Key("resources.requests.cpu", STR, None, False, "CPU share of the agent."),
    Key("resources.requests.memory", STR, None, False, "Memory share of the agent."),
    Key("enable-ipsec", BOOL, False, False, "IPsec instead of WireGuard."),
    Key("ipsec-key-file", STR, None, False, "Key file of IPsec."),
    Key("encryption-node-network", BOOL, None, False, "Encrypt what the hosts themselves send."),
    Key("enable-l7-proxy", BOOL, None, False, "Rules above layer 4."),
    Key("enable-mtls", BOOL, None, False, "Mutual TLS on one host."),
    Key(
        "mtls-mode",
        STR,
        None,
        False,
        "Where mutual TLS applies.",
        ("same-node", "always", "cross-node", "never"),
    ),
    Key("enable-spiffe", BOOL, None, False, "Identities by SPIFFE."),
    Key("spiffe-trust-domain", STR, None, False, "SPIFFE trust domain."),
    Key("spiffe-auto-rotate", BOOL, None, False, "Rotate SPIFFE certificates."),
    Key("routingMode", STR, None, False, "Routing between nodes."),
    Key("kubeProxyReplacement", BOOL, None, False, "Replace kube-proxy."),
    Key("loadBalancer.acceleration", STR, None, False, "Load balancer acceleration."),
    Key("loadBalancer.mode", STR, None, False, "Load balancer mode."),
)

BY_PATH = {key.path: key for key in KEYS}
PREFIXES = frozenset(
    ".".join(key.path.split(".")[:depth]) for key in KEYS for depth in range(1, key.path.count(".") + 1)
)
