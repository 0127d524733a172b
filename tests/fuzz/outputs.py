"""What commands write, read back by parsers that are not ours."""

import csv
import html.parser
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import markdown as python_markdown

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "nav", "p"),
    *("a", "label", "input", "span", "div", "table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("button", "small", "details", "summary", "code", "strong", "figure", "img", "figcaption"),
    *("dl", "dt", "dd", "ul", "li", "h1", "h2", "script"),
}
"""Elements that our templates have."""
MARKDOWN_TAGS = {
    *("h1", "h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "em", "code"),
}
LINKS = re.compile(r"#[\w-]*|[\w./%-]+|data:image/svg\+xml;base64,[A-Za-z0-9+/=]*")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Letters that steer a terminal or turn the direction of a text."""


class _Elements(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_comment(self, data: str) -> None:
        self.found.append(("a comment", {}))


def faults_of_html(text: str, tags: set[str] = TAGS) -> list[str]:
    """Return what a page has that none of our templates writes."""
    faults = []
    scripts = 0
    for tag, attributes in _Elements(text).found:
        scripts += tag == "script"
        if tag not in tags:
            faults.append(f"element {tag}")
        faults += [f"attribute {name}" for name in attributes if name.startswith("on")]
        for name in ("href", "src"):
            target = attributes.get(name)
            if target is not None and not LINKS.fullmatch(target):
                faults.append(f"{name}={target[:60]}")
    return faults + ["a second script"] * (scripts > 1)


def faults_of_markdown(text: str) -> list[str]:
    """Return what Markdown turns into beyond heads, tables, emphasis and code."""
    faults = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in block.splitlines()}
        faults += [f"rows of {sorted(widths)} columns"] * (len(widths) > 1)
    text = re.sub(r"^<!-- \w+: (begin|end) -->$", "", text, flags=re.MULTILINE)  # our marks
    made = python_markdown.markdown(text, extensions=["tables", "attr_list"])
    faults += faults_of_html(made, MARKDOWN_TAGS)
    faults += [f"attribute {name}" for name in re.findall(r"<\w+ (\w+)=", made) if name != "style"]
    return faults


def faults_of_csv(text: str) -> list[str]:
    """Return rows of another width than the head, formulas, and numbers that are not finite."""
    head, *rows = csv.reader(io.StringIO(text))
    faults = ["a row of another width"] * any(len(row) != len(head) for row in rows)
    cells = [cell for row in rows for cell in row]
    faults += [f"formula {cell[:20]!r}" for cell in cells if re.match(r"[=@\t\r]|[+-]\D", cell)]
    return faults + [f"number {cell}" for cell in cells if cell in ("nan", "inf", "-inf")]


def faults_of_svg(text: str) -> list[str]:
    """Return scripts, actions, and links to anything but a part of the same drawing."""
    faults = []
    for element in ElementTree.fromstring(text).iter():
        tag = element.tag.rpartition("}")[2]
        faults += [f"element {tag}"] * (tag in ("script", "foreignObject", "a", "image"))
        for name, value in element.attrib.items():
            is_link = name.rpartition("}")[2] == "href"
            if name.startswith("on") or (is_link and not value.startswith("#")):
                faults.append(f"{name}={value[:60]}")
    return faults


def faults_of_terminal(text: str) -> list[str]:
    """Return the letters that steer a terminal."""
    return [f"letter {letter!r}" for letter in set(CONTROLS.findall(text))]


def faults_of_folder(folder: Path) -> list[str]:
    """Return the faults of all pages in a folder, each with the name of its file."""
    readers = {".html": faults_of_html, ".md": faults_of_markdown, ".csv": faults_of_csv}
    readers[".svg"] = faults_of_svg
    faults = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in readers:
            text = path.read_text(encoding="utf-8")
            faults += [f"{path.name}: {fault}" for fault in readers[path.suffix](text)]
    return faults
