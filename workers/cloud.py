"""Calls the cloud's fleet API: two requests, both outward."""

from typing import TYPE_CHECKING, TypeVar

from genie.contracts import codec
from genie.contracts.base import Contract
from genie.contracts.fleet import (
    Heartbeat,
    HeartbeatReply,
    Registration,
    RegistrationReply,
)
from genie.errors import (
    BadRequest,
    CloudUnreachable,
    CodecError,
    GenieError,
    Unauthorized,
)

if TYPE_CHECKING:
    import httpx2

C = TypeVar("C", bound=Contract)

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0


class CloudClient:
    """One cloud at one address; the HTTP library loads at the first call.

    Every method raises CloudUnreachable (try again later), Unauthorized (this
    credential is no good) or BadRequest (this release cannot talk to that cloud).
    """

    def __init__(
        self, url: str, *, transport: "httpx2.BaseTransport | None" = None
    ) -> None:
        self.url = url.rstrip("/")
        self._transport = transport
        self._client: httpx2.Client | None = None

    def register(self, registration: Registration, token: str) -> RegistrationReply:
        """Join with a join token, or join again with the worker's own secret."""
        return self._post("/fleet/v1/register", registration, token, RegistrationReply)

    def heartbeat(self, beat: Heartbeat, secret: str) -> HeartbeatReply:
        """Report, and learn what this worker should hold."""
        return self._post("/fleet/v1/heartbeat", beat, secret, HeartbeatReply)

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _post(self, path: str, body: Contract, bearer: str, answer: type[C]) -> C:
        import httpx2

        headers = {
            "Authorization": f"Bearer {bearer}",
            "Content-Type": "application/json",
        }
        data = codec.encode(body)
        try:
            response = self._open().post(self.url + path, content=data, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise CloudUnreachable(
                f"the cloud at {self.url} does not answer ({type(error).__name__}: "
                f"{error}); check GENIE_URL and the network"
            ) from error
        return self._read(response, answer)

    def _open(self) -> "httpx2.Client":
        import httpx2

        if self._client is None:
            timeout = httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
            self._client = httpx2.Client(timeout=timeout, transport=self._transport)
        return self._client

    def _read(self, response: "httpx2.Response", answer: type[C]) -> C:
        if not response.is_success:
            raise self._refusal(response)
        try:
            return codec.decode(answer, response.content)
        except CodecError as error:
            raise CloudUnreachable(
                f"{self.url} answered something that is not a fleet cloud's answer "
                f"({error}); check GENIE_URL, or update this worker"
            ) from error

    def _refusal(self, response: "httpx2.Response") -> GenieError:
        status, said = response.status_code, _message(response)
        if status in (401, 403):
            return Unauthorized(f"the cloud refused this worker: {said}")
        if 400 <= status < 500 and status not in (404, 408, 429):
            return BadRequest(f"the cloud rejected the request: {said}")
        return CloudUnreachable(
            f"{self.url} answered {status}: {said}; check GENIE_URL and `genie doctor`"
        )


def _message(response: "httpx2.Response") -> str:
    try:
        error = response.json()["error"]
        return str(error["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
