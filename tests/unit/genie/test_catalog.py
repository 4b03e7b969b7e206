from pathlib import Path

import pytest

from genie import catalog
from genie.catalog import ECHO, SHIPPED, TIERS, Catalog
from genie.contracts.inference import WorkClass
from genie.contracts.model import Capability
from genie.errors import CatalogError

MODEL = """\
[[models]]
id = "tiny:1b"
family = "llama"
parameters = 1_000
license = "Apache-2.0"
source = "hf:tiny/tiny@main"
context_max = 2048
layers = 2
kv_heads = 1
head_dim = 16
quants = [{ name = "f32", dtype = "float32" }]
"""
PERSONA = """\

[[personas]]
name = "chat"
tier = "lite"
ladder = ["tiny:1b"]
"""
GOOD = MODEL + PERSONA


@pytest.fixture(scope="module")
def shipped() -> Catalog:
    return catalog.load()


def refused(folder: Path, text: str) -> CatalogError:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CatalogError) as caught:
        catalog.load(path)
    assert str(path) in str(caught.value)
    return caught.value


class TestShipped:
    def test_it_has_the_real_small_model_and_eight_more(self, shipped: Catalog) -> None:
        assert "smollm2:135m" in shipped.models
        assert len(shipped.models) >= 9

    def test_every_built_in_persona_is_there(self, shipped: Catalog) -> None:
        names = {"chat", "classify", "rollup", "agent", "coder", "review", "heavy"}
        assert names <= shipped.personas.keys()

    def test_every_ladder_climbs_from_small_to_large(self, shipped: Catalog) -> None:
        for persona in shipped.personas.values():
            sizes = [shipped.models[model].parameters for model in persona.ladder]
            assert sizes == sorted(sizes), persona.name

    def test_every_floor_is_a_rung(self, shipped: Catalog) -> None:
        for persona in shipped.personas.values():
            assert persona.floor in persona.ladder

    def test_every_model_can_do_what_its_personas_need(self, shipped: Catalog) -> None:
        for persona in shipped.personas.values():
            for model in persona.ladder:
                assert set(persona.needs) <= set(shipped.models[model].capabilities)

    def test_every_tier_alias_stands_for_a_ladder(self, shipped: Catalog) -> None:
        for tier in TIERS:
            found = shipped.tier(tier)
            assert found is not None
            assert found.tier == tier
            assert found.system_prompt is None
        assert shipped.tier("huge") is None

    def test_digests_are_given_or_left_to_the_first_pull(
        self, shipped: Catalog
    ) -> None:
        digests = [f.sha256 for m in shipped.models.values() for f in m.files]
        assert digests
        assert all(digest and len(digest) == 64 for digest in digests)

    def test_weights_are_counted_from_parameters(self, shipped: Catalog) -> None:
        coder = shipped.models["qwen2.5-coder:7b"]
        assert coder.quants[0].weight_bytes == 2 * coder.parameters

    def test_the_echo_catalog_has_the_same_personas(self, shipped: Catalog) -> None:
        echo = catalog.load(ECHO)
        assert echo.personas.keys() == shipped.personas.keys()
        assert all(model.engine == "echo" for model in echo.models.values())

    def test_it_lies_beside_the_code(self) -> None:
        assert SHIPPED.is_file()


class TestOwnFile:
    def test_a_small_file_with_defaults_loads(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(GOOD)
        found = catalog.load(path)
        assert found.models["tiny:1b"].capabilities == (Capability.CHAT,)
        assert found.models["tiny:1b"].quants[0].weight_bytes == 4_000
        assert found.personas["chat"].work_class is WorkClass.INTERACTIVE

    @pytest.mark.parametrize(
        ("old", "new", "line", "field"),
        [
            ("context_max", "contxt_max", 7, "models[0].contxt_max"),
            ("[[models]]\n", "[[model]]\n", 1, "model"),
            ('tier = "lite"', 'teir = "lite"', 15, "personas[0].teir"),
            ("parameters = 1_000", 'parameters = "1B"', 4, "models[0].parameters"),
            ("parameters = 1_000", "parameters = -1", 4, "models[0].parameters"),
            ("layers = 2\n", "", 1, "models[0].layers"),
            ('"tiny:1b"\nf', '"Tiny 1B"\nf', 2, "models[0].id"),
            ("hf:tiny", "http:tiny", 6, "models[0].source"),
            ("dtype", "dtyp", 11, "models[0].quants[0].dtyp"),
            ('["tiny:1b"]', "[]", 16, "personas[0].ladder"),
            ('["tiny:1b"]', '["tiny:2b"]', 16, "personas[0].ladder"),
            ('"lite"', '"light"', 15, "personas[0].tier"),
            (
                'tier = "lite"',
                'tier = "lite"\nsla.queue_wait_p95_s = "soon"',
                16,
                "personas[0].sla.queue_wait_p95_s",
            ),
            ('tier = "lite"', 'tier = "lite"\nfloor = "x"', 16, "personas[0].floor"),
        ],
    )
    def test_a_mistake_is_named_by_file_line_and_field(
        self, tmp_path: Path, old: str, new: str, line: int, field: str
    ) -> None:
        assert old in GOOD
        error = refused(tmp_path, GOOD.replace(old, new, 1))
        assert error.param == field
        assert f"mine.toml:{line}: field {field}: " in str(error)

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ("slots=0", "slots of 'echo:?slots=0' is '0'; write a whole number from 1"),
            ("slots=many", "is 'many'; write a whole number"),
            ("slots=1e3", "is '1e3'; write a whole number"),
            ("slots=65537", "from 1 to 65536"),
            ("slot=8", "echo has no option 'slot'; it knows ms_per_token, slots"),
            ("ms_per_token=-1", "ms_per_token of"),
            ("load_s=soon", "is 'soon'; write a number, 0 or more"),
            ("once=2", "write 0 or 1"),
        ],
    )
    def test_a_wrong_option_of_an_echo_source_is_named_with_the_field(
        self, tmp_path: Path, options: str, named: str
    ) -> None:
        echo = f'echo:?{options}"\nengine = "echo'
        error = refused(tmp_path, GOOD.replace("hf:tiny/tiny@main", echo))
        assert error.param == "models[0].source"
        assert "mine.toml:6: field models[0].source: tiny:1b: " in str(error)
        assert named in str(error)

    @pytest.mark.parametrize(
        ("source", "engine", "why"),
        [
            ("echo:", "transformers", "reads no echo: source; write hf: or path:"),
            ("hf:a/b", "echo", "the engine echo reads no hf: source; write echo:"),
            ("other:", "mine", "write hf: or path: or pypi: or mine:"),
            ("mine:?slots=none", "mine", "slots of 'mine:?slots=none' is 'none'"),
        ],
    )
    def test_a_source_that_its_engine_cannot_read_is_refused(
        self, tmp_path: Path, source: str, engine: str, why: str
    ) -> None:
        said = f'{source}"\nengine = "{engine}'
        error = refused(tmp_path, GOOD.replace("hf:tiny/tiny@main", said))
        assert error.param == "models[0].source"
        assert why in str(error)

    def test_an_engine_of_another_package_has_sources_of_its_own(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "mine.toml"
        said = 'mine:?slots=3"\nengine = "mine'
        path.write_text(GOOD.replace("hf:tiny/tiny@main", said))
        assert catalog.load(path).models["tiny:1b"].engine == "mine"

    def test_the_line_is_that_of_the_right_table(self, tmp_path: Path) -> None:
        second = MODEL.replace("tiny:1b", "tiny:2b").replace("head_dim", "head_dims")
        error = refused(tmp_path, MODEL + "\n" + second + PERSONA)
        assert "mine.toml:22: field models[1].head_dims" in str(error)

    @pytest.mark.parametrize(
        ("text", "field"),
        [
            (MODEL + MODEL + PERSONA, "models[1].id"),
            (MODEL + PERSONA + PERSONA, "personas[1].name"),
        ],
    )
    def test_a_name_given_twice_is_refused(
        self, tmp_path: Path, text: str, field: str
    ) -> None:
        error = refused(tmp_path, text)
        assert error.param == field
        assert "is there twice" in str(error)

    def test_text_that_is_not_toml_names_the_line(self, tmp_path: Path) -> None:
        assert "line 2" in str(refused(tmp_path, "[[models]]\nid = \n"))

    def test_bytes_that_are_not_utf8_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_bytes(b'id = "\xff"')
        with pytest.raises(CatalogError, match="UTF-8"):
            catalog.load(path)

    def test_a_file_that_is_not_there_says_what_to_set(self, tmp_path: Path) -> None:
        with pytest.raises(CatalogError, match="GENIE_CATALOG"):
            catalog.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("qwen3:14", "qwen3:14b"),
        ("smollm2", "smollm2:135m"),
        ("reviw", "review"),
        ("standart", "standard"),
    ],
)
def test_a_wrong_name_gets_near_ones_suggested(
    shipped: Catalog, name: str, near: str
) -> None:
    suggested = shipped.suggestions(name)
    assert near in suggested
    assert len(suggested) <= 3


def test_a_name_near_to_nothing_gets_no_suggestion(shipped: Catalog) -> None:
    assert shipped.suggestions("zzzzzz") == ()


def test_weights_that_only_gpus_compute_with_must_say_so(tmp_path: Path) -> None:
    quants = 'quants = [{ name = "nf4", dtype = "nf4"'
    said = GOOD.replace('quants = [{ name = "f32", dtype = "float32"', quants)
    error = refused(tmp_path, said)
    assert "nf4 runs on GPUs only" in str(error)
    path = tmp_path / "good.toml"
    path.write_text(said.replace(" }]", ', devices = ["cuda"] }]'), encoding="utf-8")
    (quant,) = catalog.load(path).models["tiny:1b"].quants
    assert quant.devices == ("cuda",)
