"""``/openapi``: every operation of the API, described from the types of its handler.

The types of a handler's arguments (``body``, ``form``, ``query``, ``path``) and of what
it returns are the only description. Annotations of the return type add what no type
says: other media (`ResponseSpec`), contracts the handler reads itself (`BodySpec`),
headers (`HeaderSpec`).
"""

import inspect
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from flask_openapi3.openapi import OpenAPI
from flask_openapi3.utils import HTTP_STATUS, parse_rule
from pydantic import BaseModel, TypeAdapter

from genie.api_types import (
    AcceptedJob,
    ApiObject,
    BatchAnswer,
    ErrorBody,
    FileAnswer,
    JobAnswer,
    NewKeyAnswer,
    ScheduleSummary,
)
from genie.contracts.base import Contract

OpenApiJson = dict[str, Any]
Schemas = dict[Any, OpenApiJson]

JSON = "application/json"
EVENTS = "text/event-stream"
BYTES = "application/octet-stream"
REF = "#/components/schemas/{}"
INPUTS = ("body", "form", "query", "path")
PARAMETERS = ("path", "query")
ONLY_WRITES = frozenset({"409", "413"})


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """One answer of a handler that returns a `Response`."""

    kind: Any
    status: int = 200
    media: str = JSON


@dataclass(frozen=True, slots=True)
class BodySpec:
    """The contract a handler reads by itself."""

    kind: type[Contract]


@dataclass(frozen=True, slots=True)
class HeaderSpec:
    """A header a handler reads; nobody has to send it."""

    name: str
    description: str


class OpenApiDocument:
    """The description of one application, made when it is first asked for."""

    def __init__(self, app: OpenAPI) -> None:
        self._app = app

    @cached_property
    def json(self) -> OpenApiJson:
        """The whole document; OpenAPI 3.1."""
        document: OpenApiJson = deepcopy(self._app.api_doc)
        operations = [
            Operation(document["paths"][path][method], view)
            for path, method, view in self._views(document["paths"])
        ]
        kinds = [kind for one in operations for kind in one.kinds()]
        schemas, components = _schemas(kinds)
        for operation in operations:
            operation.describe(schemas, components)
        for operation in operations:
            operation.link(operations)
        for kind in {k for one in operations for k in one.parameters().values()}:
            del components[_name(schemas[kind])]
        error = _errors(schemas[ErrorBody])
        document["components"] |= {"schemas": components, "responses": error}
        return document

    def _views(self, paths: OpenApiJson) -> Iterator[tuple[str, str, Any]]:
        for rule in self._app.url_map.iter_rules():
            path = parse_rule(rule.rule)
            for method in sorted(rule.methods or ()):
                if method.lower() in paths.get(path, {}):
                    view = inspect.unwrap(self._app.view_functions[rule.endpoint])
                    yield path, method.lower(), view


class Operation:
    """One method of one path: completes what flask-openapi3 wrote of it."""

    def __init__(self, operation: OpenApiJson, view: Any) -> None:
        self._operation, self.name = operation, str(view.__name__)
        hints = get_type_hints(view, include_extras=True)
        returned = hints.pop("return")
        self._responses = tuple(_response_specs(returned))
        self._contract = next(
            (one.kind for one in _annotations(returned, BodySpec)), None
        )
        self._headers = tuple(_annotations(returned, HeaderSpec))
        self._inputs = {name: hints[name] for name in INPUTS if name in hints}

    def kinds(self) -> Iterator[Any]:
        """Every type that needs a schema."""
        yield from self._inputs.values()
        yield from (one.kind for one in self._responses if one.media in (JSON, EVENTS))
        if self._contract is not None:
            yield self._contract

    def parameters(self) -> dict[str, Any]:
        """The types whose fields are parameters, by where they stand."""
        given = self._inputs
        return {place: given[place] for place in PARAMETERS if place in given}

    def describe(self, schemas: Schemas, components: OpenApiJson) -> None:
        """Describe what it takes and what it answers."""
        operation = self._operation
        operation["operationId"] = self.name
        if "description" in operation:
            operation["description"] = (
                operation["description"].replace("<br/>", "\n").strip()
            )
        codes = set(operation.get("responses", {}))
        operation["responses"] = self._successes(schemas) | self._failures(codes)
        self._describe_body(schemas)
        parameters = [
            parameter
            for place, kind in self.parameters().items()
            for parameter in _parameters(schemas[kind], components, place)
        ]
        parameters += map(_header, self._headers)
        if parameters:
            operation["parameters"] = parameters

    def link(self, operations: Sequence["Operation"]) -> None:
        """Link to the operations that take the ids it answers with."""
        for one in self._responses:
            name = _id_parameter(one.kind)
            links = {
                other.name: {
                    "operationId": other.name,
                    "parameters": {name: "$response.body#/id"},
                }
                for other in operations
                if name and other.takes(name)
            }
            if links:
                self._operation["responses"][str(one.status)]["links"] = links

    def takes(self, name: str) -> bool:
        """True when its path has a parameter of this name."""
        path = self._inputs.get("path")
        return path is not None and name in path.model_fields

    def _describe_body(self, schemas: Schemas) -> None:
        media = "multipart/form-data" if "form" in self._inputs else JSON
        kind = self._inputs.get("form") or self._inputs.get("body") or self._contract
        if kind is not None:
            content = {media: {"schema": schemas[kind]}}
            self._operation["requestBody"] = {"required": True, "content": content}

    def _successes(self, schemas: Schemas) -> OpenApiJson:
        found: OpenApiJson = {}
        for one in self._responses:
            response = found.setdefault(str(one.status), _success(one.status))
            response["content"][one.media] = {"schema": _schema(one, schemas)}
        return found

    def _failures(self, codes: set[str]) -> OpenApiJson:
        reads = "requestBody" not in self._operation and self.name.startswith(
            READ_VERBS
        )
        kept = codes - ONLY_WRITES if reads else codes
        described = {str(one.status) for one in self._responses}
        return {
            code: {
                "$ref": f"#/components/responses/{'Busy' if code == '503' else 'Error'}"
            }
            for code in sorted(kept - described)
        }


ID_PARAMETERS: dict[type[ApiObject], str] = {
    AcceptedJob: "job_id",
    JobAnswer: "job_id",
    FileAnswer: "file_id",
    BatchAnswer: "batch_id",
    ScheduleSummary: "schedule",
    NewKeyAnswer: "key_id",
}
"""Which parameter of other operations the id in an answer is."""

READ_VERBS = ("get_", "list_", "show_", "follow_")


def _response_specs(returned: Any) -> Iterator[ResponseSpec]:
    """What a return type says: a body, a body with its status, or its annotations."""
    if _is_struct(returned) or isinstance(returned, UnionType):
        yield ResponseSpec(returned)
    elif get_origin(returned) is tuple:
        kind, status = get_args(returned)
        yield ResponseSpec(kind, get_args(status)[0])
    elif get_origin(returned) is Annotated:
        yield from _response_specs(returned.__origin__)
    yield from _annotations(returned, ResponseSpec)


def _annotations(returned: Any, kind: type) -> Iterator[Any]:
    if get_origin(returned) is Annotated:
        yield from (one for one in returned.__metadata__ if isinstance(one, kind))


def _id_parameter(kind: Any) -> str | None:
    """The parameter that the id of an answer is, also of one that says more."""
    first = _parts(kind)[0]
    return next(
        (ID_PARAMETERS[base] for base in _bases(first) if base in ID_PARAMETERS), None
    )


def _bases(kind: Any) -> tuple[type, ...]:
    return kind.__mro__ if isinstance(kind, type) else ()


def _parts(kind: Any) -> tuple[Any, ...]:
    """The types of a union; of anything else, itself."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _schemas(kinds: list[Any]) -> tuple[Schemas, OpenApiJson]:
    """The schema of each type, and the components they refer to by name."""
    parts = dict.fromkeys(part for kind in [*kinds, ErrorBody] for part in _parts(kind))
    asked = [kind for kind in parts if _is_model(kind)]
    rest = [kind for kind in parts if not _is_model(kind)]
    schemas, components = _schemas_of_models(asked)
    found, more = msgspec.json.schema_components(
        rest, ref_template=REF.format("{name}")
    )
    for kind in _api_objects(ApiObject):
        if kind.__name__ in more:
            _say_what_is_written(more[kind.__name__], kind)
    schemas |= dict(zip(rest, found, strict=True))
    for kind in kinds:
        if isinstance(kind, UnionType):
            schemas[kind] = {"anyOf": [schemas[part] for part in _parts(kind)]}
    return schemas, components | more


def _schemas_of_models(models: list[Any]) -> tuple[Schemas, OpenApiJson]:
    """The same of what people send, which pydantic reads."""
    template = REF.format("{model}")
    refs, made = TypeAdapter.json_schemas(
        [(kind, "validation", TypeAdapter(kind)) for kind in models],
        ref_template=template,
    )
    components: OpenApiJson = made["$defs"]
    for schema in components.values():
        _forget_null_defaults(schema)
    return {kind: ref for (kind, _mode), ref in refs.items()}, components


def _forget_null_defaults(schema: OpenApiJson) -> None:
    """Leaving a field out is what people do; nobody sends the null it stands for."""
    for field in schema.get("properties", {}).values():
        if field.get("default", ...) is None:
            del field["default"]


def _say_what_is_written(schema: OpenApiJson, kind: type[ApiObject]) -> None:
    """Defaults are for readers; the cloud writes every field that is not UNSET."""
    is_sparse = kind.__struct_config__.omit_defaults
    for field in msgspec.structs.fields(kind):
        name, value = field.encode_name, schema["properties"][field.encode_name]
        value.pop("default", None)
        is_left_out = is_sparse and not field.required
        if value.pop("x-never-null", False) or is_left_out:
            schema["properties"][name] = _never_null(value)
        if is_left_out or field.default is msgspec.UNSET:
            continue
        if name not in schema["required"]:
            schema["required"].append(name)


def _never_null(schema: OpenApiJson) -> OpenApiJson:
    """The schema of what is left out when it is not known."""
    rest = {key: value for key, value in schema.items() if key != "default"}
    kinds = [one for one in rest.pop("anyOf", ()) if one.get("type") != "null"]
    return rest | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})


def _api_objects(base: type[ApiObject]) -> Iterator[type[ApiObject]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _api_objects(kind)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _parameters(
    schema: OpenApiJson, components: OpenApiJson, place: str
) -> Iterator[OpenApiJson]:
    schema = components[_name(schema)]
    required = schema.get("required", ())
    for name, value in schema["properties"].items():
        yield {
            "name": name,
            "in": place,
            "required": place == "path" or name in required,
            "schema": _never_null(value),
        }


def _header(header: HeaderSpec) -> OpenApiJson:
    return {
        "name": header.name,
        "in": "header",
        "required": False,
        "description": header.description,
        "schema": {"type": "string"},
    }


def _name(schema: OpenApiJson) -> str:
    return str(schema["$ref"]).rsplit("/", 1)[-1]


def _success(status: int) -> OpenApiJson:
    return {
        "description": HTTP_STATUS[str(status)],
        "headers": {"x-request-id": REQUEST_ID},
        "content": {},
    }


REQUEST_ID: OpenApiJson = {
    "description": "Yours, if you sent a good one.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
}

RETRY_AFTER: OpenApiJson = {
    "description": "Seconds.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1, "maximum": 120},
}


def _schema(response: ResponseSpec, schemas: Schemas) -> OpenApiJson:
    """What an answer holds; of events, what one of them does."""
    if response.media == JSON:
        return schemas[response.kind]
    if response.media != EVENTS:
        return {"type": "string"}
    chunk = {"contentMediaType": JSON, "contentSchema": schemas[response.kind]}
    data = {"type": "string", "anyOf": [{"const": "[DONE]"}, chunk]}
    text = {"type": "string"}
    return {
        "description": "One event.",
        "type": "object",
        "properties": {"data": data, "event": text, "id": text},
        "required": ["data"],
    }


def _errors(body: OpenApiJson) -> OpenApiJson:
    """What is no success, with the one body they all have."""
    content = {JSON: {"schema": body}}
    error = {
        "description": "What went wrong, and the next step.",
        "headers": {"x-request-id": REQUEST_ID},
        "content": content,
    }
    headers = {"x-request-id": REQUEST_ID, "Retry-After": RETRY_AFTER}
    return {
        "Error": error,
        "Busy": error | {"description": "Not now; try again.", "headers": headers},
    }
