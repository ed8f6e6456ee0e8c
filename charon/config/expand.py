"""The environment in a configuration's text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from charon.config.document import Expand

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{", re.ASCII)


def expander(environ: Mapping[str, str]) -> Expand:
    """Replaces ``${NAME}`` and ``${NAME:-default}``; ``$${`` is a plain ``${``. Raises ValueError."""

    def one(match: re.Match[str]) -> str:
        if match.group() == "$${":
            return "${"
        name, default = match.group(1), match.group(2)
        if name is None:
            raise ValueError("'${' without a name and '}'; write ${NAME}, ${NAME:-default}, or $${ for the characters")
        value = environ.get(name)
        if value is None and default is None:
            raise ValueError(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        return (value or default) if default is not None else value or ""

    return lambda text: _VARIABLE.sub(one, text)
