"""OpenAI's REST API around the upload: which models there are, and what is not here.

The upload itself is ``upload``, as it is the server's own too. A model of any name is accepted
there; listed is the one that is loaded.
"""

from __future__ import annotations

import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from stream_server.errors import Overloaded, Unauthorized
from stream_server.transports.admission import Admission
from stream_server.transports.answers import error_response, json_response, refusal
from stream_server.transports.auth import Keys


class Model(msgspec.Struct, frozen=True):
    """A model that is loaded."""

    id: str
    created: int
    """Unix seconds."""
    object: str = "model"
    owned_by: str = "diffscribe"


class Models(msgspec.Struct, frozen=True):
    """Those there are."""

    data: tuple[Model, ...]
    object: str = "list"


class _Catalogue:
    """``/v1/models``."""

    def __init__(self, admission: Admission, keys: Keys) -> None:
        self._admission = admission
        self._keys = keys
        self._created = int(time.time())

    async def __call__(self, request: Request) -> Response:
        """List the loaded model, or describe it."""
        try:
            self._keys.check(request)
            name = self._admission.model
            if name is None:
                raise Overloaded("the model is still loading; try again in a moment")
        except (Unauthorized, Overloaded) as error:
            return error_response(error)
        model, asked = Model(name, self._created), request.path_params.get("model")
        if asked is None:
            return json_response(Models((model,)))
        if asked == name:
            return json_response(model)
        text = f"the model {asked[:100]!r} does not exist; {name!r} is loaded"
        return refusal(404, "model_not_found", text, "model")


async def _refuse_translation(request: Request) -> Response:
    text = "this server transcribes and does not translate; use /v1/audio/transcriptions"
    return refusal(400, "unsupported_endpoint", text)


def routes(admission: Admission, keys: Keys) -> list[BaseRoute]:
    """Return the routes of the API.

    Args:
        admission: knows the model.
        keys: who may come in.
    """
    catalogue = _Catalogue(admission, keys)
    return [
        Route("/v1/audio/translations", keys.guard(_refuse_translation), methods=["POST"]),
        Route("/v1/models", catalogue.__call__),
        Route("/v1/models/{model:path}", catalogue.__call__),
    ]


__all__ = ["Model", "Models", "routes"]
