"""Tasks as a command line says them: ids, and ids with arguments."""

from __future__ import annotations

import ast
from typing import Any


def typed_task(word: str) -> tuple[str, dict[str, Any]]:
    """Read an id, or an id with arguments, as in ``CartPole-v1(max_episode_steps=50)``.

    That is how worlds name tasks that differ in their arguments alone. They write texts without
    quotes, so a value that is no literal is a text.

    :param word: other words with brackets, such as ``reach-v3(V2)``, are an id as they are
    :return: the id, and its arguments
    """
    env_id, bracket, rest = word.partition("(")
    call = _call_of(source := f"task({rest}") if bracket else None
    if call is None or call.args or any(each.arg is None for each in call.keywords):
        return word, {}
    return env_id, {str(each.arg): _value(source, each.value) for each in call.keywords}


def _call_of(source: str) -> ast.Call | None:
    try:
        found = ast.parse(source, mode="eval").body
    except SyntaxError:
        return None
    return found if isinstance(found, ast.Call) and isinstance(found.func, ast.Name) else None


def _value(source: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.get_source_segment(source, node)
