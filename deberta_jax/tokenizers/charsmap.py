"""The normalisation table inside a sentencepiece model, as plain rules.

`normalizer_spec.precompiled_charsmap` is the size of a double-array trie (uint32), the trie (Darts-clone units of
uint32), and the replacements, each ended by a zero byte; a key's value is where its replacement begins. Everything is
little-endian. Source: sentencepiece, `src/normalizer.cc: DecodePrecompiledCharsMap`; Darts-clone, `DoubleArrayUnit`.
"""

import functools
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

LEAF = 1 << 31  # marks a unit whose other bits are a value


@functools.lru_cache(maxsize=2)  # half a second for sentencepiece's own tables, which are in most models
def charsmap_rules(charsmap: bytes) -> Mapping[str, str]:
    """What each key of a charsmap becomes: sentencepiece replaces the longest key at each place of a text."""
    if not charsmap:
        return MappingProxyType({})
    (size,) = struct.unpack_from("<I", charsmap)
    units = struct.unpack_from(f"<{size // 4}I", charsmap, 4)
    replacements = charsmap[4 + size :]
    rules = {}
    for key, begin in _entries(units):
        rules[key.decode("utf-8")] = replacements[begin : replacements.index(b"\0", begin)].decode("utf-8")
    return MappingProxyType(rules)  # callers share it


def _entries(units: Sequence[int]) -> list[tuple[bytes, int]]:
    """Keys and values of the trie: a child of the node at p is the unit at p ^ offset ^ label that has this label."""
    children = defaultdict(list)
    for place, unit in enumerate(units):
        if unit & 0xFF and not unit & LEAF:
            children[place ^ (unit & 0xFF)].append(place)
    entries = []
    pending = [(0, b"")]
    while pending:
        place, key = pending.pop()
        first = place ^ _offset(units[place])
        if units[place] >> 8 & 1:  # a key ends here; its value is the child with label 0
            entries.append((key, units[first] & ~LEAF))
        pending += [(child, key + bytes([units[child] & 0xFF])) for child in children[first]]
    return entries


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 1 << 9) >> 6)
