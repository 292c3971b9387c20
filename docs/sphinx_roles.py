"""Turns the Sphinx roles of docstrings (``:class:`~flashvsr.models.VideoDiT` ``) into links of the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(~?)([\w.]+)`")


class SphinxRoles(griffe.Extension):
    """A role becomes a cross-reference, and code without a link where no page shows its target."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(lambda role: _link(obj, *role.groups()), obj.docstring.value)


def _link(obj: griffe.Object, short: str, name: str) -> str:
    shown = name.rsplit(".", 1)[-1] if short else name
    return f'<autoref identifier="{_full_name(obj, name)}" optional><code>{shown}</code></autoref>'


def _full_name(obj: griffe.Object, name: str) -> str:
    """Name with its module: a role may name what is near, a member of the same class or an import of the module."""
    if name.startswith("flashvsr."):
        return name
    head, _, rest = name.partition(".")
    try:
        found = obj.resolve(head)
    except griffe.NameResolutionError:
        return name
    return f"{found}.{rest}" if rest else found
