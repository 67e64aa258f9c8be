"""Pure functions: parts of OpenAPI 3.1 documents that cloud and node share: schemas, examples, problems, texts.

A document is a value of JSON objects and lists. Types are msgspec structs: `msgspec.json.schema_components` makes their
schemas, the text below a field is its description, and examples are made of the types.
"""

import ast
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any, NewType, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect as types

from protocol.ids import ID_LETTERS

Json = dict[str, Any]
"""A JSON object."""

OPENAPI = "3.1.0"
PROBLEM_SCHEMA = "Problem"

_SCHEMA_REF = "#/components/schemas/{name}"
_GENERIC = re.compile(r"(\w+?)_(\w+)_")
_ID_PREFIXES = {
    "TenantId": "ten",
    "NodeId": "node",
    "ActivationId": "act",
    "RenewalId": "ren",
    "CodeId": "code",
    "TokenId": "tok",
    "AirgapRequestId": "agr",
    "EventId": "evt",
    "RecoveryId": "rcv",
    "RecoveryCodeId": "rcc",
}
_PLAIN_EXAMPLES: Mapping[type[types.Type], Any] = {
    types.IntType: 1,
    types.BoolType: False,
    types.DateTimeType: "2030-01-02T03:04:05Z",
    types.BytesType: "MIIB",
}


_EXAMPLE_KINDS: Mapping[type[types.Type], type] = {
    types.StructType: type(None),  # a struct is made of its fields
    types.DictType: dict,
    types.BoolType: bool,
}
"""The kind that a given example must have for a field of this type. Fields of one name can have several types."""


class Refusal(msgspec.Struct, frozen=True):
    """What a document says of one problem code: its HTTP status, its title, and the body of an answer with it."""

    code: str
    status: int
    title: str
    body: msgspec.Struct


def id_pattern(prefix: str) -> str:
    """Regular expression of an id with this prefix (`protocol.ids`)."""
    return f"^{prefix}_{ID_LETTERS}$"


def example_id(prefix: str) -> str:
    """An id that no installation has."""
    return f"{prefix}_{'01k'.ljust(26, '0')}"


# Texts.


def texts_of(docstring: str | None) -> tuple[str, str]:
    """Summary and description of an operation: the first paragraph of its docstring without the stop, and all of it."""
    text = reflowed(docstring or "")
    return text.partition("\n\n")[0].removesuffix("."), text


def reflowed(docstring: str) -> str:
    """A docstring with one line a paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", docstring.strip()))


def field_texts(source: str) -> dict[str, str]:
    """Field name -> the string that follows the field in the source text of a class."""
    body = cast(ast.ClassDef, ast.parse(textwrap.dedent(source)).body[0]).body
    texts: dict[str, str] = {}
    for field, text in pairwise(body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            texts[field.target.id] = " ".join(text.value.value.split())
    return texts


# Schemas.


def schemas(structs: Iterable[Any], source_of: Callable[[type], str]) -> dict[str, Json]:
    """JSON Schemas of structs and of every struct inside them, by component name.

    `source_of` returns the source text of a class; its field texts become descriptions.
    """
    wanted = tuple(structs)
    _, made = msgspec.json.schema_components(wanted, ref_template=_SCHEMA_REF)
    described = {_component_name(cls): cls for cls in _structs_in(wanted)}
    return {component_name(name): _described(name, schema, described[name], source_of) for name, schema in made.items()}


def schema_ref(struct: Any) -> Json:
    """Reference to the schema of a struct."""
    return {"$ref": _SCHEMA_REF.format(name=component_name(_component_name(struct)))}


def component_name(name: str) -> str:
    """The name of a component: `Page_Tenant_`, as msgspec names `Page[Tenant]`, becomes `TenantPage`."""
    generic = _GENERIC.fullmatch(name)
    return f"{generic[2]}{generic[1]}" if generic else name


def _component_name(struct: Any) -> str:
    origin = get_origin(struct)
    if origin is None:
        return str(struct.__name__)
    return f"{origin.__name__}_{'_'.join(each.__name__ for each in get_args(struct))}_"


def _structs_in(wanted: tuple[Any, ...]) -> list[Any]:
    """The structs, and every struct that is the type of a field, at any depth."""
    found: dict[Any, None] = {}

    def visit(info: types.Type) -> None:
        match info:
            case types.StructType():
                if info.cls not in found:
                    found[info.cls] = None
                    for field in info.fields:
                        visit(field.type)
            case types.Metadata():
                visit(info.type)
            case types.UnionType():
                for each in info.types:
                    visit(each)
            case types.VarTupleType():
                visit(info.item_type)
            case types.DictType():
                visit(info.value_type)
            case _:
                return

    for info in types.multi_type_info(wanted):
        visit(info)
    return list(found)


def _described(name: str, schema: Json, struct: Any, source_of: Callable[[type], str]) -> Json:
    """The schema with descriptions of its fields, patterns of ids, and references by our component names."""
    made = cast(Json, _renamed(schema))
    made["title"] = component_name(name)
    if "description" in made:
        made["description"] = reflowed(made["description"])
    plain = get_origin(struct) or struct
    texts: dict[str, str] = {}
    for cls in reversed(plain.__mro__):
        if issubclass(cls, msgspec.Struct) and cls.__struct_fields__:
            texts.update(field_texts(source_of(cls)))
    hints = get_type_hints(plain)
    for field, described in made.get("properties", {}).items():
        if field in texts:
            described["description"] = texts[field]
        _refine(described, hints.get(field))
    return made


def _refine(schema: Json, hint: Any) -> None:
    """Add to the schema of a field what msgspec leaves out: patterns of ids, and that a time is a date and time."""
    prefix = id_prefix_of(hint)
    is_time = datetime in (hint, *get_args(hint))
    items = schema.get("items")
    for branch in (schema, *schema.get("anyOf", ()), *([items] if isinstance(items, dict) else [])):
        if branch.get("type") != "string":
            continue
        if prefix:
            branch["pattern"] = id_pattern(prefix)
        if is_time:
            branch["format"] = "date-time"


def id_prefix_of(hint: Any) -> str:
    """The prefix of the ids that a field of the type `hint` has; empty for a field of another type."""
    for each in (hint, *get_args(hint)):
        if isinstance(each, NewType) and each.__name__ in _ID_PREFIXES:
            return _ID_PREFIXES[each.__name__]
    return ""


def _renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renamed(each) for each in value]
    if not isinstance(value, dict):
        return value
    made = {key: _renamed(each) for key, each in value.items()}
    if isinstance(made.get("$ref"), str):
        name = made["$ref"].rpartition("/")[2]
        made["$ref"] = _SCHEMA_REF.format(name=component_name(name))
    return made


# Examples.


def example(struct: Any, values: Mapping[str, Any]) -> Any:
    """An example of a struct, as JSON. `values` has an example by field name; other fields get one of their type.

    Raises msgspec.ValidationError when `values` has a value of another type.
    """
    made = _example(types.type_info(struct), values, "", {})
    msgspec.json.decode(msgspec.json.encode(made), type=struct, strict=True)
    return made


def _example(info: types.Type, values: Mapping[str, Any], field: str, hints: Mapping[str, Any]) -> Any:
    prefix = id_prefix_of(hints.get(field))
    if prefix:
        return None if isinstance(info, types.UnionType) else example_id(prefix)
    if isinstance(info, types.LiteralType):
        return values[field] if values.get(field) in info.values else info.values[0]
    if field in values and isinstance(values[field], _EXAMPLE_KINDS.get(type(info), object)):
        return values[field]
    match info:
        case types.StructType():
            inner = get_type_hints(get_origin(info.cls) or info.cls)
            return {each.encode_name: _example(each.type, values, each.name, inner) for each in info.fields}
        case types.Metadata():
            return _example(info.type, values, field, hints)
        case types.UnionType():
            structs = [each for each in info.types if isinstance(each, types.StructType)]
            return _example(structs[0], values, field, hints) if structs else None
        case types.VarTupleType():
            return [_example(info.item_type, values, "", {})]
        case types.DictType():
            return {"name": _example(info.value_type, values, "", {})}
        case types.StrType():
            return field or "text"
        case types.RawType():
            return values.get(field, {})
        case _:
            return _PLAIN_EXAMPLES.get(type(info))


# Problems.


def problem_components(refusals: Iterable[Refusal], media_type: str) -> Json:
    """`components/examples` and `components/responses`: one answer a code."""
    wanted = sorted(refusals, key=lambda each: each.code)
    return {
        "examples": {each.code: {"summary": each.title, "value": msgspec.to_builtins(each.body)} for each in wanted},
        "responses": {each.code: _problem_response([each], media_type) for each in wanted},
    }


def problem_responses(refusals: Iterable[Refusal], media_type: str) -> dict[str, Json]:
    """Responses by status. Each names its codes in its description, in its schema, and by an example a code."""
    by_status: dict[int, list[Refusal]] = {}
    for refusal in sorted(refusals, key=lambda each: (each.status, each.code)):
        by_status.setdefault(refusal.status, []).append(refusal)
    return {
        str(status): _problem_response(found, media_type)
        if len(found) > 1
        else {"$ref": f"#/components/responses/{found[0].code}"}
        for status, found in by_status.items()
    }


def _problem_response(refusals: list[Refusal], media_type: str) -> Json:
    narrowed = {
        "$ref": _SCHEMA_REF.format(name=PROBLEM_SCHEMA),
        "properties": {"code": {"enum": [refusal.code for refusal in refusals]}},
    }
    examples = {refusal.code: {"$ref": f"#/components/examples/{refusal.code}"} for refusal in refusals}
    return {
        "description": "\n\n".join(f"`{refusal.code}`: {refusal.title}." for refusal in refusals),
        "content": {media_type: {"schema": narrowed, "examples": examples}},
    }


def without_unused(document: Json) -> Json:
    """The document without shared responses that no operation refers to: codes that share their status with others."""
    used = json.dumps(document["paths"])
    components = document["components"]
    responses = {code: each for code, each in components["responses"].items() if f'/responses/{code}"' in used}
    return {**document, "components": {**components, "responses": responses}}


def encoded(document: Json) -> bytes:
    """A document as it is stored and served: sorted, indented, with a newline at the end."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
