import pytest

from dashboards.wording import (
    duration,
    milliseconds,
    percent_of,
    plural,
    sentence,
    short_count,
    size,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (41_234_567, "41.2 M"),
        (999.6e6, "1000 M"),
        (3e9, "3.00 G"),
    ],
)
def test_short_count(count, text):
    assert short_count(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.9516, "0.952"), (1.04, "1.04"), (12.34, "12.3"), (214.4, "214")],
)
def test_milliseconds(value, text):
    assert milliseconds(value) == text


def test_other_numbers():
    assert percent_of(1, 3) == "33.3 %"
    assert [duration(s) for s in (45, 720, 12_600, 181_440)] == [
        "45 s",
        "12 min",
        "3.5 h",
        "2.1 d",
    ]
    assert [size(b) for b in (12, 1_500, 1.5e6, 2e9)] == ["12 B", "1.5 kB", "1.5 MB", "2.0 GB"]
    assert [plural(1, "trial"), plural(1200, "trial")] == ["1 trial", "1,200 trials"]
    assert [sentence("a b"), sentence("Done.")] == ["A b.", "Done."]
