"""Write one static HTML page per prompt from records alone: tokens, latents ranked by each method
beside the truth, and texts before and after steering.

python -m benchmarks.pages [--records local|published|both|DIR] [--out DIR] [--most N]
"""

import argparse
import sys
from pathlib import Path

from benchmarks.launch.command import command
from benchmarks.pages.page import index, pages_by_setting
from benchmarks.results.reading import add_records_argument, read
from gradsae.errors import UserError
from gradsae.storage.files import check_writable, write_whole


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_records_argument(parser)
    parser.add_argument("--out", default="results/local/pages", type=Path, help="%(default)s")
    parser.add_argument("--most", default=10, type=int, help="pages of a record (%(default)s)")
    args = parser.parse_args()
    listed = pages_by_setting(read(args.records), args.most)
    if not listed:
        raise UserError(
            f"no records of masking, influence or steering in {args.records}; "
            "`python -m benchmarks.run experiment=masking` makes some"
        )
    check_writable(args.out, "--out")
    every = [page for _, pages in listed for page in pages]
    for page in every:
        write_whole(args.out / page.file, page.html)
    write_whole(args.out / "index.html", index(listed))
    print(f"{len(every)} pages, listed in {args.out / 'index.html'}")


if __name__ == "__main__":
    sys.exit(command(main))
