"""What can be asked: models, personas, and the decision a request would get."""

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, Field

from cloud_app.api.json import of_record
from cloud_app.api.requests import RouteRequest
from cloud_app.brain.views import WorkerView
from cloud_app.fleet import registry
from cloud_app.jobs import admission, failures
from cloud_app.jobs.job_json import route_answer
from cloud_app.store.records import KeyRecord
from cloud_app.web.request import blueprint, context, key
from genie import topology
from genie.api_types import (
    DecisionAnswer,
    ModelAnswer,
    ModelDetails,
    ModelList,
    PersonaAnswer,
    PersonaList,
    RouteQuestion,
)
from genie.catalog import Catalog, Persona
from genie.contracts.fleet import ModelState
from genie.contracts.inference import WorkClass
from genie.contracts.model import ModelSpec
from genie.errors import UnknownModel

api = blueprint("models", "models")


class ModelPath(BaseModel):
    """Which model."""

    model_id: str = Field(max_length=200)


@api.get("/models")
def list_models() -> ModelList:
    """Every model of the catalog that this key may use, and where it is ready."""
    workers = _workers(key())
    specs = [s for s in context().catalog.models.values() if _allowed(key(), s)]
    return ModelList(data=tuple(_model(spec, workers) for spec in specs))


@api.get("/models/<path:model_id>")
def get_model(path: ModelPath) -> ModelAnswer:
    """One model of the catalog."""
    spec = context().catalog.models.get(path.model_id)
    if spec is None or not _allowed(key(), spec):
        near = ", ".join(context().catalog.suggestions(path.model_id))
        hint = f"did you mean {near}?" if near else "see GET /v1/models."
        raise UnknownModel(
            f"There is no model {path.model_id!r}; {hint}", param="model"
        )
    return _model(spec, _workers(key()))


@api.get("/personas")
def list_personas() -> PersonaList:
    """Every persona: its ladder of models, smallest first, and its floor."""
    catalog = context().catalog
    personas = catalog.personas.values()
    return PersonaList(data=tuple(_persona(one, catalog) for one in personas))


@api.post("/route")
def decide_route(body: RouteRequest) -> DecisionAnswer:
    """Say where a request would go now, and why; nothing runs."""
    ctx = context()
    target = admission.resolve(ctx.catalog, body.model, body.persona)
    persona = target.persona
    work_class = persona.work_class if persona else WorkClass.INTERACTIVE
    is_async = body.mode == "async"
    if is_async:
        work_class = WorkClass.JOB
    texts = (body.input or "",)
    decision = admission.decide(
        ctx, key(), target, work_class, texts=texts, may_wait=is_async
    )
    name = persona.name if persona else None
    return DecisionAnswer(
        asked=RouteQuestion(model=body.model, persona=name),
        route=route_answer(failures.explain(decision)),
    )


def _allowed(key: KeyRecord, spec: ModelSpec) -> bool:
    is_listed = key.allowed_models is None or spec.id in key.allowed_models
    return spec.enabled and is_listed


def _workers(key: KeyRecord) -> tuple[WorkerView, ...]:
    """The live workers whose queues this org may use."""
    mine = {topology.SHARED, topology.org_queue(key.org.slug)}
    fleet = registry.view(context())
    return tuple(w for w in fleet.workers if w.is_open and mine & set(w.queues))


def _model(spec: ModelSpec, workers: Sequence[WorkerView]) -> ModelAnswer:
    held = [seen for w in workers if (seen := w.reported(spec.id)) is not None]
    states = Counter(seen.state.value for seen in held)
    personas = context().catalog.personas.values()
    details = ModelDetails(
        ready=states[ModelState.READY] > 0,
        workers=states[ModelState.READY],
        parameters=spec.parameters,
        license=spec.license,
        context=spec.context_max,
        states=dict(states),
        personas=tuple(p.name for p in personas if spec.id in p.ladder),
    )
    return ModelAnswer(id=spec.id, genie=details)


def _persona(persona: Persona, catalog: Catalog) -> PersonaAnswer:
    return of_record(
        PersonaAnswer,
        persona,
        id=persona.name,
        ladder=tuple(m for m in persona.ladder if catalog.models[m].enabled),
        sla_s=persona.sla.queue_wait_p95_s,
        has_system_prompt=persona.system_prompt is not None,
    )
