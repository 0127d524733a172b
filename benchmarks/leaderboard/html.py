"""HTML from text that is not trusted: everything is escaped unless this module made it."""

import base64
import hashlib
import html


class Html(str):
    """Markup made by `element`; any other string is text."""


def element(tag: str, *children: str | None, **attributes: str | bool | None) -> Html:
    """`<tag attr="...">children</tag>`, with text and attribute values escaped.

    A trailing underscore in an attribute's name is dropped and others become hyphens.
    """
    start = tag
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            start += f" {name}"
        elif value not in (False, None):
            start += f' {name}="{html.escape(str(value), quote=True)}"'
    if tag in ("meta", "img", "input", "br"):
        return Html(f"<{start}>")
    return Html(f"<{start}>{join(*children)}</{tag}>")


def join(*children: str | None) -> Html:
    return Html(
        "".join(
            child if isinstance(child, Html) else html.escape(child, quote=True)
            for child in children
            if child is not None
        )
    )


def caption(text: str) -> Html:
    """Escaped text in which **bold** and `code` become elements."""
    parts = text.split("`")
    pieces = []
    for i, part in enumerate(parts):
        if i % 2 and i < len(parts) - 1:
            pieces.append(element("code", part))
            continue
        for j, piece in enumerate(part.split("**")):
            pieces.append(element("strong", piece) if j % 2 else join(piece))
    return join(*pieces)


def fingerprint(text: str) -> str:
    """The hash by which a content security policy allows one inline script or style."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
