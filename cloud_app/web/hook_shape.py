"""What a request says of the webhook that is told of its end."""

from typing import Annotated

from pydantic import AfterValidator, Field

from cloud_app.brain import delivery
from cloud_app.store.records import Webhook
from cloud_app.web.shape import Shape, wrong


def _target(url: str) -> str:
    try:
        delivery.target(url)
    except ValueError as error:
        raise wrong(str(error)) from error
    return url


class WebhookShape(Shape):
    """Where to tell that the work has ended, and what signs the telling."""

    url: Annotated[str, AfterValidator(_target)] = Field(
        max_length=2048,
        pattern="^https?://",
        description="http or https, without a user or password.",
        examples=["https://example.com/hook"],
    )
    secret: str = Field(
        min_length=8,
        max_length=200,
        description="Key of the HMAC in X-Genie-Signature; never shown again.",
    )

    def webhook(self) -> Webhook:
        """The same for those below the web."""
        return Webhook(url=self.url, secret=self.secret)
