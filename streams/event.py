"""The call event, as any producer writes it: the public contract, its JSON Schema, and decoders for parts of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from msgspec import Meta

Milliseconds = Annotated[float, Meta(ge=0, le=86_400_000)]
"""A duration of at most a day."""
Count = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
Score = Annotated[float, Meta(ge=-1_000_000, le=1_000_000)]
Scalar = str | int | float | bool | None


class Tokens(msgspec.Struct, gc=False, frozen=True):
    """Tokens of a call. Input includes the cached ones, output includes reasoning; absent is unknown, not 0."""

    input: Count | None = None
    cached_input: Count | None = None
    cache_write: Count | None = None
    output: Count | None = None
    reasoning: Count | None = None


class CallError(msgspec.Struct, gc=False, frozen=True):
    """Why a call failed."""

    type: str | None = None
    code: str | int | None = None
    message: str | None = None


class Content(msgspec.Struct, gc=False, frozen=True):
    """Sizes, a hash and a reference of what was sent and answered. The texts themselves are never wanted."""

    system_chars: Count | None = None
    input_chars: Count | None = None
    context_chars: Count | None = None
    output_chars: Count | None = None
    sha256: str | None = None
    ref: str | None = None


NO_TOKENS: Final = Tokens()
NO_CONTENT: Final = Content()


class Call(msgspec.Struct, gc=False, kw_only=True):
    """One LLM call. Only `model` is required."""

    model: Annotated[str, Meta(min_length=1, description="Model asked for.")]
    id: Annotated[
        str | None,
        Meta(description="Unique call id. Calls with the same id on the same partition and time count once."),
    ] = None
    at: Annotated[
        str | int | float | None,
        Meta(
            description="When the call ended: RFC 3339 with an offset, or epoch milliseconds. Absent: the Kafka "
            "record's time, or `started_at` plus `latency_ms`."
        ),
    ] = None
    started_at: Annotated[
        str | int | float | None,
        Meta(
            description="When the call started, written like `at`. `at` and `latency_ms` fill in for one another."
        ),
    ] = None
    operation: Annotated[
        str | None,
        Meta(description="`chat` (default), `completion`, `embeddings`, ... Rules see chat and completion."),
    ] = None
    feature: Annotated[str | None, Meta(description="The product feature that made the call.")] = None
    model_version: Annotated[str | None, Meta(description="The exact model that answered.")] = None
    provider: Annotated[str | None, Meta(description="Who serves the model.")] = None
    user: Annotated[str | None, Meta(description="The end user, as an id.")] = None
    session: Annotated[str | None, Meta(description="The conversation or session, as an id.")] = None
    prompt: Annotated[str | None, Meta(description="Name of the prompt template.")] = None
    prompt_version: Annotated[str | None, Meta(description="Version of the prompt template.")] = None
    environment: Annotated[str | None, Meta(description="For example `prod`.")] = None
    status: Annotated[
        Literal["ok", "error"] | None, Meta(description="Absent: `error` if `error` is there, else `ok`.")
    ] = None
    error: Annotated[
        CallError | None, Meta(description="Why it failed; the message is cut at 500 characters.")
    ] = None
    finish_reason: Annotated[
        str | None,
        Meta(
            description="Normalised to stop, length, context_exceeded, content_filter, refusal, tool_calls, error or "
            "other; the original is kept with exemplars."
        ),
    ] = None
    latency_ms: Annotated[Milliseconds | None, Meta(description="From request to last byte, in ms.")] = None
    ttft_ms: Annotated[Milliseconds | None, Meta(description="Time to first token, in ms.")] = None
    stages_ms: Annotated[
        dict[str, Milliseconds | None] | None,
        Meta(
            description="Parts of the latency in ms: network, queue, inference, post_processing, retrieval, "
            "prompt_assembly, parsing, guardrail, or any name. The rest is `unaccounted`."
        ),
    ] = None
    tokens: Annotated[Tokens | None, Meta(description="Token counts.")] = NO_TOKENS
    max_tokens: Annotated[Count | None, Meta(description="The limit that was asked for.")] = None
    cost_usd: Annotated[
        Annotated[float, Meta(ge=0, le=1_000_000)] | None,
        Meta(
            description="What the call cost, in US dollars. Absent: priced from tokens, provider and model."
        ),
    ] = None
    streaming: Annotated[bool | None, Meta(description="Whether the answer was streamed.")] = None
    retries: Annotated[Count | None, Meta(description="Attempts before this one.")] = None
    trace: Annotated[str | None, Meta(description="Trace id, for links.")] = None
    span: Annotated[str | None, Meta(description="Span id, for links.")] = None
    request: Annotated[str | None, Meta(description="The provider's request id.")] = None
    content: Annotated[Content | None, Meta(description="Sizes, hash and reference of the texts.")] = (
        NO_CONTENT
    )
    parameters: Annotated[
        dict[str, Scalar] | None,
        Meta(description="Request parameters such as temperature; kept with exemplars."),
    ] = None
    scores: Annotated[dict[str, Score | None] | None, Meta(description="Quality scores by name.")] = None
    labels: Annotated[dict[str, Scalar] | None, Meta(description="Free dimensions by name.")] = None


FIELDS: Final[Mapping[str, msgspec.structs.FieldInfo]] = {
    field.name: field for field in msgspec.structs.fields(Call)
}
ALWAYS_READ: Final = (
    "model",
    "id",
    "at",
    "started_at",
    "operation",
    "status",
    "error",
    "latency_ms",
    "tokens",
)
"""Fields that are decoded, and so validated, whatever the rules need."""


@lru_cache(maxsize=64)
def decoder(names: frozenset[str], extra: frozenset[str] = frozenset()) -> msgspec.json.Decoder[Any]:
    """A JSON decoder of the given fields (ALWAYS_READ among them) and of `extra` top-level names as raw values.

    Its structs have those fields as attributes. Fields that nobody reads are skipped: that is 40 % of the cost of a
    whole call.
    """
    wanted = [FIELDS[name] for name in FIELDS if name in names or name in ALWAYS_READ]
    definition: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        (field.name, field.type) if field.required else (field.name, field.type, field.default)
        for field in wanted
    ]
    rename = {}
    for position, name in enumerate(sorted(extra)):
        definition.append((f"extra_{position}", msgspec.Raw, msgspec.Raw()))
        rename[f"extra_{position}"] = name
    lean = msgspec.defstruct("LeanCall", definition, gc=False, rename=rename)
    return msgspec.json.Decoder(lean)


FULL: Final = msgspec.json.Decoder(Call)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the event, generated from `Call`."""
    schema = msgspec.json.schema(Call)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tocsin call event",
        **schema,
    }


_FINISH: Final = {
    "stop": ("stop", "end_turn", "stop_sequence", "eos", "eos_token", "completed", "complete", "end"),
    "length": (
        "length",
        "max_tokens",
        "max_output_tokens",
        "max-tokens",
        "max_length",
        "model_length",
        "token_limit",
    ),
    "context_exceeded": ("context_exceeded", "model_context_window_exceeded", "context_length_exceeded"),
    "content_filter": (
        "content_filter",
        "content-filter",
        "content_filtered",
        "safety",
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
        "guardrail_intervened",
        "image_safety",
    ),
    "refusal": ("refusal", "refused"),
    "tool_calls": (
        "tool_calls",
        "tool_call",
        "tool_use",
        "tool-calls",
        "function_call",
        "malformed_function_call",
    ),
    "error": ("error", "failed", "cancelled", "canceled"),
}
_FINISH_BY_SPELLING: Final = {
    spelling: reason for reason, spellings in _FINISH.items() for spelling in spellings
}
FINISH_REASONS: Final = (*_FINISH, "other")


def finish_reason(original: str) -> str:
    """The normalised finish reason of a provider's spelling, whatever its case."""
    return _FINISH_BY_SPELLING.get(original.strip().lower(), "other")


_PARTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
MESSAGE_CHARACTERS: Final = 500
_TEXT_CHARACTERS: Final = 200
_MAPPING_ENTRIES: Final = 32


def describe(raw: bytes) -> tuple[dict[str, object], tuple[str, ...]]:
    """What is worth showing of one call, and the names that were ignored.

    The fields of the event by their public names, texts bounded, labels (and scalars under unknown top-level names)
    under `labels`. Nothing else of the record is kept, so no prompt or answer that a producer put there leaves.
    """
    shown: dict[str, object] = {}
    labels: dict[str, object] = {}
    named: dict[str, object] = {}
    ignored: list[str] = []
    for name, value in _values(raw):
        if value is None:
            continue
        if name in FIELDS:
            if isinstance(value, dict):
                known = _NESTED.get(name)
                if name == "labels":
                    named = _bounded_mapping(value)
                elif kept := _bounded_mapping(value, known, message=name == "error"):
                    shown[name] = kept
                if known is not None and not known.issuperset(value):
                    ignored += [f"{name}.{key}" for key in value if key not in known]
            elif name != "labels" and not isinstance(value, list):
                shown[name] = _bounded_scalar(value)
        elif isinstance(value, str | int | float | bool):
            labels[name[:_TEXT_CHARACTERS]] = _bounded_scalar(value)
        else:
            ignored.append(name)
    if labels := named | {name: value for name, value in labels.items() if name not in named}:
        shown["labels"] = dict(list(labels.items())[:_MAPPING_ENTRIES])
    return shown, tuple(name[:_TEXT_CHARACTERS] for name in ignored)


_NESTED: Final[Mapping[str, frozenset[str]]] = {
    "tokens": frozenset(Tokens.__struct_fields__),
    "error": frozenset(CallError.__struct_fields__),
    "content": frozenset(Content.__struct_fields__),
}


_WHOLE: Final = msgspec.json.Decoder(dict[str, Any])


def _values(raw: bytes) -> Iterable[tuple[str, object]]:
    """Names and values of an event; None for what nobody read when the call was taken and cannot be read."""
    try:
        return cast("dict[str, object]", _WHOLE.decode(raw)).items()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Part by part is three times slower, and loses only the part that is at fault.
        try:
            return [(name, _readable(part)) for name, part in _PARTS.decode(raw).items()]
        except RecursionError:
            # The call was read with a little more stack left than there is here: it counts, and shows nothing.
            return []


class ShownCall(Mapping[str, object]):
    """What `describe` shows of a call, as MessagePack until somebody reads it: most exemplars are never looked at."""

    __slots__ = ("_fields", "packed")

    def __init__(self, packed: bytes) -> None:
        self.packed = packed
        self._fields: dict[str, object] | None = None

    def __getitem__(self, name: str) -> object:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._read()!r})"

    def _read(self) -> dict[str, object]:
        if self._fields is None:
            self._fields = msgspec.msgpack.decode(self.packed, type=dict[str, object])
        return self._fields


def show(raw: bytes) -> ShownCall:
    """What `describe` shows of one call."""
    try:
        call = _USUAL.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ShownCall(_PACKER.encode(describe(raw)[0]))
    for name, nothing in _NOTHING_IN.items():
        if getattr(call, name) == nothing:
            setattr(call, name, None)
    return ShownCall(_PACKER.encode(call))


_ShownText = Annotated[str, Meta(max_length=_TEXT_CHARACTERS)]
_Shown = _ShownText | Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | float | bool
_ShownMapping = Annotated[dict[_ShownText, _Shown], Meta(min_length=1, max_length=_MAPPING_ENTRIES)]


def _usual(name: str, types: Mapping[str, Any]) -> type[msgspec.Struct]:
    """A struct of optional fields that takes nothing else, so that what fits needs no bounding."""
    fields = [(field, type_ | None, None) for field, type_ in types.items()]
    return msgspec.defstruct(name, fields, omit_defaults=True, forbid_unknown_fields=True, gc=False)


_USUAL_NESTED: Final = {
    name: _usual(f"Usual_{name}", dict.fromkeys(known, _Shown)) for name, known in _NESTED.items()
}
_NOTHING_IN: Final = {name: nested() for name, nested in _USUAL_NESTED.items()}
_USUAL: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(
    _usual(
        "UsualCall",
        dict.fromkeys(FIELDS, _Shown)
        | dict.fromkeys(("stages_ms", "parameters", "scores", "labels"), _ShownMapping)
        | _USUAL_NESTED,
    )
)
_PACKER: Final = msgspec.msgpack.Encoder()


def _readable(part: msgspec.Raw) -> object:
    try:
        return cast("object", msgspec.json.decode(part))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _bounded_mapping(
    value: dict[str, object], known: frozenset[str] | None = None, *, message: bool = False
) -> dict[str, object]:
    """The scalars of a mapping, of the known names only where some are given, with texts cut; the first 32 of them."""
    kept: dict[str, object] = {}
    scalars = 0
    for key, item in value.items():
        if known is not None and key not in known:
            continue
        if isinstance(item, str | int | float | bool):
            kept[key[:_TEXT_CHARACTERS]] = _bounded_scalar(item)
            scalars += 1
            if scalars == _MAPPING_ENTRIES:
                break
    if message and isinstance(text := value.get("message"), str):
        kept["message"] = text[:MESSAGE_CHARACTERS]
    return kept


def _bounded_scalar(value: object) -> object:
    if isinstance(value, str):
        return value[:_TEXT_CHARACTERS]
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return str(value)[:_TEXT_CHARACTERS]  # no record format takes a wider integer
    return value
