"""`make protos` and the proto part of `make check`.

    python -m protos.generate           write the stubs and docs/protocol.md, and add what is new to fields.lock
    python -m protos.generate --docs    write docs/protocol.md alone
    python -m protos.generate --check   change nothing; complain if stubs, page, lock or style are off

The lock remembers every field and enum value that was ever published. A number that has gone must be `reserved`, and
one that is there must mean what it always meant; otherwise old and new processes would misread each other.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from protos import document

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "protos").rglob("*.proto"))
LOCK = ROOT / "protos" / "fields.lock"
PAGE = ROOT / "docs" / "protocol.md"

_SNAKE, _PASCAL = re.compile(r"[a-z][a-z0-9_]*"), re.compile(r"[A-Z][A-Za-z0-9]*")


def main() -> int:
    """Generate or check; return the exit status."""
    described = describe()
    if sys.argv[1:] == ["--check"]:
        problems = [*style(described), *broken_promises(described), *stale_stubs(), *stale_page(described)]
        for problem in problems:
            print(problem, file=sys.stderr)
        return 1 if problems else 0
    if sys.argv[1:] == ["--docs"]:
        write_page(described)
        return 0
    if problems := broken_promises(described, new_is_fine=True):
        print("\n".join(problems), file=sys.stderr)
        return 1
    compile_into(ROOT)
    locked = {**read_lock(), **dict(published(described))}
    LOCK.write_text("".join(f"{key} {value}\n" for key, value in sorted(locked.items())), encoding="utf-8")
    write_page(described)
    return 0


def compile_into(folder: Path) -> None:
    """Write Python modules and their type stubs below a folder."""
    _protoc(
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        f"--mypy_out=quiet:{folder}",
        f"--mypy_grpc_out=quiet:{folder}",
    )


def describe() -> descriptor_pb2.FileDescriptorSet:
    """Parse the sources, comments included."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        _protoc(f"--descriptor_set_out={out}", "--include_source_info")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def _protoc(*arguments: str) -> None:
    # The plugins lie beside the interpreter, which need not be on the PATH.
    plugins = [
        f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}"
        for name in ("mypy", "mypy_grpc")
    ]
    include = [f"-I{ROOT}", f"-I{files('grpc_tools') / '_proto'}"]
    names = [str(source.relative_to(ROOT)) for source in SOURCES]
    if status := protoc.main(["protoc", *include, *plugins, *arguments, *names]):
        raise SystemExit(status)


def stale_stubs() -> list[str]:
    """Name the stubs that are not what the sources give."""
    with tempfile.TemporaryDirectory() as folder:
        compile_into(Path(folder))
        fresh = {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*.py*")}
    there = {
        path.relative_to(ROOT): path
        for path in (ROOT / "protos").rglob("*_pb2*.py*")
        if "__pycache__" not in path.parts
    }
    wrong = [path for path in fresh if path not in there or there[path].read_bytes() != fresh[path]]
    return [
        f"{path}: not what the sources give; run `make protos`"
        for path in sorted({*wrong, *(there.keys() - fresh.keys())})
    ]


def write_page(described: descriptor_pb2.FileDescriptorSet) -> None:
    """Write the contract as a page for people."""
    PAGE.parent.mkdir(exist_ok=True)  # Images are made without the pages.
    PAGE.write_text(document.render(described), encoding="utf-8")


def stale_page(described: descriptor_pb2.FileDescriptorSet) -> list[str]:
    """Say whether the page is not what the sources give."""
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == document.render(described):
        return []
    return [f"{PAGE.relative_to(ROOT)}: not what the sources give; run `make protos`"]


def published(described: descriptor_pb2.FileDescriptorSet) -> Iterator[tuple[str, str]]:
    """Yield fields and enum values as `package.Message.number` and `name type`, rpcs as `package.Service.name`."""
    for file in described.file:
        for message in file.message_type:
            for field in message.field:
                kind = (
                    field.type_name
                    or descriptor_pb2.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
                )
                many = "repeated " if field.label == field.LABEL_REPEATED else ""
                yield f"{file.package}.{message.name}.{field.number}", f"{field.name} {many}{kind}"
        for enum in file.enum_type:
            for value in enum.value:
                yield f"{file.package}.{enum.name}.{value.number}", value.name
        for service in file.service:
            for method in service.method:
                many = "stream " if method.server_streaming else ""
                yield f"{file.package}.{service.name}.{method.name}", f"{method.input_type} {many}{method.output_type}"


def reserved(described: descriptor_pb2.FileDescriptorSet) -> set[str]:
    """Numbers that the sources rule out, as `package.Message.number`."""
    ruled_out = set()
    for file in described.file:
        for message in file.message_type:
            for span in message.reserved_range:
                ruled_out |= {f"{file.package}.{message.name}.{number}" for number in range(span.start, span.end)}
        for enum in file.enum_type:
            for last in enum.reserved_range:
                ruled_out |= {f"{file.package}.{enum.name}.{number}" for number in range(last.start, last.end + 1)}
    return ruled_out


def read_lock() -> dict[str, str]:
    """What was ever published."""
    lines = LOCK.read_text(encoding="utf-8").splitlines() if LOCK.exists() else []
    return dict(line.split(" ", 1) for line in lines)


def broken_promises(described: descriptor_pb2.FileDescriptorSet, *, new_is_fine: bool = False) -> list[str]:
    """Name what the sources change of what was published, and what the lock does not know yet."""
    now, locked, gone = dict(published(described)), read_lock(), reserved(described)
    problems = []
    for key, was in locked.items():
        if key in now and now[key] != was:
            problems.append(f"{key}: was `{was}`, is `{now[key]}`; take a new number and reserve this one")
        if key not in now and key not in gone:
            problems.append(f"{key}: was `{was}` and is gone; reserve the number")
    if not new_is_fine:
        problems += [f"{key}: not in fields.lock; run `make protos`" for key in now.keys() - locked.keys()]
    return problems


def style(described: descriptor_pb2.FileDescriptorSet) -> list[str]:
    """Name what has no comment, and names that are not in the usual form."""
    problems = []
    for file in described.file:
        commented = {tuple(at.path) for at in file.source_code_info.location if at.leading_comments.strip()}
        for message in file.message_type:
            if message.nested_type or message.enum_type:
                problems.append(f"{file.name}: {message.name} nests a type; put it beside, where the lock sees it")
        for path, name, form in _elements(file):
            if path not in commented:
                problems.append(f"{file.name}: {name} has no comment")
            if not form.fullmatch(name.rsplit(".", 1)[-1]):
                problems.append(f"{file.name}: {name} is not in the usual form ({form.pattern})")
        for enum in file.enum_type:
            prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper()
            if enum.value[0].name != f"{prefix}_UNSPECIFIED":
                problems.append(f"{file.name}: {enum.name} must begin with {prefix}_UNSPECIFIED")
    return problems


def _elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str, re.Pattern[str]]]:
    """Yield everything that has a name: its path in the descriptor (descriptor.proto), the name, the name's form."""
    for i, message in enumerate(file.message_type):
        yield (4, i), message.name, _PASCAL
        for j, field in enumerate(message.field):
            yield (4, i, 2, j), f"{message.name}.{field.name}", _SNAKE
    for i, enum in enumerate(file.enum_type):
        yield (5, i), enum.name, _PASCAL
        for j, value in enumerate(enum.value):
            yield (5, i, 2, j), f"{enum.name}.{value.name}", re.compile(r"[A-Z][A-Z0-9_]*")
    for i, service in enumerate(file.service):
        yield (6, i), service.name, _PASCAL
        for j, method in enumerate(service.method):
            yield (6, i, 2, j), f"{service.name}.{method.name}", _PASCAL


if __name__ == "__main__":
    sys.exit(main())
