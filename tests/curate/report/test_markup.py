import pytest

from flashvsr.curate.report.markup import duration, escape, share, shorten, size, tag


def test_attributes_and_children_are_escaped_unless_they_are_markup():
    inner = tag("b", "<i>")
    assert tag("p", inner, "a & b", title='"', class_=None) == '<p title="&quot;"><b>&lt;i&gt;</b>a &amp; b</p>'
    assert escape(inner) != inner


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"),
        (0.04, "0:00:00"),
        (7.97, "0:00:08.0"),
        (59.96, "0:01:00"),
        (3599.6, "1:00:00"),
        (4_000_000, "1,111:06:40"),
    ],
)
def test_durations_are_rounded_to_what_is_shown(seconds, text):
    assert duration(seconds) == text


def test_shares_never_round_to_nothing_or_everything():
    assert [share(*pair) for pair in ((0, 5), (1, 1e6), (1, 3), (999_999, 1e6), (5, 5), (0, 0))] == [
        "0.0 %",
        "< 0.1 %",
        "33.3 %",
        "> 99.9 %",
        "100.0 %",
        "-",
    ]


def test_sizes_have_units():
    assert [size(number) for number in (0, 1023, 1024, 3 << 19, 5 << 30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "5.0 GiB",
    ]


def test_a_long_name_keeps_its_beginning_and_its_end():
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijklmnop.mp4", 10) == "abc…op.mp4"
    assert len(shorten("x" * 5000, 44)) == 44
