"""What `trainer.push_to_hub()` uploads beside the weights: our model card instead of the Trainer's own.

Unusual here: the Trainer writes its card just before it uploads the folder and calls nothing of ours in between, so its
method is replaced on the one trainer.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer

from ..modeling.files import write_whole
from ..modeling.publishing.model_card import model_card, renamed, tagged
from ..modeling.publishing.push import CARD, CONFIG, is_generated
from ..modeling.publishing.remote_code import AUTO_MAP, CODE, MODULE, OF_MODEL, OF_PROCESSOR
from ..processing_any2point import PROCESSOR_FILE


def keep_own_card(trainer: Trainer) -> None:
    """Has a trainer write our card, and what transformers loads the adapter by, whenever it would write its own card.

    Its model pushes its processor from now on.

    Args:
        trainer: of an Any2Point model.
    """
    model: Any = trainer.model
    model.processor = trainer.processing_class
    own_method: Any = functools.partial(_write_card, trainer)
    trainer.create_model_card = own_method  # type: ignore[method-assign]


def _write_card(trainer: Trainer, model_name: str | None = None, tags: str | Sequence[str] = (), **_: Any) -> None:
    """Writes README.md, unless somebody has, and `remote_code` into the folder that is about to be uploaded."""
    if not trainer.is_world_process_zero():
        return
    folder, model = Path(str(trainer.args.output_dir)), trainer.accelerator.unwrap_model(trainer.model)
    name = trainer.hub_model_id or model_name or folder.resolve().name
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else None
    text = str(model_card(model, name)) if text is None or is_generated(text) else renamed(text, name)
    wanted = [tags] if isinstance(tags, str) else tags
    write_whole(card, tagged(text, wanted) if wanted else text)
    for file, classes in ((CONFIG, OF_MODEL), (PROCESSOR_FILE, OF_PROCESSOR)):
        if (folder / file).is_file():
            values = json.loads((folder / file).read_text(encoding="utf-8")) | {AUTO_MAP: classes}
            write_whole(folder / file, json.dumps(values, indent=2, sort_keys=True) + "\n")
    write_whole(folder / MODULE, CODE.decode())
