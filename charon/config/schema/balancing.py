"""Which endpoint of a service comes next."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import GetJsonSchemaHandler, TypeAdapter, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from charon.config.schema.http_values import source
from charon.config.schema.section import Section, setting
from charon.config.schema.values import Choice, Duration, wrong

Algorithm = Annotated[str, *Choice("round_robin", "least_request", "random", "ring_hash", "ewma")]
_ALGORITHM: Final[TypeAdapter[str]] = TypeAdapter(Algorithm)


class LoadBalancing(Section):
    """A word stands for the whole block: `load_balancing: least_request`."""

    algorithm: Algorithm = setting(
        "round_robin",
        "`round_robin`: in turn, by weight. `least_request`: of two taken by chance, the one with fewer requests in "
        "progress. `random`: by chance, by weight. `ring_hash`: the same one for the same `hash_on`. `ewma`: of two "
        "taken by chance, the one that answered faster of late.",
    )
    hash_on: Annotated[str, *source("client_ip", "path", named=("header", "cookie"))] = setting(
        "client_ip",
        "What `ring_hash` keeps with one endpoint: `client_ip`, `path`, `header:NAME` or `cookie:NAME`. Requests "
        "without that field or cookie go to an endpoint by chance.",
    )
    slow_start: Duration = setting(
        "0s",
        "How long an endpoint that has come back takes to get its full share. `0s`: at once. `ring_hash` takes no "
        "notice of it: a key would lose the endpoint that it is kept with.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        try:
            return {"algorithm": _ALGORITHM.validate_python(data)}
        except ValidationError as error:
            raise wrong(error.errors()[0]["msg"]) from None

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler(core)
        word = {"anyOf": found["properties"]["algorithm"]["anyOf"], "title": "an algorithm"}
        return {"anyOf": [found, word], "title": "an algorithm, or a block"}
