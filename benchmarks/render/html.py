"""Pages from templates. Text is escaped; styles and scripts are inside the page, which needs no
network and runs no script but its own."""

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from benchmarks.results.vocabulary import format_score

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, *, style: str, script: str = "", **data: Any) -> str:
    """Return the page of a template; `style` and `script` name files beside it."""
    css = (TEMPLATES / style).read_text(encoding="utf-8")
    js = (TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    policy = f"default-src 'none'; style-src {fingerprint(css)}; img-src data:; "
    policy += f"script-src {fingerprint(js)}; " if js else ""
    policy += "base-uri 'none'; form-action 'none'"
    ours = {"css": Markup(css), "js": Markup(js), "policy": Markup(policy)}
    return environment().get_template(template).render(**ours, **data)


@cache
def environment() -> Environment:
    """Return the templates' environment: it escapes everything and knows no missing name."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"score": format_score, "caption": caption, "svg": svg}
    return made


def caption(text: str) -> Markup:
    """Return a caption in Markdown as HTML: **bold**, `code`, and letters that were escaped."""
    pieces: list[Markup] = []
    end = 0
    for match in MARKS.finditer(text):
        pieces += [escape(text[end : match.start()]), _marked(match)]
        end = match.end()
    return Markup("").join([*pieces, escape(text[end:])])


MARKS = re.compile(
    r"\\(?P<letter>[\\|`*_\]!])|&#(?P<number>\d{1,7});"
    r"|`(?P<code>[^`]*)`|\*\*(?P<bold>(?:[^*\\]|\\.)+)\*\*"
)
"""What `escaped` writes, and the two marks that a caption has."""


def _marked(match: re.Match[str]) -> Markup:
    letter, number, code, bold = match.groups()
    if bold is not None:
        return Markup("<strong>{}</strong>").format(caption(bold))
    if code is not None:
        return Markup("<code>{}</code>").format(code)
    return escape(letter or chr(int(number)))


def svg(files: Iterable[Path]) -> str:
    """Return the address that holds the SVG among a figure's files."""
    data = next(path for path in files if path.suffix == ".svg").read_bytes()
    return f"data:image/svg+xml;base64,{base64.b64encode(data).decode()}"


def fingerprint(text: str) -> str:
    """Return the hash by which a content security policy allows one inline script or style."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
