"""The JSON Schema of the configuration file, for editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from .file import SettingsFile


class _AsTyped(GenerateJsonSchema):
    """Describes what people type: defaults are given with each value, in the form of the file."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def generate() -> dict[str, Any]:
    """The schema, draft 2020-12, the same bytes each time."""
    schema = SettingsFile.model_json_schema(schema_generator=_AsTyped)
    machine = schema["$defs"]["VirtualMachineGroup"]
    machine["not"] = {"required": ["every", "cron"]}
    server = schema["$defs"]["ServerGroup"]
    server["not"] = {"required": ["password_file", "password_command"]}
    server["dependentRequired"] = {"password_file": ["username"], "password_command": ["username"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "replicad.yaml"}
