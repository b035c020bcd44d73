"""The JSON Schema of the configuration file, for editors."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from . import file
from .file import SettingsFile


class _AsTyped(GenerateJsonSchema):
    """Describes what people type: defaults are given with each value, in the form of the file."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def _describe_keys() -> None:
    """Give each key the text that stands below it in `file`.

    pydantic would do it whenever a configuration is read, and parsing the source takes longer than all the rest.
    """
    for node in ast.parse(inspect.getsource(file)).body:
        group = getattr(file, node.name) if isinstance(node, ast.ClassDef) else None
        if not isinstance(node, ast.ClassDef) or not (isinstance(group, type) and issubclass(group, BaseModel)):
            continue
        for key, below in pairwise(node.body):
            match key, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    group.model_fields[name].description = inspect.cleandoc(text)
        group.model_rebuild(force=True)


def generate() -> dict[str, Any]:
    """The schema, draft 2020-12, the same bytes each time."""
    _describe_keys()
    schema = SettingsFile.model_json_schema(schema_generator=_AsTyped)
    machine = schema["$defs"]["VirtualMachineGroup"]
    machine["not"] = {"required": ["every", "cron"]}
    server = schema["$defs"]["ServerGroup"]
    server["not"] = {"required": ["password_file", "password_command"]}
    server["dependentRequired"] = {"password_file": ["username"], "password_command": ["username"]}
    schema["$defs"]["ApiGroup"]["dependentRequired"] = {"listen": ["token_file"], "token_file": ["listen"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "replicad.yaml"}
