"""YAML text to plain values, remembering the line of each, with every complaint in words.

ruamel.yaml splits the text into events; values are then resolved here by the YAML 1.2 core schema, so that
`off` and `08:00` are text whatever the file says of its version. All keys are text. Anchors, aliases and merge keys
(`<<`) work. Nothing is ever constructed but dict, list, str, int, float, bool and None, and neither depth nor
the expansion of aliases is without bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from .problems import Key, shown

MAX_DEPTH = 16
MAX_VALUES = 200_000

Scalar = str | int | float | bool | None
Value = Scalar | list["Value"] | dict[str, "Value"]

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,18}|[0-9]{1,18}(\.[0-9]{0,18})?)([eE][-+]?[0-9]{1,3})?")
_TAG_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Complaint:
    """A problem with the text, before the file's name is known. `line` counts from 1."""

    line: int
    key: Key
    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class Document:
    """The values of a file, and the line on which each key (or member of a list) stands."""

    value: Value
    lines: dict[Key, int]
    complaints: tuple[Complaint, ...]


class DocumentError(Exception):
    """The text is no YAML that we take: one complaint, and no values."""

    def __init__(self, line: int, what: str, hint: str) -> None:
        super().__init__(what)
        self.complaint = Complaint(line, (), what, hint)


class _Node:
    """One value with its line: a scalar, or the members of a list, or the pairs (key, its line, value) of a mapping."""

    __slots__ = ("finished", "line", "members", "pairs", "scalar")

    def __init__(self, line: int) -> None:
        self.line = line
        self.scalar: Scalar = None
        self.members: list[_Node] | None = None
        self.pairs: list[tuple[str, int, _Node]] | None = None
        self.finished = False


def read_document(text: str) -> Document:
    """Read one YAML document. Raises DocumentError; duplicate keys are among the document's complaints."""
    node = _compose(text)
    if node is None:
        return Document(None, {}, ())
    builder = _Builder()
    value = builder.build(node, (), node.line)
    return Document(value, builder.lines, tuple(builder.complaints))


def _compose(text: str) -> _Node | None:
    events = _events(text)
    root: _Node | None = None
    composer = _Composer(events)
    for event in events:
        if isinstance(event, DocumentStartEvent):
            if root is not None:
                raise DocumentError(
                    _line(event), "a second YAML document begins", "keep everything in one, without '---' in the middle"
                )
            root = composer.node(next(events), 0)
    return root


def _events(text: str) -> Iterator[Event]:
    yaml = YAML(typ="safe", pure=True)
    try:
        yield from yaml.parse(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(
            line,
            f"the character U+{error.character:04X} is not allowed in YAML",
            "remove it, or write it as an escape in double quotes",
        ) from None
    except MarkedYAMLError as error:
        raise _syntax(text, error) from None
    except (YAMLError, ValueError, OverflowError):  # the last two: an escape such as \\U99999999 is no character
        raise DocumentError(0, "it is not YAML", "check its quotes, escapes and indentation") from None


def _syntax(text: str, error: MarkedYAMLError) -> DocumentError:
    """The commonest slips in words of our own; for the rest the parser's, on one line."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 0
    problem, context = str(error.problem or ""), str(error.context or "")
    lines = text.splitlines()
    here = lines[line - 1] if 0 < line <= len(lines) else ""
    if "'\\t'" in problem or "\t" in here[: len(here) - len(here.lstrip())]:
        return DocumentError(line, "a tab stands where YAML wants spaces", "indent with spaces")
    if "escape character" in problem:
        return DocumentError(
            line,
            "a backslash in double quotes begins an escape",
            r"write paths without quotes or in single quotes: '\\server\share'",
        )
    if "alias" in context or (match := re.search(r"character '([@`%*&|>])' that cannot start", problem)):
        sign = "*" if "alias" in context else match[1] if match else ""
        return DocumentError(
            line, f"a value begins with {sign!r}, which means something else in YAML", "put the value in quotes"
        )
    if "mapping values are not allowed" in problem:
        return DocumentError(
            line,
            "a ':' stands where no key can be",
            "check the indentation, put a space after 'key:', and put values that hold ': ' in quotes",
        )
    if context == "while scanning a quoted scalar":
        start = error.context_mark.line + 1 if error.context_mark else line
        return DocumentError(start, "a quoted text has no end", "close it with the quote that it began with")
    if context.startswith("while parsing a flow"):
        start = error.context_mark.line + 1 if error.context_mark else line
        return DocumentError(
            line,
            f"the bracket opened on line {start} is not closed properly",
            "check the commas and the closing ']' or '}'",
        )
    if problem.startswith("could not find expected ':'"):
        return DocumentError(line, "a key without ':'", "write 'key: value'")
    if problem.startswith("expected <block end>"):
        return DocumentError(
            line, "the indentation does not fit what stands above", "line up keys of one group in one column"
        )
    said = " ".join(f"{context} {problem}".split())
    return DocumentError(line, f"it is not YAML: {said}", "check its quotes and indentation")


def _line(event: Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


class _Composer:
    """Events to nodes, one level at a time and never deeper than MAX_DEPTH."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._anchors: dict[str, _Node] = {}

    def node(self, event: Event, depth: int) -> _Node:
        line = _line(event)
        if isinstance(event, AliasEvent):
            target = self._anchors.get(event.anchor)
            if target is None:
                raise DocumentError(
                    line,
                    f"the alias *{event.anchor} refers to nothing",
                    "put it in quotes, or mark a group above with that name and '&'",
                )
            if not target.finished:
                raise DocumentError(line, f"the alias *{event.anchor} refers to what it is part of", "take it out")
            return target
        if depth > MAX_DEPTH:
            raise DocumentError(line, f"it is nested more than {MAX_DEPTH} levels deep", "no setting is that deep")
        node = _Node(line)
        if isinstance(event, NodeEvent) and event.anchor:
            self._anchors[event.anchor] = node
        if isinstance(event, ScalarEvent):
            node.scalar = _scalar(event)
        elif isinstance(event, SequenceStartEvent):
            _check_tag(event, "seq")
            node.members = self._members(depth)
        elif isinstance(event, MappingStartEvent):
            _check_tag(event, "map")
            node.pairs = self._pairs(depth)
        node.finished = True
        return node

    def _members(self, depth: int) -> list[_Node]:
        members = []
        for event in self._events:
            if isinstance(event, SequenceEndEvent):
                break
            members.append(self.node(event, depth + 1))
        return members

    def _pairs(self, depth: int) -> list[tuple[str, int, _Node]]:
        pairs = []
        for event in self._events:
            if isinstance(event, MappingEndEvent):
                break
            if not isinstance(event, ScalarEvent):
                raise DocumentError(_line(event), "a key is not plain text", "write 'key: value'")
            pairs.append((str(event.value), _line(event), self.node(next(self._events), depth + 1)))
        return pairs


def _check_tag(event: ScalarEvent | SequenceStartEvent | MappingStartEvent, fine: str) -> None:
    tag = str(event.tag or "")
    if tag and tag != "!" and tag.removeprefix(_TAG_PREFIX) != fine:
        raise DocumentError(_line(event), f"the tag {shown(tag)} is not understood", "write the value without a tag")


def _scalar(event: ScalarEvent) -> Scalar:
    text = str(event.value)
    _check_tag(event, "str")
    if event.tag or event.style:
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


class _Builder:
    """Nodes to values, with aliases expanded and merge keys merged."""

    def __init__(self) -> None:
        self.lines: dict[Key, int] = {}
        self.complaints: list[Complaint] = []
        self._count = 0
        self._merged_nodes: dict[int, dict[str, tuple[int, _Node]]] = {}

    def build(self, node: _Node, key: Key, line: int) -> Value:
        self.lines[key] = line
        self._count += 1
        if self._count > MAX_VALUES or len(key) > MAX_DEPTH:
            raise DocumentError(line, "its aliases expand to more than a configuration can hold", "use fewer")
        if node.pairs is not None:
            merged = self._merged(node, node.pairs, key, 0)
            return {name: self.build(child, (*key, name), at) for name, (at, child) in merged.items()}
        if node.members is not None:
            return [self.build(child, (*key, n), child.line) for n, child in enumerate(node.members)]
        return node.scalar

    def _merged(
        self, node: _Node, pairs: list[tuple[str, int, _Node]], key: Key, depth: int
    ) -> dict[str, tuple[int, _Node]]:
        """The pairs of a mapping: its own first, then what `<<` brings. Each mapping is merged once."""
        if id(node) in self._merged_nodes:
            return self._merged_nodes[id(node)]
        if depth > MAX_DEPTH:
            raise DocumentError(node.line, f"'<<' merges more than {MAX_DEPTH} groups in a row", "use fewer")
        own: dict[str, tuple[int, _Node]] = {}
        merges: list[tuple[int, _Node]] = []
        for name, line, child in pairs:
            if name == "<<":
                merges.append((line, child))
            elif name in own:
                self._complain(line, (*key, name), f"comes twice (first on line {own[name][0]})", "keep one")
            else:
                own[name] = (line, child)
        for line, child in merges:
            for base in [child] if child.members is None else child.members:
                if base.pairs is None:
                    self._complain(line, (*key, "<<"), "merges something without keys", "write '<<: *name'")
                    continue
                for name, pair in self._merged(base, base.pairs, key, depth + 1).items():
                    own.setdefault(name, pair)
        self._merged_nodes[id(node)] = own
        return own

    def _complain(self, line: int, key: Key, what: str, hint: str) -> None:
        self.complaints.append(Complaint(line, key, what, hint))
