"""How long this org's prompts and answers are kept."""

from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import Field

from cloud_app.api import errors
from cloud_app.api.requests import RequestModel
from cloud_app.orgs import auth
from cloud_app.web.request import context, key, require_admin
from genie.api_types import RetentionAnswer

api = APIBlueprint(
    "retention",
    __name__,
    url_prefix="/v1/retention",
    abp_tags=[Tag(name="admin", description="For admin keys")],
    abp_security=[{"key": []}],
    abp_responses=errors.RESPONSES,
)
api.before_request(require_admin)


class RetentionRequest(RequestModel):
    """How long to keep texts; for jobs submitted from now on."""

    hours: int | None = Field(
        ge=0, le=8760, description="null: as long as the cloud keeps them."
    )


@api.get("")
def get_retention() -> RetentionAnswer:
    """Hours that prompts and answers are kept after the end of a job."""
    return _answer(key().org.retain_h)


@api.put("")
def set_retention(body: RetentionRequest) -> RetentionAnswer:
    """Keep them for so many hours; 0: not past their delivery."""
    actor = key().prefix
    return _answer(auth.retain(context(), key().org, body.hours, actor=actor))


def _answer(hours: int | None) -> RetentionAnswer:
    most = context().settings.retain_h
    kept = most if hours is None else min(hours, most)
    return RetentionAnswer(hours=hours, kept_h=kept)
