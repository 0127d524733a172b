"""Pages from templates. Text is escaped; styles and scripts are inside the page, which needs no
network and runs no script but its own."""

import base64
import hashlib
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
    """Return escaped text in which **bold** and `code` become elements."""
    parts = text.split("`")
    pieces: list[Markup] = []
    for i, part in enumerate(parts):
        if i % 2 and i < len(parts) - 1:
            pieces.append(Markup("<code>{}</code>").format(part))
            continue
        for j, piece in enumerate(part.split("**")):
            pieces.append(Markup("<strong>{}</strong>").format(piece) if j % 2 else escape(piece))
    return Markup("").join(pieces)


def svg(files: Iterable[Path]) -> str:
    """Return the address that holds the SVG among a figure's files."""
    data = next(path for path in files if path.suffix == ".svg").read_bytes()
    return f"data:image/svg+xml;base64,{base64.b64encode(data).decode()}"


def fingerprint(text: str) -> str:
    """Return the hash by which a content security policy allows one inline script or style."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
