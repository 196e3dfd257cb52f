"""The layers of a PLY file below its meaning: header, and columns of numbers for each element."""

import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.io.scan_file import damaged

_KINDS = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "int64": "i8",
    "uint64": "u8",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class PlyProperty:
    """One column of an element."""

    name: str
    kind: str
    count_kind: str | None = None
    """Type of the length in front of a list; None for a single value."""


@dataclass(frozen=True)
class PlyElement:
    """One table of the file."""

    name: str
    count: int
    properties: list[PlyProperty] = field(default_factory=list)


@dataclass(frozen=True)
class PlyHeader:
    """What the lines before `end_header` say."""

    form: str
    """`ascii`, `binary_little_endian` or `binary_big_endian`."""
    elements: list[PlyElement]
    images: list[str]
    """Names in `comment TextureFile` lines."""
    n_bytes: int
    """Length of the header."""


@dataclass(frozen=True)
class PlyLists:
    """The lists of one property, one a row."""

    values: ndarray
    sizes: ndarray


def read_ply_header(data: bytes, path: Path) -> PlyHeader:
    """Read the header; lines of an unknown kind are skipped, a name given twice is refused."""
    if not data.startswith(b"ply"):
        raise damaged("the file does not start with `ply`, expected a PLY header", path)
    end = data.find(b"end_header", 0, _MAX_HEADER_BYTES)
    stop = data.find(b"\n", end, end + 80) if end >= 0 else -1
    if stop < 0:
        raise damaged("the PLY header does not end, expected a line `end_header`", path)
    form, elements, images = "", [], []
    for line in data[:end].decode("latin-1").replace("\r", "\n").split("\n"):
        words = line.split()
        try:
            if words[:1] == ["format"]:
                form = words[1]
            elif words[:1] == ["element"]:
                elements.append(PlyElement(words[1], _count(words[2])))
            elif words[:1] == ["property"]:
                elements[-1].properties.append(_property(words))
            elif words[:1] == ["comment"] and len(words) > 2 and words[1].lower() == "texturefile":
                images.append(line.split(None, 2)[2])
        except (IndexError, KeyError, ValueError):
            raise damaged(f"the PLY header holds the line {line[:60]!r}, which PLY does not allow", path) from None
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise damaged(f"the PLY format is {form[:30]!r}, expected ascii or binary", path)
    for names in [[e.name for e in elements], *([p.name for p in e.properties] for e in elements)]:
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise damaged(f"the PLY header declares {twice[:60]!r} twice, expected different names", path)
    return PlyHeader(form, elements, images, stop + 1)


def _count(word: str) -> int:
    if not word.isdigit():
        raise ValueError(word)
    return int(word)


def _property(words: list[str]) -> PlyProperty:
    if words[1] == "list":
        if _KINDS[words[2]].startswith("f"):
            raise ValueError(words[2])
        return PlyProperty(words[4], _KINDS[words[3]], _KINDS[words[2]])
    return PlyProperty(words[2], _KINDS[words[1]])


class _BinaryBody:
    """The elements of a binary file, in order."""

    def __init__(self, data: bytes, header: PlyHeader, path: Path) -> None:
        self.data, self.at, self.path = data, header.n_bytes, path
        self.order = "<" if header.form == "binary_little_endian" else ">"

    def read(self, element: PlyElement) -> dict[str, ndarray | PlyLists]:
        """Give the element's columns by property name."""
        if element.count == 0 or not element.properties:
            return {
                p.name: np.empty(0, p.kind) if p.count_kind is None else PlyLists(np.empty(0, p.kind), np.empty(0, int))
                for p in element.properties
            }
        first = self._first_sizes(element)
        columns = self._same_sizes(element, first)
        return self._mixed_sizes(element) if columns is None else columns

    def _first_sizes(self, element: PlyElement) -> list[int]:
        sizes, at = [], self.at
        for p in element.properties:
            if p.count_kind is None:
                sizes.append(1)
                at += np.dtype(p.kind).itemsize
            else:
                sizes.append(int(self._take(p.count_kind, 1, at)[0]))
                at += np.dtype(p.count_kind).itemsize + max(sizes[-1], 0) * np.dtype(p.kind).itemsize
        if at > len(self.data):
            raise self._short()
        return sizes

    def _take(self, kind: str, count: int, at: int) -> ndarray:
        n_bytes = np.dtype(kind).itemsize * count
        if count < 0 or at + n_bytes > len(self.data):
            raise self._short()
        return np.frombuffer(self.data, self.order + kind, count, at)

    def _short(self) -> Exception:
        return damaged(f"the PLY file ends after {len(self.data)} bytes, expected more by its header", self.path)

    def _same_sizes(self, element: PlyElement, sizes: list[int]) -> dict[str, ndarray | PlyLists] | None:
        fields: list[tuple] = []
        for i, (p, size) in enumerate(zip(element.properties, sizes, strict=True)):
            if p.count_kind is not None:
                fields.append((f"n{i}", self.order + p.count_kind))
            if size < 0:
                raise damaged(f"a list in the PLY file has {size} entries", self.path)
            fields.append((f"v{i}", self.order + p.kind, () if p.count_kind is None else (size,)))
        row = np.dtype(fields)
        has_lists = any(p.count_kind is not None for p in element.properties)
        if self.at + row.itemsize * element.count > len(self.data):
            if has_lists:
                return None  # perhaps only the first list is this long
            raise self._short()
        rows = np.frombuffer(self.data, row, element.count, self.at)
        columns: dict[str, ndarray | PlyLists] = {}
        for i, (p, size) in enumerate(zip(element.properties, sizes, strict=True)):
            if p.count_kind is None:
                columns[p.name] = rows[f"v{i}"]
            elif (rows[f"n{i}"] == size).all():
                columns[p.name] = PlyLists(rows[f"v{i}"].reshape(-1), np.full(element.count, size, np.int64))
            else:
                return None
        self.at += row.itemsize * element.count
        return columns

    def _mixed_sizes(self, element: PlyElement) -> dict[str, ndarray | PlyLists]:
        """Walk the rows one by one: the only way where lists differ in length."""
        out: dict[str, list] = {p.name: [] for p in element.properties}
        sizes: dict[str, list[int]] = {p.name: [] for p in element.properties}
        codes = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q"}
        codes |= {"f4": "f", "f8": "d"}
        plan = [
            (
                p.name,
                codes[p.kind],
                np.dtype(p.kind).itemsize,
                p.count_kind and struct.Struct(self.order + codes[p.count_kind]),
            )
            for p in element.properties
        ]
        at, unpack = self.at, struct.unpack_from
        try:
            for _ in range(element.count):
                for name, code, width, counter in plan:
                    n = 1
                    if counter:
                        (n,) = counter.unpack_from(self.data, at)
                        at += counter.size
                    out[name].extend(unpack(f"{self.order}{n}{code}", self.data, at))
                    sizes[name].append(n)
                    at += n * width
        except struct.error:
            raise self._short() from None
        self.at = at
        return {
            p.name: np.array(out[p.name], p.kind)
            if p.count_kind is None
            else PlyLists(np.array(out[p.name], p.kind), np.array(sizes[p.name], np.int64))
            for p in element.properties
        }


class _AsciiBody:
    """The elements of an ascii file, in order."""

    def __init__(self, data: bytes, header: PlyHeader, path: Path) -> None:
        self.path, self.at = path, 0
        self.numbers = _parse_numbers(data[header.n_bytes :], path)

    def read(self, element: PlyElement) -> dict[str, ndarray | PlyLists]:
        """Give the element's columns by property name."""
        if all(p.count_kind is None for p in element.properties):
            width = len(element.properties)
            block = self._take(width * element.count).reshape(element.count, width)
            return {p.name: block[:, i] for i, p in enumerate(element.properties)}
        columns = self._same_sizes(element)
        return self._mixed_sizes(element) if columns is None else columns

    def _take(self, n: int) -> ndarray:
        if self.at + n > len(self.numbers):
            raise damaged(
                f"the PLY file holds {len(self.numbers)} numbers, expected at least {self.at + n} by its header",
                self.path,
            )
        self.at += n
        return self.numbers[self.at - n : self.at]

    def _size(self, at: int) -> int:
        if at >= len(self.numbers):
            self._take(at - self.at + 1)
        size = self.numbers[at]
        if not (0 <= size < 1 << 31 and size == int(size)):
            raise damaged(f"a list in the PLY file has {size} entries", self.path)
        return int(size)

    def _same_sizes(self, element: PlyElement) -> dict[str, ndarray | PlyLists] | None:
        if element.count == 0:
            return {p.name: PlyLists(np.empty(0), np.empty(0, np.int64)) for p in element.properties}
        spans, width = [], 0
        for p in element.properties:
            size = 1 if p.count_kind is None else self._size(self.at + width)
            spans.append((width + (p.count_kind is not None), size))
            width += size + (p.count_kind is not None)
        if self.at + width * element.count > len(self.numbers):
            return None
        block = self.numbers[self.at : self.at + width * element.count].reshape(element.count, width)
        columns: dict[str, ndarray | PlyLists] = {}
        for p, (start, size) in zip(element.properties, spans, strict=True):
            if p.count_kind is None:
                columns[p.name] = block[:, start]
            elif (block[:, start - 1] == size).all():
                values = block[:, start : start + size].reshape(-1)
                columns[p.name] = PlyLists(values, np.full(element.count, size, np.int64))
            else:
                return None
        self.at += width * element.count
        return columns

    def _mixed_sizes(self, element: PlyElement) -> dict[str, ndarray | PlyLists]:
        out: dict[str, list] = {p.name: [] for p in element.properties}
        sizes: dict[str, list[int]] = {p.name: [] for p in element.properties}
        for _ in range(element.count):
            for p in element.properties:
                n = 1
                if p.count_kind is not None:
                    n = self._size(self.at)
                    self._take(1)
                out[p.name].append(self._take(n))
                sizes[p.name].append(n)
        return {
            p.name: np.concatenate(out[p.name])
            if p.count_kind is None
            else PlyLists(np.concatenate(out[p.name]), np.array(sizes[p.name], np.int64))
            for p in element.properties
        }


def _parse_numbers(body: bytes, path: Path) -> Float[ndarray, " n"]:
    if not body.strip():
        return np.empty(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # numpy's sign of text that is no number
            return np.fromstring(body, float, sep=" ")
    except (DeprecationWarning, ValueError):
        raise damaged("the ascii PLY file holds text that is no number where numbers are expected", path) from None


def read_ply_columns(data: bytes, header: PlyHeader, path: Path) -> dict[str, dict[str, ndarray | PlyLists]]:
    """Give the columns of every element, by the names of element and property."""
    reader = _AsciiBody(data, header, path) if header.form == "ascii" else _BinaryBody(data, header, path)
    return {element.name: reader.read(element) for element in header.elements}
