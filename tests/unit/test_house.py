"""Rules of the house that no linter knows: who may read, load or name what."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("genie", "workers", "cloud_app")
SHIPPED = (*PACKAGES, "migrations")

READS_THE_ENVIRONMENT = {
    "genie/env.py": "the one place that reads settings",
    "workers/engine/parent/process.py": "hands a child the few variables it needs",
}

PROVIDERS = re.compile(
    r"openai\.com|openai\.azure|anthropic|claude|gemini|generativelanguage|bedrock"
    r"|vertexai|openrouter|together\.(ai|xyz)|groq\.com|cohere|api\.mistral|mistral\.ai"
    r"|deepseek\.com|perplexity|fireworks\.ai|replicate\.com|litellm",
    re.IGNORECASE,
)
"""Hosts and names of services that compute elsewhere; there is no adapter to any."""

PROVIDER_SDKS = {
    "openai",
    "anthropic",
    "litellm",
    "boto3",
    "mistralai",
    "groq",
    "cohere",
}

HEAVY = {"torch", "transformers", "accelerate"}

LIGHT_IMPORTS = {
    "genie": HEAVY | {"celery", "kombu", "flask", "sqlmodel", "sqlalchemy", "pydantic"},
    "genie.cli": HEAVY | {"celery", "kombu", "flask", "sqlmodel", "pydantic"},
    "cloud_app.app": HEAVY | {"workers"},
    "cloud_app.celery": HEAVY | {"workers"},
    "workers.engine": HEAVY | {"flask", "sqlmodel", "cloud_app"},
    "workers.celery": HEAVY | {"flask", "sqlmodel", "cloud_app"},
}

SHARED_CLASS_NAMES: dict[str, str] = {}
"""Class names that two modules may share, each with its reason; at most ten."""

NOUNS_IN_ING = {
    *("messaging", "serving", "bidding", "packing", "batching", "sizing", "routing"),
    *("billing", "pricing", "streaming", "loading", "embedding", "rendering"),
    *("scheduling", "sampling", "monitoring", "logging"),
}
"""Gerunds that the field uses as nouns."""

OTHER_MODULE_NAMES = {
    "feed": "a verb, and no participle",
    "gc_tuning": "the field's word for setting up a garbage collector",
    "embedded": "the embedded fleet is a noun of the product",
    "packed": "a packed batch is a noun of the field",
    "pending": "pending requests, of which the engine's parent holds the callbacks",
}
"""Modules whose name looks like a gerund or a participle and may stay, and why."""


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def shipped_text() -> Iterator[Path]:
    for package in SHIPPED:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in {".py", ".toml", ".html", ".js", ".css", ".mako", ".ini"}:
                yield path


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def shown(page: Path) -> str:
    return re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def reads_environment(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in {"environ", "environb", "getenv", "putenv"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        for node in ast.walk(tree)
    )


def test_no_module_is_longer_than_600_lines() -> None:
    long = {
        name_of(path): lines
        for path in sources()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 600
    }
    assert not long


def test_a_class_name_means_one_thing_in_the_product() -> None:
    places = defaultdict(set)
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].add(name_of(path))
    shared = {name: sorted(where) for name, where in places.items() if len(where) > 1}
    assert shared.keys() == SHARED_CLASS_NAMES.keys(), shared
    assert len(SHARED_CLASS_NAMES) <= 10


def test_no_module_is_named_by_a_gerund_or_a_participle() -> None:
    named = {
        path.stem for path in sources() if path.stem.endswith(("ing", "ed"))
    } - NOUNS_IN_ING
    assert named == OTHER_MODULE_NAMES.keys()


def test_every_folder_with_code_is_a_package_that_a_wheel_holds() -> None:
    folders = {path.parent for name in SHIPPED for path in (ROOT / name).rglob("*.py")}
    assert not {name_of(one) for one in folders if not (one / "__init__.py").exists()}


def test_nothing_that_ships_names_a_service_that_computes_elsewhere() -> None:
    named = {
        f"{name_of(path)}:{number}": line.strip()
        for path in shipped_text()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if PROVIDERS.search(line)
    }
    assert not named


def test_nothing_that_ships_imports_a_provider_sdk() -> None:
    found = {name_of(path): imported(path) & PROVIDER_SDKS for path in sources()}
    assert not {name: used for name, used in found.items() if used}


def test_the_cloud_and_the_sdk_never_import_torch() -> None:
    outside = [path for path in sources() if "workers" not in path.parts]
    found = {name_of(path): imported(path) & HEAVY for path in outside}
    assert not {name: used for name, used in found.items() if used}


def test_torch_stays_inside_the_transformers_engine() -> None:
    users = {name_of(path) for path in sources() if imported(path) & HEAVY}
    assert all(name.startswith("workers/engine/torch/") for name in users), users


def test_only_settings_read_the_environment() -> None:
    readers = {name_of(path) for path in sources() if reads_environment(path)}
    assert readers == READS_THE_ENVIRONMENT.keys()


def test_nothing_that_ships_uses_pickle() -> None:
    unsafe = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
    assert not {name_of(path) for path in sources() if imported(path) & unsafe}


@pytest.mark.parametrize("module", LIGHT_IMPORTS)
def test_an_import_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*{{n.partition('.')[0] for n in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.returncode, done.stderr
    assert not LIGHT_IMPORTS[module] & set(done.stdout.split())


def test_the_reference_pages_say_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/reference.py", "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.returncode, done.stderr


def test_every_link_between_the_documents_leads_somewhere() -> None:
    broken = [
        f"{name_of(page)}: {target}"
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#\s]+)", shown(page))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken
