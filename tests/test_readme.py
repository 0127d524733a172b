"""Tables of docs/ are those of the published records."""

import pytest

from benchmarks import influence_table, recovery_table
from benchmarks.render.markdown import markers, replaced
from benchmarks.results.reading import read
from benchmarks.results.settings import make_settings
from gradsae.errors import UserError


def test_only_what_stands_between_the_markers_is_replaced():
    begin, end = markers("x")
    before = f"a\n{begin}\nold\n{end}\nb"
    assert replaced(before, "x", "new") == f"a\n{begin}\nnew\n{end}\nb"
    assert replaced(replaced(before, "x", "new"), "x", "new") == replaced(before, "x", "new")
    with pytest.raises(UserError, match="must hold <!-- x: begin -->"):
        replaced("a", "x", "new")


def test_the_tables_show_the_published_records():
    cells = make_settings(read("published"))
    for table in (recovery_table, influence_table):
        for path, text in table.pages(cells).items():
            assert path.read_text() == text
