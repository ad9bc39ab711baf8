"""The messages on the page of troubles are those of the packages."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
GAP = "…"
# Code between one pair of backticks, or two; a row may begin with what is no message.
ROW = re.compile(r"^\| (?:``(.+?)``|`(.+?)`) \| ", re.MULTILINE)
MESSAGES = [two or one for two, one in ROW.findall(PAGE)]


def texts(path):
    """Yield every text of a file, with a gap for each value that is put into it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def raised():
    files = [*(ROOT / "sb3_moe").rglob("*.py"), *(ROOT / "envs").rglob("*.py")]
    return "\n".join(text for path in files for text in texts(path))


def test_a_message_on_the_page_is_one_of_the_packages():
    code = "".join(path.read_text() for path in (ROOT / "sb3_moe").rglob("*.py"))
    texts = raised()
    assert len(MESSAGES) >= 8
    for message in MESSAGES:
        if re.fullmatch(r"\w+", message):
            assert f"class {message}(" in code, message
        else:
            assert message.strip(GAP) in texts, message
