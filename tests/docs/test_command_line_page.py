import importlib.util
from pathlib import Path


def test_the_commands_of_the_page_are_up_to_date():
    path = Path(__file__).parents[2] / "docs" / "make_command_line_page.py"
    spec = importlib.util.spec_from_file_location("make_command_line_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = module.PAGE.read_text(encoding="utf-8")
    assert module.BEGIN in written
    assert written == module.page(), "run: python docs/make_command_line_page.py"
    assert "| `--validation-share SHARE` | hold this share" in written
