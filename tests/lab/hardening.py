# SPDX-License-Identifier: Apache-2.0
"""A host as those see it who should see nothing: a user without rights, and a machine that is no member.

What is looked at is what is there: everything that was written since the lab's image, and what the agent has
in memory file systems. A file that a later change adds is looked at without anybody thinking of it.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from lab import Host, Lab

# What everybody on a host may read of us: public facts, programs, and the names of folders.
PUBLIC = re.compile(
    r"/etc/wardmesh(/config\.yaml|/fleet\.json|/policies(/[^/]+\.yaml)?|/tls(/(ca|hubble)\.crt)?|/store)?"
    r"|/etc/systemd/system/(\S+\.wants/)?wardmesh\S*\.(service|service\.d(/\S+\.conf)?)"
    r"|/usr/local/bin/wardmeshd?"
    r"|/usr/local/lib/wardmesh(/(current|previous|wardmesh-[0-9a-f]+\.(pyz|cpython-\d+\.zip)))?"
    r"|/run/wardmesh(/fleet\.json|/agent\.lock)?|/run/wireguard|/var/lib/wardmesh|/sys/fs/bpf/wardmesh"
    r"|/var/log/wardmesh|/etc/systemd/system/etcd\.service\.d/10-wardmesh\.conf"
)
ETCDS = ("/etc/wardmesh/kvstore", "/var/lib/etcd/")  # its own user's, and nobody else may read it
IN_MEMORY = ("/run/wardmesh", "/run/wireguard", "/sys/fs/bpf/wardmesh")
# Of each path: what the caller may do with it, by trying. c: a socket that takes a connection.
TRY = """
import json, os, socket, stat, sys
found = {}
def opens(path, how):
    try:
        os.close(os.open(path, how | os.O_NONBLOCK | os.O_NOFOLLOW))
    except OSError:
        return False
    return True
for path in json.load(sys.stdin):
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        continue
    if stat.S_ISLNK(kind) or stat.S_ISCHR(kind):
        continue
    if stat.S_ISSOCK(kind):
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(path)
            may = "c"
        except OSError:
            may = ""
    elif stat.S_ISDIR(kind):
        may = "r" * opens(path, os.O_RDONLY) + "w" * (os.access(path, os.W_OK) and not kind & stat.S_ISVTX)
    else:
        may = "r" * opens(path, os.O_RDONLY) + "w" * opens(path, os.O_WRONLY)
    found[path] = may
print(json.dumps(found))
"""
# As root: mode, owner and file capabilities of each path.
LOOK = """
import json, os, sys
found = {}
for path in json.load(sys.stdin):
    try:
        info = os.lstat(path)
        extras = os.listxattr(path, follow_symlinks=False)
        found[path] = [info.st_mode, info.st_uid, "security.capability" in extras]
    except OSError:
        pass
print(json.dumps(found))
"""
NOBODY = "setpriv --reuid=nobody --regid=nogroup --clear-groups --no-new-privs"
# From outside: what each port says to a plain request and to one by TLS, as text; "" is nothing at all.
KNOCK = """
import json, socket, ssl, sys
from concurrent.futures import ThreadPoolExecutor
hosts, ports = json.load(sys.stdin)
REQUEST = b"GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"
def ask(job):
    host, port, secured = job
    try:
        link = socket.create_connection((host, port), 2)
        if secured:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2", "http/1.1"])
            link = context.wrap_socket(link)
        link.sendall(REQUEST)
        said = link.recv(4096)
    except OSError as error:
        said = b""
    return f"{host} {port} {'tls' if secured else 'plain'}", said.decode("latin-1")
jobs = [(host, port, secured) for host in hosts for port in ports for secured in (False, True)]
with ThreadPoolExecutor(32) as pool:
    print(json.dumps(dict(pool.map(ask, jobs))))
"""
# Datagrams in the forms of WireGuard's four messages, with nothing right in them; how many were answered.
SHOUT = """
import json, os, socket, sys, time
answers = 0
for host in json.load(sys.stdin):
    link = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    link.settimeout(0.5)
    for kind, size in ((1, 148), (2, 92), (3, 64), (4, 32), (4, 1400), (9, 40), (0, 1)):
        for _turn in range(5):
            link.sendto((bytes([kind, 0, 0, 0]) + os.urandom(size))[:size], (host, 51871))
    try:
        answers += len(link.recvfrom(2000)[0]) > 0
    except OSError:  # silence, or nobody there
        pass
print(answers)
"""


def written(lab: Lab, host: Host) -> list[str]:
    """Every path on the host that is not as in the image, and those in memory that are the agent's."""
    upper = lab.state / str(host.index) / "upper"
    paths = [f"/{path.relative_to(upper)}" for path in sorted(upper.rglob("*"))]
    return paths + host.run(f"find {' '.join(IN_MEMORY)} 2>/dev/null", check=False).stdout.split()


def _on(host: Host, script: str, given: object, prefix: str = "") -> Any:
    return json.loads(host.run(f"{prefix} python3 -c {_quoted(script)}", stdin=json.dumps(given)).stdout)


def _quoted(script: str) -> str:
    return "'" + script.replace("'", "'\\''") + "'"


def ours(path: str) -> bool:
    """Does this belong to what the playbooks install?"""
    return "wardmesh" in path or path.startswith(IN_MEMORY)


def keys_of(host: Host) -> list[str]:
    """A telling part of every private key on the host."""
    found = host.run(
        "grep -rhvE -- '-----|^.?$' /var/lib/wardmesh/*/*.key /etc/wardmesh/store/*.key", check=False
    )
    return [line for line in found.stdout.split() if len(line) > 40]


def check_nobody(lab: Lab, host: Host) -> int:
    """Hold the host against what a user without rights may do; the number of our paths that were tried."""
    paths = written(lab, host)
    looked = _on(host, LOOK, paths)
    tried: dict[str, str] = _on(host, TRY, paths, NOBODY)
    mine = [path for path in looked if ours(path)]
    assert not {path: oct(looked[path][0]) for path in looked if looked[path][0] & 0o6000 and path in mine}
    owned = {path: looked[path][1] for path in mine if looked[path][1] and not path.startswith(ETCDS)}
    assert not owned, f"not root's: {owned}"
    assert not [path for path in mine if looked[path][2]], "has capabilities"
    assert not [path for path, may in tried.items() if "w" in may and ours(path)], "can be written"
    assert not [path for path, may in tried.items() if "c" in may and ours(path)], "takes a connection"
    readable = [path for path, may in tried.items() if "r" in may]
    open_ones = [path for path in readable if ours(path) and not PUBLIC.fullmatch(path)]
    assert not open_ones, f"can be read: {open_ones}"
    secrets = keys_of(host)
    assert secrets
    assert not _in_the_open(host, secrets, readable), "a private key can be read"
    return len(mine)


def _in_the_open(host: Host, secrets: list[str], readable: list[str]) -> int:
    """In how many lines of what nobody can read, files and processes, one of the secrets stands."""
    host.run("umask 077; cat > /run/secrets.txt", stdin="\n".join(secrets) + "\n")
    read = 'cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ; xargs -d "\\n" cat'
    command = f"{NOBODY} sh -c '{read}' 2>/dev/null | grep -c -a -F -f /run/secrets.txt; rm /run/secrets.txt"
    return int(host.run(command, stdin="\n".join(readable), check=False).stdout)


def from_outside(lab: Lab, script: str, given: object) -> Any:
    """Run a script at the bridge: a machine on the same wire, no member, with an address of its own."""
    done = subprocess.run(
        ["ip", "netns", "exec", lab.bridge_ns, "python3", "-c", script],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_stranger(lab: Lab, ports: list[int]) -> None:
    """No port says a byte of an application to who is no member, and the tunnel's says nothing at all."""
    addresses = [address for host in lab.hosts for address in (host.address, host.address6)]
    said: dict[str, str] = from_outside(lab, KNOCK, [addresses, ports])
    assert len(said) == len(addresses) * len(ports) * 2
    # To plain text a TLS port says an alert (21), and one of HTTP/2 its settings: neither is an answer.
    told = {
        name: text for name, text in said.items() if "HTTP/" in text or "cilium" in text or len(text) > 64
    }
    assert not told, told
    assert from_outside(lab, SHOUT, addresses) == 0
