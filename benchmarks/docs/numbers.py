"""The page that lists changed numbers, from the changelog."""

import re

HEAD = """# How numbers changed

Each change after which a score of the same name can come out differently, and why. Written from
`CHANGELOG.md` by `python -m benchmarks.docs`. A change that moves what a task measures also raises
the task's version, and tables keep versions apart.
"""


def numbers(changelog: str) -> str:
    """Return the page of changed numbers: those sections of the changelog, under their version."""
    parts = [HEAD]
    for version in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        name, _, rest = version.partition("\n")
        _, has, section = rest.partition("### Changed numbers\n")
        if has:
            section = re.split(r"^###? ", section, flags=re.MULTILINE)[0]
            parts.append(f"## {name.strip('[] ')}\n\n{section.strip()}\n")
    return "\n".join(parts)
