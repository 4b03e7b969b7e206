import pytest

from genie.contracts.model import ModelFile, Quant
from genie.fingerprint import fingerprint

QUANT = Quant(name="f32", dtype="float32", weight_bytes=1)
FILES = (
    ModelFile(name="a.safetensors", sha256="aa" * 32),
    ModelFile(name="b.json", sha256="bb" * 32),
)
PRINT = fingerprint(FILES, QUANT, chat_template="t", engine="transformers/5.23")


def test_the_order_of_files_does_not_matter() -> None:
    turned = fingerprint(
        FILES[::-1], QUANT, chat_template="t", engine="transformers/5.23"
    )
    assert turned == PRINT
    assert len(PRINT) == len("gf1-") + 32


@pytest.mark.parametrize(
    ("files", "quant", "template", "engine"),
    [
        (FILES[:1], QUANT, "t", "transformers/5.23"),
        (
            (ModelFile(name="a.safetensors", sha256="cc" * 32), FILES[1]),
            QUANT,
            "t",
            "transformers/5.23",
        ),
        (
            FILES,
            Quant(name="bf16", dtype="float32", weight_bytes=1),
            "t",
            "transformers/5.23",
        ),
        (
            FILES,
            Quant(name="f32", dtype="bfloat16", weight_bytes=1),
            "t",
            "transformers/5.23",
        ),
        (FILES, QUANT, "u", "transformers/5.23"),
        (FILES, QUANT, "t", "transformers/5.24"),
    ],
    ids=["a file less", "other bytes", "quant", "dtype", "template", "engine"],
)
def test_whatever_changes_answers_changes_the_identity(
    files: tuple[ModelFile, ...], quant: Quant, template: str, engine: str
) -> None:
    assert fingerprint(files, quant, chat_template=template, engine=engine) != PRINT


def test_memory_and_devices_are_no_part_of_the_identity() -> None:
    other = Quant(name="f32", dtype="float32", weight_bytes=9, devices=("cuda",))
    same = fingerprint(FILES, other, chat_template="t", engine="transformers/5.23")
    assert same == PRINT


def test_a_file_without_a_digest_has_no_identity() -> None:
    with pytest.raises(ValueError, match=r"model\.bin has no sha256 yet"):
        fingerprint(
            [ModelFile(name="model.bin")], QUANT, chat_template="", engine="e/1"
        )
