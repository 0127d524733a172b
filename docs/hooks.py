"""What mkdocs needs to know of this repository: files outside docs/ that the site shows, too."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SHOWN = {
    "results/LOG.md": "log.md",
    "CHANGELOG.md": "changelog.md",
    "ARCHITECTURE.md": "architecture.md",
    "results/speed/cpu.json": "cpu.json",
}
"""Path in the repository: address on the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the files of SHOWN to the site."""
    for path, address in SHOWN.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Return the page with each link to a file of SHOWN turned into one inside the site.

    In docs/ such a link leads through the repository, so that it works on a code host, too.
    """
    up = "../" * page.file.src_uri.count("/")
    for path, address in SHOWN.items():
        outside = rf"\]\((?:\.\./)+{re.escape(path)}"
        markdown = re.sub(outside, f"]({up}{address}", markdown)
    return markdown


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Return the page with the search worker of this site in place of one from the network."""
    return with_own_worker(output, "../" * page.file.dest_uri.count("/"))


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """Do the same for the page of what is not there."""
    return with_own_worker(output, "")


def with_own_worker(output: str, up: str) -> str:
    return output.replace("https://unpkg.com/iframe-worker/shim", f"{up}worker.js")


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Mark the tables of results, so that an interval stays on one line (style.css)."""
    is_result = page.file.src_uri.startswith(("results/", "speed"))
    return html.replace("<table>", "<table data-numbers>") if is_result else html
