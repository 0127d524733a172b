"""What all commands share: exit status, messages, and an output that nobody reads any more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.launch.command import command
from gradsae.errors import UserError


def test_a_command_whose_reader_leaves_goes_on_to_its_end_without_a_word(tmp_path: Path):
    """As in `command | head -1`: its output is a pipe whose other end is closed."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmarks.launch.command import command\n"
        "def main():\n"
        "    for _ in range(10_000): print('a line of the table')\n"
        f"    Path({str(tmp_path / 'saved')!r}).touch()\n"
        "sys.exit(command(main))\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("k must be whole"), 1, "error: k must be whole\n"),
        (KeyboardInterrupt, 130, "\nno\n"),
        (
            MemoryError("cannot allocate 9 TiB."),
            1,
            "error: not enough memory: cannot allocate 9 TiB. Take a smaller batch "
            "(fit.batch_size) or SAE (d_sae)\n",
        ),
    ],
)
def test_what_ends_a_command_is_one_message_and_a_status(capsys, error, status, message):
    def main() -> None:
        raise error

    assert command(main, stopped="no") == status
    assert capsys.readouterr().err == message


def test_the_help_of_the_main_command_names_every_group_and_imports_no_torch():
    code = (
        "import sys\n"
        "sys.argv[1:] = ['--help']\n"
        "from benchmarks import run\n"
        "run.main()\n"
        "assert 'torch' not in sys.modules\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\ntrainer: ba, batchtopk," in ended.stdout
