"""The dashboard: one page, put together from its parts, and the policy that keeps everything else out of it."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

SCRIPTS: Final = ("plots.js", "parts.js", "dashboard.js")
"""The parts of the script, in the order in which they build on each other."""


@dataclass(frozen=True, slots=True)
class Page:
    """``html`` needs nothing besides itself; ``policy`` is its Content-Security-Policy."""

    html: bytes
    policy: str


@cache
def page() -> Page:
    """The page as it is shipped. Its style and its script are named in the policy by their hashes: nothing that gets
    into the page by whatever way can run, or load anything from elsewhere."""
    folder = files("charon.admin") / "dashboard"
    style = (folder / "dashboard.css").read_text("utf-8")
    script = "".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    html = (folder / "dashboard.html").read_text("utf-8")
    html = html.replace("/* dashboard.css */", style).replace("/* dashboard.js */", script)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(html.encode(), policy)


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
