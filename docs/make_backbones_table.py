"""Writes the table of docs/backbones.md from the specs; a test checks that it is up to date.

python docs/make_backbones_table.py
"""

from pathlib import Path

from any2point_hf.modeling.backbones.part_of_model import DUAL_MODELS
from any2point_hf.modeling.backbones.positions_in_blocks import BiasOnGrid, BiasOnLine, RotaryOnGrid, RotaryOnLine
from any2point_hf.modeling.backbones.spec import BackboneSpec
from any2point_hf.modeling.backbones.table import BACKBONES

PAGE = Path(__file__).with_name("backbones.md")
BEGIN, END = "<!-- table: docs/make_backbones_table.py -->\n", "<!-- end of table -->\n"
COLUMNS = ("`model_type`", "modality", "its own positions", "norm before block 0", "final norm", "bottleneck hooked on")
COLUMNS += ("tested with", "notes")
# Besides the tiny random models of the shared bank of checks.
TESTED = {
    "bert": "the bank; MiniLM, kwt1, vit_cifar10",
    "clip_text_model": "the bank; numbers of the released code",
    "dinov2": "the bank; numbers of the released code",
    "imagebind_audio": "the bank; numbers of the released code",
    "timm_wrapper": "tests of its own",
}
IN_BLOCKS = {
    RotaryOnLine: "rotary, on a line",
    RotaryOnGrid: "rotary, on the image's grid",
    BiasOnLine: "relative biases, on a line",
    BiasOnGrid: "relative biases, on the image's grid",
}
MODALITIES = {"1d": "line", "2d": "plane"}


def positions(spec: BackboneSpec) -> str:
    """How a family's positions are given to points."""
    kinds = []
    if spec.positions is not None:
        kinds.append(f"table, on a {'grid' if spec.grid else 'line'}")
    if spec.in_blocks is not None:
        kinds.append(IN_BLOCKS[type(spec.in_blocks)])
    return "; ".join(kinds) or "none"


def rows() -> list[str]:
    """One row a family."""
    towers = {f"{dual}_{tower}_model": dual for dual, towers in DUAL_MODELS.items() for tower in towers.values()}
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for name, spec in BACKBONES.items():
        notes = "; ".join(filter(None, (f"of a dual `{towers[name]}`" if name in towers else "", spec.note)))
        cells = (
            f"`{name}`",
            MODALITIES[spec.modality],
            positions(spec),
            f"`{spec.input_norm}`" if spec.input_norm else "-",
            f"`{spec.final_norm}`" + (" (RMS)" if spec.rms_norm else "") if spec.final_norm else "-",
            f"`{spec.feed_forward[1]}`",
            TESTED.get(name, "the bank"),
            notes,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def page() -> str:
    """The page with its table made anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n".join(rows()) + "\n" + END + after


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
