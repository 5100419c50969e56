"""`qwen-vl` has the published size, and is built without memory."""

from configs.qwen_vl import MODEL
from qwenvl_jax.config import PrecisionConfig
from qwenvl_jax.models.parameters import build


def test_published_size_and_its_parts() -> None:
    """9,656,935,168 parameters, split as those of the published checkpoint; shapes alone are made."""
    architecture = build(MODEL, PrecisionConfig())
    sizes: dict[str, int] = {}
    for path, shape in architecture.shapes.items():
        part = path.split("/")[0]
        sizes[part] = sizes.get(part, 0) + shape.size
    attention_pool, ln_post, projection = 76_054_528, 8_192, 16_777_216
    assert architecture.size == 9_656_935_168
    assert sizes == {
        "vision": 1_842_770_688,
        "adapter": attention_pool + ln_post + projection,
        "language": 7_721_324_544,
    }
    blocks = sum(s.size for p, s in architecture.shapes.items() if p.startswith("language/blocks/"))
    assert blocks == 32 * 202_395_648
    assert sum(s.size for p, s in architecture.shapes.items() if p.startswith("vision/blocks/")) == 48 * 38_361_728
