"""Writes the contract as a page for people, from the descriptors and their comments; reads and writes no files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

INTRODUCTION = """\
# The contract

<!-- Made by `make protos` from protos/tts/v1/*.proto, whose comments these are: edit those. -->

What a worker serves over gRPC, in the package `{package}`; beside it there are `grpc.health.v1.Health` and server
reflection. How to call it is told in the [README](../README.md#direct-grpc). The contract only grows: a number that was
once used keeps its meaning.
"""

Path = tuple[int, ...]


def render(described: FileDescriptorSet) -> str:
    """Write the page, in Markdown.

    Args:
        described: The files, with their source info.
    """
    # What can be called comes first, and speech before the rest.
    files = [
        _File(file) for file in sorted(described.file, key=lambda file: (not file.service, "speech" not in file.name))
    ]
    known = {f".{each.file.package}.{name}" for each in files for name in each.names()}
    parts = [INTRODUCTION.format(package=described.file[0].package)]
    for each in files:
        parts += each.render(known)
    return "\n".join(parts)


class _File:
    """One file of the contract. Paths are those of `SourceCodeInfo`: numbers of fields in descriptor.proto."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        self._comments = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}

    def names(self) -> Iterator[str]:
        """Names of its messages and enums."""
        yield from (message.name for message in self.file.message_type)
        yield from (enum.name for enum in self.file.enum_type)

    def render(self, known: set[str]) -> Iterator[str]:
        about = self._text((12,))  # Stands above the syntax.
        yield f"## {self.file.name.rpartition('/')[2]}\n\n{about}\n"
        for i, service in enumerate(self.file.service):
            yield from self._service(service, (6, i), known)
        for i, message in enumerate(self.file.message_type):
            yield from self._message(message, (4, i), known)
        for i, enum in enumerate(self.file.enum_type):
            yield from self._errors(enum, (5, i)) if enum.name == "ErrorReason" else self._enum(enum, (5, i))

    def _service(self, service: ServiceDescriptorProto, path: Path, known: set[str]) -> Iterator[str]:
        yield f"### {service.name}\n\n{self._text(path)}\n"
        for i, method in enumerate(service.method):
            many = "stream of " if method.server_streaming else ""
            yield f"#### {service.name}.{method.name}\n"
            yield f"{_link(method.input_type, known)} → {many}{_link(method.output_type, known)}\n"
            yield f"{self._text((*path, 2, i))}\n"

    def _message(self, message: DescriptorProto, path: Path, known: set[str]) -> Iterator[str]:
        yield f"### {message.name}\n\n{self._text(path)}\n"
        rows = [
            (str(field.number), f"`{field.name}`", _type(field, known), self._cell((*path, 2, i)))
            for i, field in enumerate(message.field)
        ]
        if rows:
            yield _table(("number", "field", "type", "meaning"), rows)

    def _enum(self, enum: EnumDescriptorProto, path: Path) -> Iterator[str]:
        yield f"### {enum.name}\n\n{self._text(path)}\n"
        rows = [(str(value.number), f"`{value.name}`", self._cell((*path, 2, i))) for i, value in enumerate(enum.value)]
        yield _table(("number", "value", "meaning"), rows)

    def _errors(self, enum: EnumDescriptorProto, path: Path) -> Iterator[str]:
        """Write the reasons of errors, whose comments begin with the gRPC code."""
        yield f"### {enum.name}\n\n{self._text(path)}\n"
        rows = []
        for i, value in enumerate(enum.value):
            code, _, meaning = self._cell((*path, 2, i)).partition(": ")
            code, _, hint = code.partition(", with ")
            if value.number:
                name = value.name.removeprefix("ERROR_REASON_")
                rows.append(
                    (
                        str(value.number),
                        f"`{name}`",
                        f"`{code}`",
                        hint and f"`{hint}`",
                        meaning[:1].upper() + meaning[1:],
                    )
                )
        yield _table(("number", "reason", "gRPC code", "with", "meaning"), rows)

    def _text(self, path: Path) -> str:
        return re.sub(r"^ ", "", self._comments.get(path, ""), flags=re.MULTILINE).strip()

    def _cell(self, path: Path) -> str:
        return " ".join(self._text(path).split()).replace("|", "\\|")


def _type(field: FieldDescriptorProto, known: set[str]) -> str:
    kind = _link(field.type_name, known) if field.type_name else FieldDescriptorProto.Type.Name(field.type)[5:].lower()
    if field.label == field.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind


def _link(type_name: str, known: set[str]) -> str:
    name = type_name.rpartition(".")[2]
    return f"[{name}](#{name.lower()})" if type_name in known else f"`{type_name.removeprefix('.')}`"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
