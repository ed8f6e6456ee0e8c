"""What the admin API answers, as an OpenAPI document: the only description of it. docs/admin-api.md is made from this,
``/api/openapi.json`` answers it, and the tests hold the API to it."""

from __future__ import annotations

from typing import Final

from charon import __version__
from charon.admin.schemas import SCHEMAS, Schema, arr, integer, obj, ref, text
from charon.telemetry.events import LEVELS

_TITLES: Final = {
    "200": "Done.",
    "400": "The parameters or the body are not as described here.",
    "401": "Over TCP: there is no token, or not a right one.",
    "403": "Not for this user or this token, or a page of another site asks.",
    "409": "The kernel, or the configuration, does not let that happen.",
    "422": "The configuration has mistakes; the one that was in force stays in force.",
}

_GENERAL: Final = """\
The admin API is on the Unix socket `admin.socket`, and on the TCP address `admin.address` where one is configured.

Whoever may open the Unix socket may read; its owner and root may also act, and its group with `admin.group_may_write`.
Over TCP `Authorization: Bearer TOKEN` is needed, with the token of `admin.read_token_file` or `admin.write_token_file`;
without one only `/`, `/livez` and `/readyz` are answered. It is plain HTTP: keep it on the loopback interface, or use
`ssh -L 9901:/run/charon/admin.sock HOST`, which needs no token.

Rates are per second over the last `window_seconds`, latencies in milliseconds, points in time in Unix seconds. Names
that are here stay; new ones may come. An address that serves two services shows the traffic of both with each."""


def document() -> Schema:
    """The OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Charon's admin API", "version": __version__, "description": _GENERAL},
        "paths": _paths(),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths() -> dict[str, Schema]:
    plain = {"text/plain": {"schema": text()}}
    services = _parameter(
        "services", integer(minimum=0, maximum=2**53), "At most so many services, those with news first."
    )
    history = _parameter(
        "history", {"type": "string", "enum": ["true", "false"]}, "Add the last minute, second by second."
    )
    after = _parameter("after", integer(minimum=0, maximum=2**53), "Only problems after the one with this `id`.")
    return {
        "/": _get("The dashboard: a page that shows what is below.", {"text/html": {"schema": text()}}, everybody=True),
        "/livez": _get("Charon runs.", plain, everybody=True),
        "/readyz": _get(
            "Charon serves.",
            plain,
            everybody=True,
            more={"503": {"description": "It does not, and why.", "content": plain}},
        ),
        "/metrics": _get(
            "Metrics for Prometheus, as text or as OpenMetrics.",
            {**plain, "application/openmetrics-text": {"schema": text()}},
        ),
        "/api/status": _get("Everything that is known.", _json(ref("Status")), services, history),
        "/api/services": _get("Services, each with its endpoints.", _json(ref("Services"))),
        "/api/listeners": _get("Listeners.", _json(arr(ref("Listener")))),
        "/api/workers": _get("Worker processes.", _json(arr(ref("Worker")))),
        "/api/certificates": _get("Certificates and authorities.", _json(arr(ref("Certificate")))),
        "/api/config": _get(
            "The configuration in force: all defaults filled in, secrets masked.", _json(ref("Config"))
        ),
        "/api/problems": _get(
            "The last warnings, errors and failed requests, the oldest first.", _json(ref("Problems")), after
        ),
        "/api/greenlets": _get(
            "The greenlets of every process, by name.",
            _json({"type": "object", "additionalProperties": arr(text())}),
        ),
        "/api/intercept": _get("The rules of transparent interception.", _json(ref("Rules")), more=_refusals("409")),
        "/api/openapi.json": _get("This description.", _json({"type": "object"})),
        "/api/reload": _post(
            "Put the configuration in force as it stands in its file, as a whole or not at all.",
            None,
            {"200": _json(ref("Reload")), "422": _json(ref("Reload"))},
        ),
        "/api/drain": _post(
            "Say not ready from now on; after the delay finish what is under way and end.",
            obj(_required=(), delay_seconds={"type": "number", "minimum": 0, "maximum": 3600}),
            {"202": _json(obj(ok={"type": "boolean"}, delay_seconds={"type": "number"}))},
        ),
        "/api/log-level": _post(
            "Log what is of this level and above, in all processes, until the next reload.",
            obj(level={"type": "string", "enum": list(LEVELS)}),
            {"200": _json(obj(ok={"type": "boolean"}, level=text()))},
        ),
        **{
            f"/api/intercept/{word}": _post(summary, None, {"200": _json(ref("Rules")), "409": _json(ref("Error"))})
            for word, summary in (
                ("up", "Put the rules of interception up."),
                ("down", "Take the rules of interception away."),
            )
        },
    }


def _get(
    summary: str, content: Schema, *parameters: Schema, everybody: bool = False, more: Schema | None = None
) -> Schema:
    answers = {"200": {"description": "Here it is.", "content": content}, **(more or {})}
    answers |= _refusals("403", *([] if everybody else ["401"]), *(["400"] if parameters else []))
    operation: Schema = {"summary": summary, "responses": answers}
    if parameters:
        operation["parameters"] = list(parameters)
    if not everybody:
        operation["security"] = [{"token": []}, {}]
    return {"get": operation}


def _post(summary: str, body: Schema | None, answers: dict[str, Schema]) -> Schema:
    titles = {status: _TITLES.get(status, "It has begun.") for status in answers}
    responses: Schema = {status: {"description": titles[status], "content": answers[status]} for status in answers}
    operation: Schema = {"summary": summary, "security": [{"token": []}, {}]}
    if body is not None:
        required = bool(body.get("required"))
        operation["requestBody"] = {"required": required, "content": _json(body)}
        responses |= _refusals("400")
    operation["responses"] = responses | _refusals("401", "403")
    return {"post": operation}


def _refusals(*statuses: str) -> Schema:
    return {status: {"description": _TITLES[status], "content": _json(ref("Error"))} for status in statuses}


def _parameter(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


# docs/admin-api.md


def manual() -> str:
    """docs/admin-api.md."""
    made = document()
    lines = ["# The admin API", "", "<!-- Made by scripts/generate from charon/admin/openapi.py. -->", "", _GENERAL, ""]
    lines += ["## Paths", "", "| path | what it answers | parameters or body | answers |", "| --- | --- | --- | --- |"]
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            given = [f"`{p['name']}`: {p['description']}" for p in operation.get("parameters", ())]
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                given = [f"`{name}`: {_kind(kind)}" for name, kind in schema["properties"].items()]
            statuses = ", ".join(operation["responses"])
            cells = f"`{method.upper()} {path}`", operation["summary"], " ".join(given), statuses
            lines.append("| " + " | ".join(cells) + " |")
    for name, schema in SCHEMAS.items():
        lines += ["", f"## {name}", "", schema.get("description", ""), ""]
        if "properties" in schema:
            lines += ["| key | | |", "| --- | --- | --- |"]
            for key, below in schema["properties"].items():
                lines.append(f"| `{key}` | {_kind(below)} | {below.get('description', '')} |")
    return "\n".join(line.rstrip() for line in lines).replace("\n\n\n", "\n\n").rstrip("\n") + "\n"


def _kind(schema: Schema) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{word}`" for word in schema["enum"])
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"list of {_kind(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map of names to {_kind(schema['additionalProperties'])}"
    return str(kind)


def generated() -> dict[str, str]:
    """Every file that is made from this, by its path in the project."""
    return {"docs/admin-api.md": manual()}
