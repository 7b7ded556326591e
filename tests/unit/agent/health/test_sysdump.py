# SPDX-License-Identifier: Apache-2.0
"""No secret leaves in an archive; items fail alone; size and time are bounded."""

from __future__ import annotations

import base64
import json
import string
import tarfile

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from wardmesh.health.redaction import GONE, Redactor, is_secret
from wardmesh.health.sysdump import (
    ITEM_BYTES,
    JSON,
    TEXT,
    YAML,
    Item,
    bounded,
    collect,
    manifest,
    redacted,
    write_archive,
)
from wardmesh.model.errors import WardmeshError

PUBLIC = base64.b64encode(b"p" * 32).decode()
KEY = base64.b64encode(bytes(range(100, 132))).decode()
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA\nsecretlines\n-----END EC PRIVATE KEY-----"
TLS_KEY = PEM.replace("EC PRIVATE", "PRIVATE")  # as hubble.key holds it: PKCS 8
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.abcDEF123"

SECRET = st.text(string.ascii_letters + string.digits + "_-./+!$%^&*", min_size=12, max_size=40).filter(
    lambda text: not text.startswith(("-", "$", "&", "*", "!", "%")) and not is_secret(text)
)
NAMES = st.sampled_from(
    [
        "password",
        "etcd.password",
        "apiToken",
        "client_secret",
        "CONSUL_HTTP_TOKEN",
        "private_key",
        "privateKey",
        "PresharedKey",
        "x-api-key",
        "tls.key",
        "sessionCookie",
        "username",
        "users",
        "credentials",
        "authorization",
    ]
)
LINES = st.sampled_from(
    [
        "{name}={secret}",
        "{name}: {secret}",
        '{name}="{secret}"',
        '"{name}": "{secret}"',
        "{name} = '{secret}'",
        "time=12:00 level=info {name}={secret} peer=db1",
        "Environment={name}={secret}",
        "connecting to https://admin:{secret}@etcd.example:2379/v2",
        "Authorization: Bearer {secret}",
        "authorization: Basic {secret}",
        "starting: etcdctl --password {secret} get /",
        "starting: etcdctl --user {secret} get /",
        "the token {secret} was refused",
        "Cookie: sid={secret}; theme=dark",
    ]
)
NAME_BOUND = ("{name}",)


def text_of(kind, content, public=()):
    return redacted(Item("x", kind, lambda: content), content, Redactor(public)).decode()


@settings(max_examples=400, deadline=None)
@given(NAMES.filter(lambda name: name not in ("username", "users", "tls.key")), LINES, SECRET)
def test_no_planted_secret_survives_in_a_log_line(name, line, secret):
    text = f"before\n{line.format(name=name, secret=secret)}\nafter 51871 reachable"
    assert secret not in text_of(TEXT, text)


@settings(max_examples=200, deadline=None)
@given(
    NAMES,
    SECRET,
    st.sampled_from(["plain", "nested", "list", "map", "block", "flow"]),
    st.sampled_from([JSON, YAML]),
)
def test_no_planted_secret_survives_in_a_document(name, secret, shape, kind):
    shapes = {
        "plain": {name: secret},
        "nested": {"etcd": {"auth-less": {name: secret}}},
        "list": {"list": [{name: [secret, secret]}]},
        "map": {name: {"a": {"b": secret}}},
        "block": {name: f"first line\n{secret}\nlast line\n"},
        "flow": {"text": f"{{note: 1}} password={secret}"},
    }
    document = {"cluster": {"name": "prod"}, **shapes[shape]}
    content = json.dumps(document) if kind == JSON else yaml.safe_dump(document)
    found = text_of(kind, content)
    assert secret not in found
    assert "prod" in found


@pytest.mark.parametrize("secret", [KEY, PEM, TLS_KEY, JWT])
@pytest.mark.parametrize("wrap", ["{}", "a {} b", "key: {}", '{{"x": "{}"}}', "nothing secret here: {}"])
def test_what_has_the_form_of_a_secret_goes_without_a_name(secret, wrap):
    found = text_of(TEXT, wrap.format(secret))
    assert secret not in found
    assert "secretlines" not in found
    assert GONE in found


def test_a_private_key_that_was_cut_off_goes_too():
    assert "secretlines" not in text_of(TEXT, PEM.rsplit("\n", 1)[0])


@pytest.mark.parametrize("kind", [TEXT, JSON])
def test_public_keys_of_the_fleet_stay_and_others_do_not(kind):
    content = json.dumps({"members": [{"name": "db1", "key": PUBLIC}, {"name": "db2", "key": KEY}]})
    found = text_of(kind, content, [PUBLIC])
    assert PUBLIC in found
    assert KEY not in found
    assert "db2" in found


@pytest.mark.parametrize(
    "text",
    [
        "wireguard: up: db1, db2",
        'level=info msg="firewall: revision 3: 2 policies, 10 peers"',
        "10.0.0.1:51871 handshake 30s ago",
        "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "a private key is never read",
        "keyRotation: 12h",
    ],
)
def test_what_is_no_secret_stays(text):
    assert text_of(TEXT, text) == text


@pytest.mark.parametrize(
    "name",
    ["publicKey", "encryption.keyRotation", "ipsec-key-file", "keySince", "name", "monkey", "keyboard"],
)
def test_harmless_names_are_harmless(name):
    assert not is_secret(name)


def test_a_ruleset_keeps_what_it_compares():
    content = '{"match": {"left": {"meta": {"key": "l4proto"}}, "comment": "token=abcdefghijk"}}'
    found = redacted(Item("nft", JSON, lambda: content, by_name=False), content, Redactor()).decode()
    assert "l4proto" in found
    assert "abcdefghijk" not in found


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (JSON, '{"password": "hunter2hunter2"'),
        (YAML, "password: [hunter2hunter2"),
        (YAML, "a: &x hunter2hunter2\npassword: *x\n"),
    ],
)
def test_a_document_that_cannot_be_parsed_is_left_out(kind, content):
    files, rows = collect([Item("bad", kind, lambda: content)], Redactor())
    assert files == {}
    assert "left out" in rows[0].error
    assert b"hunter2hunter2" not in manifest(rows)


def test_one_broken_item_costs_only_itself():
    def broken():
        raise OSError("token=abcdefghijk is refused")

    def worse():
        raise RecursionError

    files, rows = collect(
        [Item("a", TEXT, broken), Item("b", TEXT, worse), Item("c", TEXT, lambda: "good")], Redactor()
    )
    assert files == {"c": b"good"}
    assert [bool(row.error) for row in rows] == [True, True, False]
    assert b"abcdefghijk" not in manifest(rows)
    assert json.loads(manifest(rows))["items"][0]["name"] == "a"


def test_the_newest_part_of_a_long_text_is_kept():
    found = bounded(b"x" * (2 * ITEM_BYTES) + b"the end", ITEM_BYTES)
    assert len(found) == ITEM_BYTES
    assert found.endswith(b"the end")
    assert b"cut off" in found[:60]
    assert bounded(b"short", 100) == b"short"


def test_room_and_time_are_bounded():
    items = [Item(f"{number}", TEXT, lambda: "y" * 1000) for number in range(10)]
    files, rows = collect(items, Redactor(), total=2500)
    assert sum(map(len, files.values())) <= 2500
    assert sum("full" in row.error for row in rows) == 7
    now = iter(range(0, 1000, 10))
    files, rows = collect(items, Redactor(), clock=lambda: float(next(now)), seconds=45)
    assert 0 < len(files) < 10
    assert "out of time" in rows[-1].error


def test_the_archive_is_its_owners_alone_and_whole(tmp_path):
    target = tmp_path / "dump.tar.gz"
    write_archive(target, "dump", {"a/b.txt": b"hello", "manifest.json": b"{}"})
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as archive:
        assert archive.getnames() == ["dump/a/b.txt", "dump/manifest.json"]
        assert archive.extractfile("dump/a/b.txt").read() == b"hello"
    assert [path.name for path in tmp_path.iterdir()] == ["dump.tar.gz"]


def test_an_archive_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(WardmeshError) as caught:
        write_archive(tmp_path / "nowhere" / "x.tar.gz", "x", {})
    assert "--output" in caught.value.remedy
