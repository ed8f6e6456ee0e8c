"""The values that the admin API answers with, as JSON Schema."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]


def obj(_about: str = "", /, _required: tuple[str, ...] | None = None, **properties: Schema) -> Schema:
    """An object with these properties and no others; all must be there but where ``_required`` names those."""
    required = list(properties if _required is None else _required)
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        found["required"] = required
    return found | ({"description": _about} if _about else {})


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def arr(items: Schema, about: str = "") -> Schema:
    return {"type": "array", "items": items} | ({"description": about} if about else {})


def maybe(schema: Schema, about: str = "") -> Schema:
    return {"anyOf": [schema, {"type": "null"}]} | ({"description": about} if about else {})


def text(about: str = "", **more: Any) -> Schema:
    return {"type": "string"} | ({"description": about} if about else {}) | more


def words(*allowed: str, about: str = "") -> Schema:
    return {"type": "string", "enum": list(allowed)} | ({"description": about} if about else {})


def integer(about: str = "", **more: Any) -> Schema:
    return {"type": "integer"} | ({"description": about} if about else {}) | more


def number(about: str = "") -> Schema:
    return {"type": "number"} | ({"description": about} if about else {})


def switch(about: str = "") -> Schema:
    return {"type": "boolean"} | ({"description": about} if about else {})


def _map(schema: Schema, about: str = "") -> Schema:
    return {"type": "object", "additionalProperties": schema} | ({"description": about} if about else {})


_RATES: Final[Schema] = {
    "requests_per_second": number("HTTP requests, and relayed TCP connections that ended."),
    "errors_per_second": number("Of these, answers of 500 and above, and connections that failed."),
    "error_rate": number("Share of errors, 0 to 1."),
}

_CHANGE: Final = "When it was, and how it went; empty when there was none."

SCHEMAS: Final[dict[str, Schema]] = {
    "Status": obj(
        "The state of one Charon.",
        version=text(),
        pid=integer("Of the supervisor."),
        time=number("Now."),
        uptime_seconds=number(),
        ready=switch("Whether it serves."),
        not_ready_because=maybe(text()),
        draining=switch(),
        connections=integer("Open client connections."),
        draining_connections=integer("Of these, those that are only to finish."),
        predecessor=maybe(
            obj(pid=integer(), connections=integer()), "The program that this one replaced, while it finishes."
        ),
        config_file=text(),
        config_digest=text("Tells one configuration from another."),
        log=ref("Log"),
        last_reload={**ref("Reloaded"), "description": _CHANGE},
        last_upgrade={**ref("Upgraded"), "description": _CHANGE},
        registry=maybe(ref("Registry")),
        generation=integer("Counts the changes of what workers are told."),
        window_seconds=number("What rates and latencies are taken over."),
        traffic=ref("Traffic"),
        listeners=arr(ref("Listener")),
        services=ref("Services"),
        services_total=integer("How many services there are, shown or not."),
        workers=arr(ref("Worker")),
        certificates=arr(ref("Certificate")),
        interception=maybe(ref("Interception"), "Null where it is off."),
        last_problem=integer("`id` of the newest problem; 0 when there was none."),
    ),
    "Traffic": obj(
        "All HTTP traffic together, and what was held back.",
        (
            *("requests_per_second", "errors_per_second", "error_rate", "answers_per_second", "latency_ms"),
            *("tcp_connections_per_second", "retries_per_second", "rate_limited_per_second", "limits_hit"),
            "retry_budgets_exhausted",
        ),
        **_RATES,
        answers_per_second=_map(number(), "By class of status: `2xx`, ..."),
        latency_ms=maybe(ref("Latency")),
        tcp_connections_per_second=number("Relayed TCP connections that ended."),
        retries_per_second=number("Further tries after a failed one."),
        rate_limited_per_second=number("Requests refused by rate limits."),
        limits_hit=arr(obj(route=text(), per_second=number()), "Rate limits that refused something."),
        retry_budgets_exhausted=arr(
            obj(service=text(), per_second=number()), "Services whose retry budget had no room for a retry."
        ),
        history=ref("History"),
    ),
    "Latency": obj(
        "Milliseconds that requests took, from their first byte to the last of their answer.",
        p50=number("Half of them took less."),
        p90=number("Nine in ten."),
        p99=number("99 in a hundred."),
    ),
    "History": obj(
        "The last minute, a value each second, the oldest first.",
        requests_per_second=arr(number()),
        errors_per_second=arr(number()),
    ),
    "Listener": obj(
        "One listener.",
        name=text(),
        address=text("The one that is really listened on."),
        protocol=text(),
        tls=switch(),
        connections=integer("Open now."),
        in_flight=integer("HTTP requests being handled now."),
        connections_per_second=number("Accepted."),
        **_RATES,
        received_bytes_per_second=number("From clients."),
        sent_bytes_per_second=number("To clients."),
    ),
    "Services": _map(arr(ref("Endpoint")), "Every service with its endpoints."),
    "Endpoint": obj(
        "One endpoint of a service.",
        (
            *("endpoint", "healthy", "breaker", "ejected", "in_flight", "requests_per_second", "errors_per_second"),
            *("error_rate", "latency_ms"),
        ),
        endpoint=text(),
        healthy={
            "type": ["boolean", "null"],
            "description": "What probes find; null when it is not probed, or not yet.",
        },
        breaker=words("closed", "open", "half_open"),
        ejected=switch("Set aside because its requests failed."),
        in_flight=integer("Requests it is working on now."),
        **_RATES,
        latency_ms=maybe(ref("Latency")),
        history=ref("History"),
    ),
    "Worker": obj(
        "One worker slot, and the process in it.",
        ("slot", "pid", "ready", "crash_loop", "generation", "deaths"),
        slot=integer(),
        pid=maybe(integer()),
        ready=switch(),
        crash_loop=switch("It died soon after its start, again and again, and is started less often."),
        generation=integer("Of what it was told last."),
        deaths=integer("Processes of this slot that died."),
        connections=integer(),
        draining=integer("Of the connections, those that are only to finish."),
        overloaded=arr(text(), "What there is too much of, so that it turns work away."),
        paused=maybe(text(), "For want of what it accepts no connections now."),
    ),
    "Certificate": {
        "type": "object",
        "description": "One certificate or authority.",
        "required": ["name", "kind", "identity", "file", "not_after", "days_left", "problem", "warnings"],
        "properties": {
            "name": text(),
            "kind": text("`certificate` or `authority`."),
            "source": text("`charon` where Charon issues it, else `file`."),
            "identity": maybe(text(), "Its SPIFFE identity."),
            "names": arr(text(), "The names and addresses it is for."),
            "serial": text(),
            "file": maybe(text()),
            "not_after": number("When it expires."),
            "days_left": number("Below 0 when it has expired."),
            "problem": maybe(text(), "Why it could not be renewed or loaded."),
            "warnings": arr(text()),
        },
    },
    "Interception": obj(
        "Transparent interception.",
        up=switch("Whether its rules are wanted in the kernel."),
        table=text("The nftables table."),
        on_stop=words("open", "closed"),
        trouble=maybe(text()),
        connections=_map(_map(integer()), "Intercepted since the start, by direction and result."),
    ),
    "Rules": obj(
        "The rules of interception, and how what the kernel has differs.",
        ("enabled",),
        enabled=switch(),
        up=switch("Whether they are wanted in the kernel."),
        table=text(),
        rules=text("As nft takes them."),
        difference=maybe(text()),
    ),
    "Log": obj(
        "The log.",
        file=maybe(text(), "Null for standard output."),
        level=text(),
        lines_dropped=integer("Given up since the start, as they could not be written in time."),
        write_errors=integer("Failures to write since the start."),
    ),
    "Registry": obj(
        "The registry file.",
        file=text(),
        ok=switch("Whether the file as it stands is in force."),
        loaded_at=number("When the one in force was loaded; 0 for never."),
        problems=arr(text(), "The mistakes of the file as it stands."),
    ),
    "Reloaded": obj(
        "A reload of the configuration.", (), ok=switch(), at=number(), problems=arr(text()), digest=text()
    ),
    "Upgraded": obj("An upgrade in place.", (), ok=switch(), at=number(), problem=maybe(text())),
    "Reload": obj("What became of a reload.", ok=switch(), problems=arr(text(), "Every mistake, with file and line.")),
    "Config": obj(
        "The configuration in force. Times are in seconds, sizes in bytes.",
        file=text(),
        digest=text(),
        config={"type": "object", "description": "The keys of config.yaml; `listeners` with all that they inherit."},
    ),
    "Problems": obj(
        "What went wrong of late.",
        last=integer("`id` of the newest problem; 0 when there was none."),
        problems=arr(ref("Problem")),
    ),
    "Problem": {
        "type": "object",
        "description": "The fields of a log line, with `id`, with `worker` where a worker wrote it, and with "
        "`repeated`: how many more like it, or that there was no room for, came in the same second.",
        "required": ["id", "timestamp", "level", "message"],
        "properties": {
            "id": integer(),
            "timestamp": text(),
            "level": text(),
            "message": text("The event's name."),
            "worker": integer(),
            "repeated": integer(),
        },
    },
    "Error": obj("Why there is no answer.", status=integer(), error=text()),
}
