"""The checksum is CRC-64/XZ, in whichever implementation."""

from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.backup import crc


def test_it_is_the_catalogued_algorithm():
    assert crc.crc64(b"123456789") == 0x995DC9BBDF1939FA
    assert crc.in_python(b"123456789") == 0x995DC9BBDF1939FA


def test_nothing_has_the_checksum_zero_as_in_go():
    assert crc.crc64(b"") == 0


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_it_goes_on_where_it_stopped_and_both_implementations_agree(one, two):
    whole = crc.in_python(one + two)
    assert crc.crc64(one + two) == whole
    assert crc.crc64(two, crc.crc64(one)) == whole
    assert crc.in_python(two, crc.in_python(one)) == whole


def test_it_says_which_implementation_it_is(monkeypatch):
    assert crc.IMPLEMENTATION == "liblzma"
    monkeypatch.setattr(crc.ctypes, "CDLL", _no_library)
    assert crc._from_liblzma() is None


def _no_library(_name):
    raise OSError("no such library")
