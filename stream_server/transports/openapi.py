"""The OpenAPI 3.1 description of what is served over plain HTTP, made from its types.

What each endpoint takes and answers is said here in one table; the shapes follow from the types
that the endpoints themselves decode and encode. Live streams are in ``protocol/asyncapi.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from stream_server.transports.answers import ErrorBody
from stream_server.transports.offer import ICE_PATH, OFFER_PATH, IceServers, Offer, OfferAnswer
from stream_server.transports.openai_rest import Model, Models
from stream_server.transports.openai_secrets import SecretAnswer, SecretRequest
from stream_server.transports.token_routes import (
    ASSEMBLYAI_PATH,
    GRANT_PATH,
    SPEECHMATICS_PATH,
    AssemblyAiToken,
    DeepgramToken,
    DeepgramTokenRequest,
    SpeechmaticsToken,
    SpeechmaticsTokenRequest,
    TokenAnswer,
    TokenRequest,
)
from stream_server.transports.token_routes import PATH as TOKENS_PATH
from stream_server.transports.transcription import ResponseFormat, Text, VerboseText
from stream_server.transports.viewers import CAPTIONS_PATH, EVENTS_PATH
from stream_server.transports.whip import WHIP_PATH

PATH = "/openapi.json"

_SCHEMAS = "#/components/schemas/"
_JSON = "application/json"
_SDP = "application/sdp"
_BYTES: Mapping[str, Any] = {"type": "string", "format": "binary"}
_STRING: Mapping[str, Any] = {"type": "string"}
_STEPS: Mapping[str, Any] = {"type": "integer", "minimum": 1, "maximum": 64}

_Content = Mapping[str, type[msgspec.Struct] | Mapping[str, Any]]
"""By MIME type, a type or a schema."""
_OBJECT: _Content = {_JSON: {"type": "object"}}
"""In the form of the API that it is of, not described here."""


@dataclass(frozen=True, slots=True)
class _Operation:
    """One method of one path."""

    path: str
    method: str
    summary: str
    answers: Mapping[int, _Content]
    """By status, those that are no error."""
    errors: tuple[int, ...] = ()
    """Beside 401 of a server with keys."""
    body: _Content | None = None
    query: Mapping[str, Mapping[str, Any]] | None = None
    is_open: bool = False
    """Whether no key is wanted."""


_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "language": _STRING,
    "response_format": {"type": "string", "enum": list(get_args(ResponseFormat))},
    "steps": _STEPS,
    "timestamp_granularities": _STRING,
    "stream": {"type": "boolean"},
}
_FORM: Mapping[str, Any] = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": _BYTES, "model": _STRING, **_FIELDS},
}
_TEXTS: _Content = {
    _JSON: {"anyOf": [{"$ref": _SCHEMAS + each.__name__} for each in (Text, VerboseText)]},
    "text/plain": _STRING,
    "text/vtt": _STRING,
    "application/x-subrip": _STRING,
    "text/event-stream": _STRING,
}
_REFUSED = (400, 413, 503, 504)
_NO_TOKEN = (400, 413, 504)
_DEEPGRAM: Mapping[int, _Content] = dict.fromkeys((400, 408, 413), _OBJECT)
"""Refusals in Deepgram's form."""
_OPERATIONS = (
    _Operation("/", "get", "What is here.", {200: {**_OBJECT, "text/html": _STRING}}),
    _Operation(PATH, "get", "This description.", {200: _OBJECT}),
    _Operation("/metrics", "get", "Metrics for Prometheus.", {200: {"text/plain": _STRING}}),
    _Operation(
        "/overlay", "get", "Captions as a layer.", {200: {"text/html": _STRING}}, is_open=True
    ),
    _Operation("/v1/models", "get", "The model.", {200: {_JSON: Models}}, errors=(503,)),
    _Operation("/v1/models/{model}", "get", "A model.", {200: {_JSON: Model}}, errors=(404, 503)),
    _Operation(
        "/v1/audio/transcriptions",
        "post",
        "Transcribe a file: in a form, or as the body with the fields in the query.",
        {200: _TEXTS},
        errors=(*_REFUSED, 500),
        body={"multipart/form-data": _FORM, "audio/wav": _BYTES, "audio/ogg": _BYTES},
        query=_FIELDS,
    ),
    _Operation("/v1/audio/translations", "post", "Not here.", {}, errors=(400,)),
    _Operation(
        "/v1/listen",
        "post",
        "Deepgram: transcribe a file. Errors are in Deepgram's form.",
        dict.fromkeys((200, 400, 413, 503), _OBJECT),
        body={"audio/wav": _BYTES, "audio/ogg": _BYTES},
        query={"language": _STRING, "punctuate": {"type": "boolean"}},
    ),
    _Operation(
        "/v1/realtime/client_secrets",
        "post",
        "OpenAI: a secret for a browser.",
        {200: {_JSON: SecretAnswer}},
        errors=_REFUSED,
        body={_JSON: SecretRequest},
    ),
    _Operation(
        "/v1/realtime/transcription_sessions",
        "post",
        "OpenAI: the same as the beta had it.",
        {200: _OBJECT},
        errors=_REFUSED,
        body=_OBJECT,
    ),
    _Operation(
        TOKENS_PATH,
        "post",
        "A short-lived token, for browsers.",
        {200: {_JSON: TokenAnswer}},
        errors=_NO_TOKEN,
        body={_JSON: TokenRequest},
    ),
    _Operation(
        GRANT_PATH,
        "post",
        "Deepgram: a token. Errors are in Deepgram's form.",
        {200: {_JSON: DeepgramToken}, **_DEEPGRAM},
        body={_JSON: DeepgramTokenRequest},
    ),
    _Operation(
        ASSEMBLYAI_PATH,
        "get",
        "AssemblyAI: a token. Errors are in AssemblyAI's form.",
        {200: {_JSON: AssemblyAiToken}, 400: _OBJECT},
        query={"expires_in_seconds": {"type": "integer", "minimum": 1, "maximum": 600}},
    ),
    _Operation(
        SPEECHMATICS_PATH,
        "post",
        "Speechmatics: a token.",
        {201: {_JSON: SpeechmaticsToken}},
        errors=_NO_TOKEN,
        body={_JSON: SpeechmaticsTokenRequest},
    ),
    _Operation(
        OFFER_PATH,
        "post",
        "WebRTC: answer an offer.",
        {200: {_JSON: OfferAnswer}},
        errors=(*_REFUSED, 415),
        body={_JSON: Offer},
    ),
    _Operation(ICE_PATH, "get", "WebRTC: STUN and TURN servers.", {200: {_JSON: IceServers}}),
    *(
        _Operation(
            path,
            "post",
            "WHIP: answer an offer.",
            {201: {_SDP: _STRING}},
            errors=(*_REFUSED, 415),
            body={_SDP: _STRING},
            query={"language": _STRING, "steps": _STEPS},
        )
        for path in (WHIP_PATH, WHIP_PATH + "/{name}")
    ),
    _Operation(
        "/whip/sessions/{session}",
        "patch",
        "WHIP: further candidates.",
        {204: {}},
        errors=(400, 404, 412, 413, 415, 422),
        body={"application/trickle-ice-sdpfrag": _STRING},
    ),
    _Operation(
        "/whip/sessions/{session}", "delete", "WHIP: end a session.", {200: {}}, errors=(404,)
    ),
    _Operation(
        EVENTS_PATH,
        "get",
        "A session's transcripts as server-sent events.",
        {200: {"text/event-stream": _STRING}, 204: {}},
        errors=(404,),
    ),
    *(
        _Operation(
            f"{CAPTIONS_PATH}.{ending}",
            "get",
            "A session's captions so far.",
            {200: {kind: _STRING}},
            errors=(404,),
        )
        for ending, kind in (("vtt", "text/vtt"), ("srt", "application/x-subrip"))
    ),
)


_Kinds = Mapping[str, type[msgspec.Struct]]


def render(version: str, probes: _Kinds, counts: _Kinds) -> bytes:
    """Return the description as JSON.

    Args:
        version: of the server.
        probes: what is open to everyone, by path, with what it answers.
        counts: what else says how the server is, by path, with what it answers.
    """
    return msgspec.json.encode(document(version, probes, counts))


def document(version: str, probes: _Kinds, counts: _Kinds) -> dict[str, Any]:
    """Return the description; see :func:`render`."""
    operations = [
        *(
            _Operation(
                path, "get", "A probe.", {200: {_JSON: kind}, 503: {_JSON: kind}}, is_open=True
            )
            for path, kind in probes.items()
        ),
        *(
            _Operation(path, "get", "Who is inside.", {200: {_JSON: kind}})
            for path, kind in counts.items()
        ),
        *_OPERATIONS,
    ]
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {"title": "diffscribe", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(each: _Operation) -> dict[str, Any]:
    error = {"description": "Refused.", "content": {_JSON: {"schema": _reference(ErrorBody)}}}
    responses = {
        str(status): {"description": "Done.", **_content(content)}
        for status, content in each.answers.items()
    }
    codes = each.errors if each.is_open else (*each.errors, 401)
    responses |= {str(code): error for code in codes}
    names = [part[1:-1] for part in each.path.replace(".", "/").split("/") if part[:1] == "{"]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _STRING} for name in names
    ]
    parameters += [
        {"name": name, "in": "query", "schema": schema}
        for name, schema in (each.query or {}).items()
    ]
    found: dict[str, Any] = {"summary": each.summary, "responses": responses}
    if parameters:
        found["parameters"] = parameters
    if each.body is not None:
        found["requestBody"] = {"required": True, **_content(each.body)}
    if not each.is_open:
        found["security"] = [{"key": []}]
    return found


def _content(content: _Content) -> dict[str, Any]:
    if not content:
        return {}
    return {
        "content": {
            kind: {"schema": _reference(shape) if isinstance(shape, type) else shape}
            for kind, shape in content.items()
        }
    }


def _reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _SCHEMAS + kind.__name__}


def _schemas(operations: Iterable[_Operation]) -> dict[str, Any]:
    contents = [
        content for each in operations for content in (*each.answers.values(), each.body or {})
    ]
    kinds = {shape for content in contents for shape in content.values() if isinstance(shape, type)}
    kinds |= {Text, VerboseText, ErrorBody}
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=_SCHEMAS + "{name}")
    return schemas


__all__ = ["PATH", "document", "render"]
