"""What schemathesis cannot know from the document.

Each request needs its own key: one that was sent with other fields is refused. Unknown query
parameters are ignored, as are fields of a body. A search needs a word, and the tag of what is to be
changed is its current one. An image begins like one, a file has a name, and a range has bytes.
"""

import itertools
from typing import Any

import schemathesis
from hypothesis import strategies
from schemathesis import GenerationMode

from support.media import IMAGES

UNKNOWN = "x-schemathesis-unknown-property"
_numbers = itertools.count()
_bytes = strategies.binary(min_size=1, max_size=100)
schemathesis.openapi.media_type("application/octet-stream", _bytes)
for _type, _image in IMAGES.items():
    schemathesis.openapi.media_type(_type, _bytes.map(_image.__add__))
# so that a key with it has at most 255 characters
LONGEST = 255 - 8


@schemathesis.hook
def before_call(_: schemathesis.HookContext, case: schemathesis.Case, __: dict[str, Any]) -> None:
    if case.meta and case.query and UNKNOWN in case.query:
        case.meta.generation.mode = GenerationMode.POSITIVE
    is_valid = case.meta and case.meta.generation.mode.is_positive
    if is_valid and case.query and (q := case.query.get("q")):
        case.query["q"] = "a" + q[1:]
    if is_valid and "If-Match" in case.headers:
        case.headers["If-Match"] = "*"
    if is_valid and "Range" in case.headers:
        case.headers["Range"] = "bytes=0-"
    if is_valid and (name := case.headers.get("Content-Disposition")) is not None:
        name = "".join(filter(str.isalnum, name))
        case.headers["Content-Disposition"] = f'attachment; filename="x{name[:99]}"'
    if is_valid and (key := case.headers.get("Idempotency-Key")):
        number = f"{next(_numbers):08}"
        case.headers["Idempotency-Key"] = (
            key[0] + number + key[1:] if len(key) <= LONGEST else number
        )
