"""JSON that people read: what fits into a line has one."""

import json
from collections.abc import Iterator


def compact_json(
    value: object, *, width: int, leaf_width: int = 0, indent: int = 0, used: int = 0
) -> str:
    """Return JSON in which what fits into a line of `width` has one.

    An object of small parts has a line as well, of up to `leaf_width`: a difference between two
    versions then shows the query, the option or the threshold at fault. `used` is the width that a
    member's name takes on its line.
    """
    text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or indent + used + len(text) <= width:
        return text

    def inner(member: object, used: int = 0) -> str:
        return compact_json(
            member, width=width, leaf_width=leaf_width, indent=indent + 1, used=used
        )

    if isinstance(value, dict):
        nested = [each for each in value.values() if isinstance(each, dict | list)]
        small = leaf_width and all(len(json.dumps(each)) <= 60 for each in nested)
        if small or len(text) <= leaf_width:
            return text
        members = [
            f"{json.dumps(name)}: {inner(each, len(name) + 4)}" for name, each in value.items()
        ]
        opening, closing = "{}"
    else:
        members = [inner(each) for each in value]
        if len(members) == 1 and "\n" not in members[0]:
            return f"[{members[0]}]"
        opening, closing = "[]"
    lines = "\n".join(" " * (indent + 1) + line for line in _filled(members, width - indent - 1))
    return f"{opening}\n{lines}\n{' ' * indent}{closing}"


def _filled(members: list[str], width: int) -> Iterator[str]:
    """Yield lines of as many members as fit; a member of several lines stands alone."""
    line = ""
    for index, member in enumerate(members):
        text = member + ("," if index < len(members) - 1 else "")
        if line and "\n" not in line + text and len(line) + 1 + len(text) <= width:
            line += f" {text}"
            continue
        if line:
            yield line
        line = text
    yield line
