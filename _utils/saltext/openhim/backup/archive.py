"""mongodump's archive format, version 0.1: what ``mongorestore --archive`` reads.

Pure: a stream of bytes on one side, BSON documents on the other, no server. The format is defined
by MongoDB's tools (https://github.com/mongodb/mongo-tools, ``common/archive/spec.md``) and told
in ``docs/reference/archive-format.md``.

A document's bytes pass through untouched; only the archive's own headers are encoded and decoded.
The :class:`Writer` writes one namespace after the other, so that a deduplicating repository finds
the same bytes again; the :class:`Reader` also takes the stock tool's interleaved archives.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import bson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from saltext.openhim.backup.crc import crc64
from saltext.openhim.errors import OpenHIMError

MAGIC = struct.pack("<I", 0x8199E26D)
TERMINATOR = b"\xff\xff\xff\xff"
FORMAT = "0.1"
#: The kinds of namespace, in listCollections' words.
COLLECTION, VIEW, TIMESERIES = "collection", "view", "timeseries"
#: Where a time series keeps its documents (until MongoDB 8.3, which has no such collection).
BUCKETS = "system.buckets."
MAX_DOCUMENT = 16 * 1024 * 1024
#: A document may be larger inside the server: oplog entries and buckets have room for 16 KB more.
_MAX_LENGTH = MAX_DOCUMENT + 16 * 1024
_MIN_LENGTH = 5
_CHUNK = 1 << 20

#: Dates beyond Python's range, and binary values of all kinds, stay what they are.
EXACT = CodecOptions(
    document_class=dict, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_MS
)
_CANONICAL = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    tz_aware=True,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)
#: What an object of canonical extended JSON has for keys when it stands for a value. Everything
#: else is a document, above all a query's ``{"$regex": …}`` in a validator or a partial index.
_VALUES = {
    frozenset(keys)
    for keys in (
        ["$numberInt"],
        ["$numberLong"],
        ["$numberDouble"],
        ["$numberDecimal"],
        ["$oid"],
        ["$date"],
        ["$binary"],
        ["$timestamp"],
        ["$regularExpression"],
        ["$code"],
        ["$code", "$scope"],
        ["$symbol"],
        ["$undefined"],
        ["$minKey"],
        ["$maxKey"],
    )
}

_length = struct.Struct("<i").unpack_from
#: The format has a checksum for each namespace and none for the list of them. This tool's version,
#: which no reader interprets, carries one.
_TOOL = re.compile(r"^(?P<name>.*) prelude-crc64=(?P<crc>[0-9a-f]{16})$")


class ArchiveDamaged(OpenHIMError):
    """The bytes are not, or are no longer, what was written; nothing of them is to be trusted."""


@dataclass(frozen=True)
class Header:
    """The archive as a whole: the server's version, and the tool that wrote it."""

    server_version: str
    tool_version: str
    concurrent_collections: int = 1
    version: str = FORMAT


@dataclass(frozen=True)
class Entry:
    """One namespace as the archive announces it.

    type: ``collection``, ``view`` or ``timeseries``. size: bytes of BSON, an estimate, 0 when
    unknown. metadata: canonical extended JSON, from :func:`metadata_json`.
    """

    db: str
    collection: str
    type: str = COLLECTION
    size: int = 0
    metadata: str = ""

    @property
    def namespace(self) -> str:
        """``database.collection``."""
        return f"{self.db}.{self.collection}"

    def data_collection(self, server_version: str) -> str:
        """The collection under which its documents stand in an archive of that server."""
        if self.type == TIMESERIES and _version(server_version) < (8, 3):
            return BUCKETS + self.collection
        return self.collection


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


# Metadata: the options and indexes of a namespace.


def metadata_json(
    collection: str,
    type: str,
    options: Mapping[str, Any],
    indexes: Sequence[Mapping[str, Any]],
    uuid: str = "",
) -> str:
    """What ``mongorestore`` needs to know of a namespace, as canonical extended JSON.

    options: as listCollections has them. indexes: as listIndexes has them. uuid: 32 hexadecimal
    digits, or empty for a namespace that has none.
    """
    document: dict[str, Any] = {"options": dict(options)} if options else {}
    document["indexes"] = [dict(index) for index in indexes]
    if uuid:
        document["uuid"] = uuid
    document["collectionName"] = collection
    document["type"] = type
    return json_util.dumps(
        document, json_options=_CANONICAL, separators=(",", ":"), ensure_ascii=False
    )


def parse_extended_json(text: str) -> Any:
    """What canonical extended JSON says: a query's ``$regex`` stays one, and any date a date.

    Raises ValueError, TypeError, KeyError or BSONError when it is something else.
    """

    def value(pairs: list[tuple[str, Any]]) -> Any:
        document = dict(pairs)
        if frozenset(document) in _VALUES:
            return json_util.object_hook(document, _CANONICAL)
        return document

    return json.loads(text, object_pairs_hook=value)


def parse_metadata(text: str) -> dict[str, Any]:
    """The opposite of :func:`metadata_json`: a document with ``options`` and ``indexes``.

    Raises ArchiveDamaged when it is not extended JSON.
    """

    if not text:
        return {"options": {}, "indexes": []}
    try:
        parsed = parse_extended_json(text)
        if not isinstance(parsed, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError, KeyError, BSONError) as error:
        raise ArchiveDamaged(
            f"the archive's metadata of a collection is not extended JSON: {error}. Restore from "
            "another copy."
        ) from None
    return {
        **parsed,
        "options": parsed.get("options") or {},
        "indexes": parsed.get("indexes") or [],
    }


# Writing


class Writer:
    """Writes an archive to a binary stream: the list of namespaces, then one after the other.

    Every namespace of the list must get its :meth:`begin` and :meth:`end`, the empty ones and the
    views too; :meth:`finish` checks that.
    """

    def __init__(self, out: BinaryIO, header: Header, entries: Sequence[Entry]):
        self._out = out
        self._crc = 0
        self._current: tuple[str, str] | None = None
        self._open = {(e.db, e.data_collection(header.server_version)) for e in entries}
        if len(self._open) != len(entries):
            raise ValueError("a namespace stands twice in the list of an archive")
        listed = b"".join(_encode_entry(entry) for entry in entries)
        tool = f"{header.tool_version} prelude-crc64={_prelude_crc(header, listed):016x}"
        self._write(MAGIC + _encode_header(header, tool) + listed + TERMINATOR)

    def begin(self, db: str, collection: str) -> None:
        """The documents that follow are of this namespace (of a time series: its buckets')."""
        if self._current or (db, collection) not in self._open:
            raise ValueError(f"{db}.{collection} is not to be written now")
        self._current, self._crc = (db, collection), 0
        self._write(_namespace_header(db, collection))

    def documents(self, data: bytes) -> None:
        """Whole BSON documents, one right after the other."""
        self._crc = crc64(data, self._crc)
        self._write(data)

    def end(self) -> int:
        """No more documents of this namespace; returns their checksum."""
        if self._current is None:
            raise ValueError("no namespace is being written")
        header = _namespace_header(*self._current, eof=True, crc=self._crc)
        self._write(TERMINATOR + header + TERMINATOR)
        self._open.discard(self._current)
        self._current = None
        return self._crc

    def finish(self) -> None:
        """Everything that was announced has been written."""
        if self._open:
            raise ValueError(f"announced and not written: {sorted(self._open)}")
        self._out.flush()

    def _write(self, data: bytes) -> None:
        written = self._out.write(data)
        # A raw stream, such as a pipe opened without a buffer, may take a part only.
        while written is not None and written < len(data):
            data = data[written:]
            written = self._out.write(data)


def _encode_header(header: Header, tool: str) -> bytes:
    return bson.encode(
        {
            "concurrent_collections": header.concurrent_collections,
            "version": header.version,
            "server_version": header.server_version,
            "tool_version": tool,
        }
    )


def _encode_entry(entry: Entry) -> bytes:
    return bson.encode(
        {
            "db": entry.db,
            "collection": entry.collection,
            "metadata": entry.metadata,
            "size": entry.size,
            "type": entry.type,
        }
    )


def _prelude_crc(header: Header, listed: bytes) -> int:
    return crc64(listed, crc64(_encode_header(header, "")))


def _namespace_header(db: str, collection: str, eof: bool = False, crc: int = 0) -> bytes:
    # BSON has no unsigned integers: the checksum's 64 bits stand there as a signed one.
    signed = crc - (1 << 64) if crc >> 63 else crc
    return bson.encode({"db": db, "collection": collection, "EOF": eof, "CRC": bson.Int64(signed)})


# Reading


@dataclass(frozen=True)
class Documents:
    """Some documents of a namespace, in the archive's order; the memory is the reader's."""

    entry: Entry
    documents: list[memoryview] = field(repr=False)


@dataclass(frozen=True)
class End:
    """A namespace is complete, and its checksum was right."""

    entry: Entry


class Reader:
    """Reads an archive from a binary stream.

    ``header`` and ``entries`` are there at once; iterating gives :class:`Documents` and one
    :class:`End` for each namespace. Raises ArchiveDamaged as soon as something is wrong: no
    archive at all, cut off, or changed. What came before has then been handed out already.
    """

    def __init__(self, stream: BinaryIO):
        self._source = _Source(stream)
        if self._source.take(4, "its first bytes") != MAGIC:
            raise ArchiveDamaged(
                "this is not an archive of mongodump: its first four bytes are others. A "
                "compressed archive (--gzip) must be decompressed first."
            )
        self.header, self.entries = self._prelude()

    def _prelude(self) -> tuple[Header, list[Entry]]:
        raw = self._source.document_or_terminator("the archive's header")
        found = _decode(raw, "the archive's header")
        try:
            header = Header(
                server_version=found["server_version"],
                tool_version=found["tool_version"],
                concurrent_collections=int(found["concurrent_collections"]),
                version=found["version"],
            )
        except (KeyError, TypeError, ValueError):
            raise ArchiveDamaged(
                "the archive's header is damaged. Restore from another copy."
            ) from None
        if header.version != FORMAT:
            raise ArchiveDamaged(
                f"the archive has the format {header.version!r}; this reads {FORMAT!r}. It was "
                "written by a newer tool, or its header is damaged."
            )
        listed = []
        while raw := self._source.document_or_terminator("the list of namespaces"):
            listed.append(raw)
        entries = [_entry(_decode(raw, "the list of namespaces")) for raw in listed]
        if match := _TOOL.match(str(header.tool_version)):
            header = Header(
                str(header.server_version), match["name"], header.concurrent_collections, FORMAT
            )
            if int(match["crc"], 16) != _prelude_crc(header, b"".join(listed)):
                raise ArchiveDamaged(
                    "the archive's list of namespaces is not the one that was written (its "
                    "checksum differs). Restore from another copy."
                )
        elif "prelude-crc64" in str(found) or "saltext" in str(found):
            raise ArchiveDamaged("the archive's header is damaged. Restore from another copy.")
        return header, entries

    def __iter__(self) -> Iterator[Documents | End]:
        pending = {
            (entry.db, entry.data_collection(self.header.server_version)): entry
            for entry in self.entries
        }
        checksums: dict[tuple[str, str], int] = {}
        while raw := self._source.header_or_end():
            key, eof, crc = _parse_namespace_header(raw)
            entry = pending.get(key)
            if entry is None:
                raise ArchiveDamaged(
                    f"the archive has documents of {'.'.join(key)}, which it does not announce or "
                    "has ended already. Restore from another copy."
                )
            if not eof:
                for data, documents in self._source.body(entry.namespace):
                    checksums[key] = crc64(data, checksums.get(key, 0))
                    yield Documents(entry, documents)
                continue
            if self._source.document_or_terminator(f"the end of {entry.namespace}"):
                raise ArchiveDamaged(f"the archive goes on after the end of {entry.namespace}")
            if checksums.pop(key, 0) != crc:
                raise ArchiveDamaged(
                    f"the documents of {entry.namespace} are not the ones that were written (their "
                    "checksum differs). Restore from another copy."
                )
            del pending[key]
            yield End(entry)
        if pending:
            missing = ", ".join(sorted(entry.namespace for entry in pending.values()))
            raise ArchiveDamaged(
                f"the archive was cut off: it ends before these namespaces do: {missing}. The "
                "backup was interrupted while it was written, or the copy is incomplete."
            )


class _Source:
    """The stream with a buffer, read in chunks and taken in pieces."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self.offset = 0

    def _fill(self, count: int) -> bool:
        """Whether ``count`` bytes are in the buffer, after reading what that takes."""
        have = len(self._buffer) - self._at
        if have >= count:
            return True
        parts = [self._buffer[self._at :]]
        while have < count:
            part = self._stream.read(max(_CHUNK, count - have))
            if not part:
                break
            parts.append(part)
            have += len(part)
        self._buffer, self._at = b"".join(parts), 0
        return have >= count

    def take(self, count: int, what: str) -> bytes:
        if not self._fill(count):
            raise self._cut_off(what)
        taken = self._buffer[self._at : self._at + count]
        self._at += count
        self.offset += count
        return taken

    def _cut_off(self, what: str) -> ArchiveDamaged:
        end = self.offset + len(self._buffer) - self._at
        return ArchiveDamaged(
            f"the archive was cut off after {end} bytes, in {what}. The backup was interrupted "
            "while it was written, or the copy is incomplete."
        )

    def _length(self, at: int, what: str) -> int:
        length = _length(self._buffer, at)[0]
        if not _MIN_LENGTH <= length <= _MAX_LENGTH:
            raise ArchiveDamaged(
                f"the archive is damaged at byte {self.offset + at - self._at}, in {what}: "
                f"{length & 0xFFFFFFFF} is neither the length of a document nor the end of a "
                "block. Restore from another copy."
            )
        return length

    def document_or_terminator(self, what: str) -> bytes:
        """One document, or nothing where a block ends."""
        if not self._fill(4):
            raise self._cut_off(what)
        if self._buffer.startswith(TERMINATOR, self._at):
            self.take(4, what)
            return b""
        return self.take(self._length(self._at, what), what)

    def header_or_end(self) -> bytes:
        """The header of the next block, or nothing where the archive ends."""
        if not self._fill(1):
            return b""
        raw = self.document_or_terminator("the header of a block")
        if not raw:
            raise ArchiveDamaged(
                f"the archive is damaged at byte {self.offset - 4}: a block without a header. "
                "Restore from another copy."
            )
        return raw

    def body(self, what: str) -> Iterator[tuple[bytes, list[memoryview]]]:
        """A block's documents: their bytes together and each by itself, a chunk at a time."""
        while True:
            if not self._fill(4):
                raise self._cut_off(what)
            data, ended = self._whole_documents(what)
            if data is not None:
                yield data
            if ended:
                return

    def _whole_documents(self, what: str) -> tuple[tuple[bytes, list[memoryview]] | None, bool]:
        """What is whole in the buffer, and whether the block ends after it."""
        buffer, start = self._buffer, self._at
        view, end = memoryview(buffer), len(buffer)
        documents, at, ended = [], start, False
        while at + 4 <= end:
            length = _length(buffer, at)[0]
            if not _MIN_LENGTH <= length <= _MAX_LENGTH:
                ended = length == -1
                if not ended:
                    self._length(at, what)
                break
            if at + length > end:
                break
            if buffer[at + length - 1]:
                raise ArchiveDamaged(
                    f"the archive is damaged near byte {self.offset + at - start}: a document of "
                    f"{what} does not end where its length says. Restore from another copy."
                )
            documents.append(view[at : at + length])
            at += length
        if documents:
            data = buffer[start:at]
            self._at, self.offset = at, self.offset + at - start
        elif not ended and not self._fill(self._length(start, what)):
            raise self._cut_off(what)
        if ended:
            self.take(4, what)
        return ((data, documents) if documents else None), ended


def _decode(raw: bytes, what: str) -> dict[str, Any]:
    try:
        return bson.decode(raw, EXACT)
    except BSONError as error:
        raise ArchiveDamaged(
            f"the archive is damaged in {what}: {error}. Restore from another copy."
        ) from None


def _entry(found: Mapping[str, Any]) -> Entry:
    try:
        size = int(found.get("size", 0))
        texts = [found["db"], found["collection"], found.get("type") or COLLECTION]
        metadata = found.get("metadata", "")
        if not all(isinstance(text, str) for text in [*texts, metadata]) or not texts[1]:
            raise TypeError("a name that is none")
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveDamaged(f"the archive's list of namespaces is damaged: {error}") from None
    return Entry(texts[0], texts[1], texts[2], size, metadata)


def _parse_namespace_header(raw: bytes) -> tuple[tuple[str, str], bool, int]:
    found = _decode(raw, "the header of a block")
    db, collection, eof, crc = (found.get(key) for key in ("db", "collection", "EOF", "CRC"))
    if (
        len(found) == 4
        and isinstance(db, str)
        and isinstance(collection, str)
        and isinstance(eof, bool)
        and isinstance(crc, int)
    ):
        return (db, collection), eof, crc & 0xFFFFFFFFFFFFFFFF
    raise ArchiveDamaged("the header of a block in the archive is damaged. Use another copy.")
