"""Private networks: the published vectors of HSalsa20 and XSalsa20, key files, and two ends with one key or two."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.wire.psk import NONCE, PrivateNetwork, XSalsa20, hsalsa20, read_key

# D. J. Bernstein, "Cryptography in NaCl", §8: the shared secret, the first key and the second key.
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
FIRST_KEY = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
NONCE_BYTES = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
SECOND_KEY = bytes.fromhex("dc908dda0b9344a953629b733820778880f3ceb421bb61b91cbd4c3e66256ce4")
STREAM = bytes.fromhex("eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880")
KEY = bytes(range(32))


def test_hsalsa20_makes_the_published_keys() -> None:
    assert hsalsa20(SHARED, bytes(16)) == FIRST_KEY
    assert hsalsa20(FIRST_KEY, NONCE_BYTES[:16]) == SECOND_KEY


def test_xsalsa20_makes_the_published_stream() -> None:
    assert XSalsa20(FIRST_KEY, NONCE_BYTES).process(bytes(32)) == STREAM


@pytest.mark.parametrize(
    "content",
    [
        b"/base16/\n" + KEY.hex().encode(),
        b"/base16/\n" + KEY.hex().upper().encode() + b"\n",
        b"/base64/\n" + base64.b64encode(KEY) + b"\n",
        b"/bin/\n" + KEY,
    ],
)
def test_key_files_of_each_encoding(content: bytes) -> None:
    assert read_key(b"/key/swarm/psk/1.0.0/\n" + content) == KEY


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "first line"),
        (b"/key/swarm/psk/2.0.0/\n/base16/\n" + KEY.hex().encode(), "first line"),
        (b"/key/swarm/psk/1.0.0/\n/base58/\nx", "second line"),
        (b"/key/swarm/psk/1.0.0/\n/base16/\nxyz", "third line"),
        (b"/key/swarm/psk/1.0.0/\n/base16/\n\xff\xff", "third line"),
        (b"/key/swarm/psk/1.0.0/\n/base64/\n!!", "third line"),
        (b"/key/swarm/psk/1.0.0/\n/base16/\n00", "1 bytes where 32"),
    ],
)
def test_what_is_wrong_with_a_key_file_is_said(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        read_key(data)


@given(data=st.binary(max_size=200))
def test_random_key_files_raise_nothing_but_the_typed_error(data: bytes) -> None:
    for each in (data, b"/key/swarm/psk/1.0.0/\n/base64/\n" + data):
        try:
            assert len(read_key(each)) == 32
        except DecodeError:
            continue


@given(piece=st.integers(1, 40), data=st.lists(st.binary(max_size=80), max_size=5))
def test_any_split_gives_the_same_bytes(piece: int, data: list[bytes]) -> None:
    one, other = PrivateNetwork(KEY, b"a" * NONCE), PrivateNetwork(KEY, b"b" * NONCE)
    for part in data:
        one.send_data(part)
    wire = b"".join(one.data_to_send())
    received = b"".join(
        b"".join(other.receive_data(wire[offset : offset + piece])) for offset in range(0, len(wire), piece)
    )
    assert received == b"".join(data)


def test_without_the_key_it_is_noise() -> None:
    one, other = PrivateNetwork(KEY, b"a" * NONCE), PrivateNetwork(bytes(32), b"b" * NONCE)
    one.send_data(b"\x13/multistream/1.0.0\n")
    wire = b"".join(one.data_to_send())
    assert b"multistream" not in wire
    assert b"multistream" not in b"".join(other.receive_data(wire))
