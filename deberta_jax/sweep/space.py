"""What a sweep tries: values of keys, from flags or a config file, as a list of settings.

    --grid=KEY=A,B         each value with each of every other grid
    --zip=KEY=A,B          together with the other zips: the first values, then the second ones
    --range=KEY=log:A:B    with --random=N, N values drawn between A and B; "linear" in place of "log"

A config file with a function get_sweep() gives settings of its own: dictionaries of keys and values, which the flags
multiply.
"""

import functools
import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.errors import Refused, nearest

NAME = "name"  # of a setting of get_sweep(): what its runs are called
SCALES = ("log", "linear")
DIGITS = 4  # significant ones of a drawn value: it is to be read and typed
MISSES = 1000  # draws in a row that were drawn before: there is hardly anything left


class Setting(NamedTuple):
    """One point of a sweep."""

    name: str  # given by the file; "" without one
    values: dict[str, str]  # key -> the text of a flag --config.KEY=TEXT
    apart: tuple[str, ...] = ()  # the keys that the name does not stand for


class Range(NamedTuple):
    """Where values of a key are drawn."""

    key: str
    scale: str
    low: float
    high: float


def settings(
    of_file: Sequence[Mapping[str, Any]],
    grids: Sequence[str],
    zips: Sequence[str],
    ranges: Sequence[str],
    draws: int | None,
    whole: Iterable[str] = (),
    text: Iterable[str] = (),
) -> list[Setting]:
    """Every point that flags and file span, the last grid running fastest.

    `of_file`: what get_sweep() returned. `whole`: keys that hold whole numbers; `text`: keys that hold text, or several
    texts. Raises Refused for flags that span nothing: a key twice, zips of different lengths, a range without a number
    of draws.
    """
    axes = [[_of_file(entry) for entry in of_file]] if of_file else []
    listed = functools.partial(_key_and_texts, text=frozenset(text))
    axes += [_zipped(zips, listed)] if zips else []
    axes += [_drawn(ranges, draws, frozenset(whole))] if ranges or draws is not None else []
    axes += [[Setting("", {key: text}) for text in texts] for key, texts in map(listed, grids)]
    if not axes:
        raise Refused(
            "nothing to sweep: give --grid=KEY=A,B, --zip, --random with --range, or a config with get_sweep()"
        )
    return [_joined(parts) for parts in itertools.product(*axes)]


def text_of(value: Any) -> str:
    """How a flag spells a value of a config."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def _of_file(entry: Mapping[str, Any]) -> Setting:
    values = {key: text_of(value) for key, value in entry.items() if key != NAME}
    return Setting(str(entry[NAME]) if NAME in entry else "", values)


def _joined(parts: Iterable[Setting]) -> Setting:
    """The values of all parts, and the name that one may have."""
    name, values, apart = "", {}, []
    for part in parts:
        for key in part.values:
            if key in values:
                raise Refused(f"{key} is swept twice: give all its values in one place")
        values |= part.values
        name = name or part.name
        apart += [] if part.name else part.values
    return Setting(name, values, tuple(apart))


def name_of(values: Mapping[str, str], before: str = "") -> str:
    """What a run with these values is called: "optimizer.learning_rate=1e-05,seed=0", behind a name if there is one.

    In the order of the keys: whoever types the flags in another order means the same run.
    """
    return ",".join(filter(None, [before, *(f"{key}={values[key]}" for key in sorted(values))]))


def _key_and_texts(flag: str, text: frozenset[str]) -> tuple[str, list[str]]:
    key, equals, listed = flag.partition("=")
    texts = split_values(listed)
    if not (key and equals and texts):
        raise Refused(f"{flag!r} sweeps nothing: KEY=VALUE,VALUE is expected")
    key = key.removeprefix("config.")
    return key, [unquoted(value) for value in texts] if key in text else texts


def unquoted(value: str) -> str:
    """Text without the quotes around it: as a shell's, they hold it together and do not belong to it."""
    found = re.fullmatch(r"""(['"])((?:(?!\1).)*)\1""", value)
    return found[2] if found else value


def split_values(listed: str) -> list[str]:
    """The values of "1,2" or "(),('c2p','p2c')": commas inside brackets and quotes belong to a value."""
    texts, depth, quote, start = [], 0, "", 0
    for at, letter in enumerate(listed):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        elif letter == "," and depth == 0:
            texts.append(listed[start:at].strip())
            start = at + 1
    texts.append(listed[start:].strip())
    if depth or quote:
        raise Refused(f"{listed!r}: a bracket or quote has no end")
    return texts if listed.strip() else []


def _zipped(flags: Sequence[str], listed: Callable[[str], tuple[str, list[str]]]) -> list[Setting]:
    columns = dict(map(listed, flags))
    if len(columns) < len(flags):
        raise Refused("--zip names a key twice")
    lengths = {key: len(texts) for key, texts in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise Refused(f"--zip needs as many values of each key: {said}")
    return [Setting("", dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _drawn(flags: Sequence[str], draws: int | None, whole: frozenset[str]) -> list[Setting]:
    if draws is None or not flags:
        raise Refused("--random=N and --range=KEY=log:A:B belong together: how many values are drawn, and where")
    if draws < 1:
        raise Refused(f"--random must be at least 1, got {draws}")
    ranges = list(map(range_of, flags))
    if len({each.key for each in ranges}) < len(ranges):
        raise Refused("--range names a key twice")
    points: dict[tuple[str, ...], None] = {}  # in the order in which they were first drawn
    number = newest = 0
    while len(points) < draws:
        point = tuple(drawn(each, number, each.key in whole) for each in ranges)
        newest = newest if point in points else number
        points[point] = None
        number += 1
        if number - newest > MISSES:
            raise Refused(f"--random={draws}: {number} draws gave {len(points)} different points: ask for no more")
    return [Setting("", dict(zip((each.key for each in ranges), point, strict=True))) for point in points]


def range_of(flag: str) -> Range:
    """The Range of "KEY=log:1e-5:1e-3". Raises Refused for anything else."""
    key, _, text = flag.partition("=")
    scale, *ends = text.split(":")
    if not key or len(ends) != 2:
        raise Refused(f"--range={flag}: KEY=log:LOW:HIGH or KEY=linear:LOW:HIGH is expected")
    if scale not in SCALES:
        raise Refused(f"--range={flag}: no scale {scale!r}{nearest(scale, SCALES)}; there are {', '.join(SCALES)}")
    try:
        low, high = map(float, ends)
    except ValueError:
        raise Refused(f"--range={flag}: {ends[0]!r} and {ends[1]!r} must be numbers") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high and (scale == "linear" or low > 0)):
        raise Refused(f"--range={flag}: LOW must be below HIGH, and positive on a log scale")
    return Range(key.removeprefix("config."), scale, low, high)


def drawn(where: Range, number: int, whole: bool) -> str:
    """Draw number `number` of a range: a function of key and number, so that more draws begin with the same ones."""
    share = np.random.default_rng([zlib.crc32(where.key.encode()), number]).random()
    if where.scale == "log":
        value = where.low * (where.high / where.low) ** share
    else:
        value = where.low + (where.high - where.low) * share
    return str(round(value)) if whole else text_of(float(f"{value:.{DIGITS}g}"))


def checked(found: Any, source: str) -> list[Mapping[str, Any]]:
    """What get_sweep() of a config file returned, None of one without. Raises Refused unless those are dictionaries."""
    if found is None:
        return []
    if not isinstance(found, (list, tuple)) or not found or not all(map(_is_setting, found)):
        raise Refused(f"{source}: get_sweep() must return a list of dictionaries, {{KEY: value}}")
    return list(found)


def _is_setting(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(isinstance(key, str) for key in entry)
