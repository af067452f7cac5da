"""The documentation's table of what is supported is what was found by trying."""

from supported import FILE, tables


def test_the_table_is_true() -> None:
    assert FILE.read_text(encoding="utf-8") == tables() + "\n"
