# SPDX-License-Identifier: Apache-2.0
import pytest

from schemas.layout import U8, U16, U32, U64, Bits, Field, Layout, LayoutError, Record, enum8, pad


def a_layout(*fields: Field) -> Layout:
    return Layout("thing", "A thing.", fields)


def test_an_unaligned_field_is_refused_by_name():
    with pytest.raises(LayoutError, match=r"thing\.port is at byte 1, .* multiple of 2"):
        a_layout(Field("protocol", U8, ""), Field("port", U16, ""), pad(5))


def test_a_repeated_field_is_refused_by_name():
    with pytest.raises(LayoutError, match=r"thing\.port is declared twice"):
        a_layout(Field("port", U16, ""), Field("port", U16, ""), pad(4))


def test_a_size_that_leaves_a_hole_at_the_end_is_refused_with_the_pad_that_fills_it():
    with pytest.raises(LayoutError, match=r"has 12 bytes.*end it with pad\(4\)"):
        a_layout(Field("bytes", U64, ""), Field("packets", U32, ""))


def test_bits_that_do_not_fill_32_are_refused():
    with pytest.raises(LayoutError, match="lane packs 31 bits"):
        Bits("lane", "", (("point", 12), ("vlan", 12), ("dscp", 7)))


def test_parts_of_a_packed_field_follow_each_other_from_the_lowest_bit():
    bits = Bits("lane", "", (("point", 12), ("vlan", 12), ("dscp", 8)))

    assert [bits.shift(name) for name in ("point", "vlan", "dscp")] == [0, 12, 24]
    assert [bits.mask(name) for name in ("point", "vlan", "dscp")] == [0xFFF, 0xFFF, 0xFF]


def test_a_record_with_a_repeated_column_is_refused_by_name():
    with pytest.raises(LayoutError, match=r"flow\.port is declared twice"):
        Record("flow", "flows", "", (Field("port", U16, ""), Field("port", U16, "")), "port")


def test_a_record_has_one_topic_that_names_its_kind_and_version():
    assert Record("flow", "flows", "", (), "time").topic == "hookline.flow.v1"


def test_an_enum_knows_its_numbers_and_spells_names_as_clickhouse_shows_them():
    kind = enum8(xdp_generic=2, tcx=3)

    assert kind.clickhouse == "Enum8('xdp-generic' = 2, 'tcx' = 3)"
    assert kind.allowed == (2, 3)
