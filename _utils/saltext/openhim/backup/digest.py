"""The content hash of a namespace: the same for the same documents, in whatever order they are.

The digest is the sum, modulo 2**256, of the SHA-256 of every document's BSON. A restore may insert
in another order than the dump read, and two members keep the same documents in different
orders; neither changes it. One changed byte, a missing document or a doubled one do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

_MODULUS = 1 << 256

#: One whole BSON document.
Document = bytes | memoryview


@dataclass
class Digest:
    """Grows with each document; ``count`` documents of ``bytes`` bytes in all so far."""

    count: int = 0
    bytes: int = 0
    total: int = 0

    def update(self, documents: Iterable[Document]) -> None:
        """Adds documents, each one whole BSON document."""
        # Local names: this loop runs once for every document of a database.
        new, number = sha256, int.from_bytes
        total = size = count = 0
        for document in documents:
            total += number(new(document).digest(), "big")
            size += len(document)
            count += 1
        self.total = (self.total + total) % _MODULUS
        self.bytes += size
        self.count += count

    def merge(self, other: Digest) -> None:
        """Adds what another one has seen of the same namespace."""
        self.total = (self.total + other.total) % _MODULUS
        self.bytes += other.bytes
        self.count += other.count

    def hex(self) -> str:
        """The digest: 64 hexadecimal digits."""
        return f"{self.total:064x}"


def of(documents: Iterable[Document]) -> str:
    """The digest of these documents."""
    digest = Digest()
    digest.update(documents)
    return digest.hex()
