import importlib.util
from pathlib import Path


def test_the_table_of_backbones_is_up_to_date():
    path = Path(__file__).parents[2] / "docs" / "make_backbones_table.py"
    spec = importlib.util.spec_from_file_location("make_backbones_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = module.PAGE.read_text(encoding="utf-8")
    assert module.BEGIN in written
    assert written == module.page(), "run: python docs/make_backbones_table.py"
    assert all(f"| `{name}` |" in written for name in module.BACKBONES)
