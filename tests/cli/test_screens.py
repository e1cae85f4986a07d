import pytest

from automl_prune.cli import screens
from automl_prune.errors import ConfigError


@pytest.mark.parametrize(
    ("macs", "text"), [(41_200_000, "41.2 M"), (999, "999"), (1_500, "1.5 k"), (4.09e9, "4.09 G")]
)
def test_macs_have_three_digits_and_a_unit(macs, text):
    assert screens.macs_text(macs) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12_600, "3.5 h"), (180_000, "2.1 d")]
)
def test_durations(seconds, text):
    assert screens.duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(12, "12 B"), (1_500, "1.5 kB"), (2_500_000, "2.5 MB"), (3e9, "3.0 GB")]
)
def test_sizes(size, text):
    assert screens.size_text(size) == text


def test_an_error_is_its_message_on_stderr(capsys):
    screens.complain(ConfigError("what was asked\nwhat was found"))
    captured = capsys.readouterr()
    assert captured.err == "Error: what was asked\nwhat was found\n"
    assert captured.out == ""


def test_a_long_error_is_cut_to_one_screen(capsys):
    screens.complain(ConfigError("\n".join(f"line {i}" for i in range(500))))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 24
    assert "480 more lines" in lines[-1]
    screens.complain(ConfigError("x" * 100_000))
    assert len(capsys.readouterr().err) < 2000


def test_an_unexpected_error_says_how_to_see_more(capsys):
    screens.complain_unexpected(KeyError("boom"))
    captured = capsys.readouterr()
    assert "KeyError: 'boom'" in captured.err
    assert "--debug" in captured.err


def test_pairs_are_aligned_and_keep_their_lines(capsys):
    screens.print_pairs([("a", "1"), ("long name", "2\n3")])
    assert capsys.readouterr().out == "a          1\nlong name  2\n           3\n"


def test_a_table_shows_every_cell_whole(capsys):
    name = "layer3.8.conv2." * 8
    screens.print_table("title", ["group", "macs"], [(name, "123,456,789,012")])
    out = capsys.readouterr().out
    assert "123,456,789,012" in out
    assert name[:40] in out.replace("\n", "").replace(" ", "")


def test_brackets_in_a_table_are_not_markup(capsys):
    screens.print_table("", ["what"], [("[bold]x[/bold]",)])
    assert "[bold]x[/bold]" in capsys.readouterr().out
