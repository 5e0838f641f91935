"""Frozen dataclass configs to JSON and back: runs and checkpoints say in plain text what they were made with."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """The value as what `json` writes: dataclasses become objects, tuples lists, paths strings."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"cannot write {value!r} of type {type(value).__name__} as JSON")


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested fields of what `to_json` gives, under dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        key: leaf for field, item in value.items() for key, leaf in flat(item, f"{name}.{field}".strip(".")).items()
    }


def flat_defaults(config: Any) -> dict[str, Any]:
    """What a config's fields are where nothing is said of them, under dotted names; of those that must be said none."""
    found: dict[str, Any] = {}
    for field in fields(config) if is_dataclass(config) else ():
        value = getattr(config, field.name)
        if is_dataclass(value):
            found |= {f"{field.name}.{name}": default for name, default in flat_defaults(value).items()}
        elif field.default is not MISSING:
            found |= flat(to_json(field.default), field.name)
        elif field.default_factory is not MISSING:
            found |= flat(to_json(field.default_factory()), field.name)
    return found


def from_json(kind: type[T], data: Any, where: str = "config") -> T:
    """The value of type `kind` that `to_json` wrote; missing fields take their defaults, unknown ones are refused."""
    value: T = _read(kind, data, where)
    return value


def _read(kind: Any, data: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if origin is Annotated:
        return _read(args[0], data, where)
    if origin is Literal:
        if data in args:
            return data
        raise ValueError(f"{where} is {data!r}, not one of {list(args)}")
    if origin in (Union, types.UnionType):
        return _read_union(args, data, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return _read_dataclass(kind, data, where)
    if origin is tuple and isinstance(data, list):
        kinds = args[:1] * len(data) if args[1:] == (...,) else args
        if len(kinds) != len(data):
            raise ValueError(f"{where} has {len(data)} entries, expected {len(kinds)}")
        return tuple(_read(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, data, strict=True)))
    if origin is dict and isinstance(data, dict):
        return {key: _read(args[1], item, f"{where}[{key!r}]") for key, item in data.items()}
    if kind is Path and isinstance(data, str):
        return Path(data)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind in (bool, int, float, str, types.NoneType) and type(data) is kind:
        return data
    raise ValueError(f"{where} is {data!r}, expected {kind}")


def _read_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    reasons = []
    for kind in kinds:
        try:
            return _read(kind, data, where)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("; or ".join(reasons))


def _read_dataclass(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {data!r}, expected the fields of {kind.__name__}")
    hints = get_type_hints(kind, include_extras=True)
    names = [field.name for field in fields(kind) if field.init]
    if unknown := sorted(set(data) - set(names)):
        raise ValueError(f"{where} has a field {unknown[0]!r} that {kind.__name__} does not know, it has {names}")
    try:
        return kind(**{name: _read(hints[name], item, f"{where}.{name}") for name, item in data.items()})
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error
