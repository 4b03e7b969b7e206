"""Model files on disk: pulled once, verified, never half there."""

import hashlib
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from genie.contracts.inference import Fault
from genie.contracts.model import ModelFile, ModelSpec
from workers.files import files, manifest
from workers.files.files import ModelStore
from workers.files.manifest import PullFailed

WEIGHTS = b"weights " * 1000
CONFIG = b"{}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def spec(source: str, *named: ModelFile, parameters: int = 10) -> ModelSpec:
    return ModelSpec(
        id="tiny:1b",
        family="tiny",
        parameters=parameters,
        license="none",
        source=source,
        context_max=512,
        layers=1,
        kv_heads=1,
        head_dim=1,
        files=named,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere"
    path.mkdir()
    (path / "model.safetensors").write_bytes(WEIGHTS)
    (path / "config.json").write_bytes(CONFIG)
    (path / "code.py").write_text("raise SystemExit")
    return path


@pytest.fixture
def models(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder pip downloads from instead of an index, with one wheel in it."""
    path = tmp_path / "wheels"
    path.mkdir()
    with zipfile.ZipFile(path / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/model.safetensors", WEIGHTS)
        info = "tiny_model-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path))
    return path


def fault_of(pull: Callable[[], object]) -> Fault:
    with pytest.raises(PullFailed) as caught:
        pull()
    return caught.value.fault


def test_a_folder_is_served_where_it_is(models: ModelStore, folder: Path) -> None:
    pulled = models.ensure(spec(f"path:{folder}"))
    assert pulled.path == folder
    assert {file.name: file.sha256 for file in pulled.files} == {
        "model.safetensors": sha256(WEIGHTS),
        "config.json": sha256(CONFIG),
    }
    assert not (folder / manifest.NAME).exists()


def test_echo_needs_no_files(models: ModelStore) -> None:
    echo = msgspec.structs.replace(spec("echo:?ms_per_token=1"), engine="echo")
    assert models.ensure(echo) == files.LocalModel(path=None, files=())
    assert not models.root.exists()


def test_a_second_look_reads_no_file_again(
    models: ModelStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = models.ensure(spec(f"path:{folder}"))
    monkeypatch.setattr(manifest, "digest", lambda path: pytest.fail(f"read {path}"))
    assert models.ensure(spec(f"path:{folder}")) == first


def test_a_file_that_changed_is_corrupt(models: ModelStore, folder: Path) -> None:
    models.ensure(spec(f"path:{folder}"))
    (folder / "model.safetensors").write_bytes(b"other")
    fault = fault_of(lambda: models.ensure(spec(f"path:{folder}")))
    assert fault.code == "corrupt"
    for part in ("model.safetensors", sha256(WEIGHTS), sha256(b"other")):
        assert part in fault.message
    assert "genie models rm tiny:1b" in fault.message


def test_a_file_that_was_only_touched_is_not_corrupt(
    models: ModelStore, folder: Path
) -> None:
    first = models.ensure(spec(f"path:{folder}"))
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    assert models.ensure(spec(f"path:{folder}")) == first


def test_removing_forgets_a_folder_and_leaves_it_alone(
    models: ModelStore, folder: Path
) -> None:
    models.ensure(spec(f"path:{folder}"))
    assert models.rm("tiny:1b") > 0
    assert models.ls() == ()
    assert (folder / "model.safetensors").exists()
    assert models.rm("tiny:1b") == 0


def test_a_digest_the_catalog_states_is_held_against_the_file(
    models: ModelStore, folder: Path
) -> None:
    wrong = ModelFile(name="model.safetensors", sha256="0" * 64)
    fault = fault_of(lambda: models.ensure(spec(f"path:{folder}", wrong)))
    assert fault.code == "corrupt"
    assert models.ls() == ()


def test_a_digest_nobody_knows_is_measured(models: ModelStore, folder: Path) -> None:
    named = ModelFile(name="model.safetensors")
    (file,) = models.ensure(spec(f"path:{folder}", named)).files
    assert file == ModelFile(
        name="model.safetensors", sha256=sha256(WEIGHTS), size_bytes=len(WEIGHTS)
    )


def test_a_file_the_catalog_names_must_be_there(
    models: ModelStore, folder: Path
) -> None:
    named = ModelFile(name="absent.safetensors")
    fault = fault_of(lambda: models.ensure(spec(f"path:{folder}", named)))
    assert fault.code == "not_found"
    assert "absent.safetensors" in fault.message


@pytest.mark.parametrize(
    "source",
    ["", "hf:", "path:", "pypi:tiny==1.0", "pypi:tiny#file", "http://x", "ollama:x"],
)
def test_what_is_no_source_is_said_so(models: ModelStore, source: str) -> None:
    fault = fault_of(lambda: models.ensure(spec(source)))
    assert fault.code == "bad_source"
    assert "hf:repo@revision" in fault.message


def test_a_folder_that_is_not_there_is_said_so(
    models: ModelStore, tmp_path: Path
) -> None:
    fault = fault_of(lambda: models.ensure(spec(f"path:{tmp_path / 'no'}")))
    assert fault.code == "not_found"


WHEEL = "pypi:tiny-model==1.0#tiny_model/model.safetensors"


def test_a_wheel_gives_its_one_file(models: ModelStore, wheels: Path) -> None:
    named = ModelFile(name="model.safetensors", sha256=sha256(WEIGHTS))
    shares: list[float] = []
    pulled = models.ensure(spec(WHEEL, named), shares.append)
    assert pulled.path is not None
    assert (pulled.path / "model.safetensors").read_bytes() == WEIGHTS
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert manifest.verify(pulled.path, spec(WHEEL, named)) == pulled.files
    assert [one.id for one in models.ls()] == ["tiny:1b"]
    assert models.disk().used_bytes >= len(WEIGHTS)
    assert not (models.root / ".partial" / "tiny%3A1b").exists()


def test_leftovers_of_an_interrupted_pull_do_no_harm(
    models: ModelStore, wheels: Path
) -> None:
    left = models.root / ".partial" / "tiny%3A1b" / "source"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    pulled = models.ensure(spec(WHEEL))
    assert pulled.path is not None
    assert (pulled.path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_pull_that_fails_leaves_nothing_to_serve(
    models: ModelStore, wheels: Path
) -> None:
    wrong = ModelFile(name="model.safetensors", sha256="0" * 64)
    fault_of(lambda: models.ensure(spec(WHEEL, wrong)))
    assert models.ls() == ()


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("pypi:tiny-model==2.0#tiny_model/model.safetensors", "pull_failed"),
        ("pypi:tiny-model==1.0#tiny_model/other.safetensors", "not_found"),
    ],
)
def test_a_wheel_without_what_was_asked_is_said_so(
    models: ModelStore, wheels: Path, source: str, code: str
) -> None:
    fault = fault_of(lambda: models.ensure(spec(source)))
    assert fault.code == code


def test_a_changed_file_is_found_before_it_is_loaded(
    models: ModelStore, wheels: Path
) -> None:
    pulled = models.ensure(spec(WHEEL))
    assert pulled.path is not None
    target = pulled.path / "model.safetensors"
    changed = bytes([WEIGHTS[0] ^ 1]) + WEIGHTS[1:]
    target.write_bytes(changed)
    path = pulled.path
    fault = fault_of(lambda: manifest.verify(path, spec(WHEEL)))
    assert fault.code == "corrupt"
    assert models.rm("tiny:1b") > 0
    assert models.ensure(spec(WHEEL)).files == pulled.files


def test_two_pulls_at_once_fetch_once(models: ModelStore, wheels: Path) -> None:
    pulled: list[files.LocalModel] = []

    def pull() -> None:
        pulled.append(ModelStore(models.root).ensure(spec(WHEEL)))

    threads = [threading.Thread(target=pull) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pulled) == 2
    assert pulled[0] == pulled[1]


def test_a_disk_too_full_is_said_before_anything_is_fetched(
    models: ModelStore, wheels: Path
) -> None:
    fault = fault_of(lambda: models.ensure(spec(WHEEL, parameters=10**15)))
    assert fault.code == "disk_full"
    assert "genie models rm" in fault.message


def test_a_hub_without_safetensors_is_refused(
    models: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

    empty = ModelInfo(id="org/tiny", sha="c" * 40, siblings=[])  # type: ignore[no-untyped-call]  # the hub leaves it so
    monkeypatch.setattr(HfApi, "model_info", lambda *_args, **_options: empty)
    fault = fault_of(lambda: models.ensure(spec("hf:org/tiny@main")))
    assert fault.code == "not_found"
    assert "safetensors" in fault.message


def test_an_unreachable_hub_is_said_so(
    models: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    def look(api: HfApi, repo: str, **said: object) -> None:
        raise OfflineModeIsEnabled(f"no {repo}")

    monkeypatch.setattr(HfApi, "model_info", look)
    fault = fault_of(lambda: models.ensure(spec("hf:org/tiny@main")))
    assert (fault.code, fault.retryable) == ("offline", True)


def test_a_manifest_of_another_version_is_no_manifest(
    models: ModelStore, folder: Path
) -> None:
    models.ensure(spec(f"path:{folder}"))
    at = models.root / "tiny%3A1b" / manifest.NAME
    at.write_text('{"version": 9}')
    assert models.ensure(spec(f"path:{folder}")).path == folder


def test_another_source_replaces_the_old_files(
    models: ModelStore, wheels: Path, folder: Path
) -> None:
    models.ensure(spec(WHEEL))
    assert models.ensure(spec(f"path:{folder}")).path == folder
    (stored,) = models.ls()
    assert stored.source == f"path:{folder}"


def test_the_manifest_is_a_file_a_person_can_read(
    models: ModelStore, wheels: Path
) -> None:
    pulled = models.ensure(spec(WHEEL))
    assert pulled.path is not None
    said = msgspec.json.decode((pulled.path / manifest.NAME).read_bytes())
    assert said["source"] == WHEEL
    assert said["served"][0]["sha256"] == sha256(WEIGHTS)


def test_pulling_loads_no_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from workers.files.files import ModelStore\n"
        f"ModelStore(Path({str(tmp_path / 'm')!r})).ls()\n"
        "print([n for n in ('torch', 'transformers', 'numpy') if n in sys.modules])"
    )
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.stdout.strip() == "[]", done.stderr
