"""The campaign of damaged files, short: `make fuzz` runs the whole."""

import fuzz
import fuzz.outputs
from fuzz import records


def test_damaged_records_stop_no_command_and_stay_data():
    counts = records.campaign(15, seed=1)
    assert (counts.tries, counts.bad()) == (15, 0), "\n".join(counts.notes)


def test_the_campaign_counts_a_traceback_a_hang_and_nothing_for_an_error_of_the_user():
    counts = fuzz.Counts()
    fuzz.attempt(counts, "a", lambda: 1 / 0, ValueError)
    assert fuzz.attempt(counts, "b", lambda: int("x"), ValueError) is None
    assert fuzz.attempt(counts, "c", lambda: 3, ValueError) == 3
    assert (counts.tracebacks, counts.hangs) == (1, 0)
    assert counts.notes == ["traceback: a: ZeroDivisionError: 'division by zero'"]


def test_the_campaign_sees_code_that_a_page_would_carry(tmp_path):
    (tmp_path / "a.html").write_text("<p onclick='x'><script>1</script><script>2</script></p>")
    (tmp_path / "b.md").write_text("| a |\n| --- |\n| [x](javascript:y) | z |\n")
    (tmp_path / "c.csv").write_text("a,b\n=1,nan\n1\n")
    (tmp_path / "d.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><a href="x"/></svg>')
    faults = fuzz.outputs.faults_of_folder(tmp_path)
    assert {fault.partition(":")[0] for fault in faults} == {"a.html", "b.md", "c.csv", "d.svg"}
    assert "a.html: a second script" in faults and "c.csv: number nan" in faults
