"""Text from outside made fit to be shown: nothing in a flag key or a path can steer a terminal or a spreadsheet."""

from __future__ import annotations

__all__ = ["cell", "visible"]

# https://owasp.org/www-community/attacks/CSV_Injection, the full-width forms among them.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def visible(text: str) -> str:
    r"""Return the text with non-printing characters (controls, escapes, direction marks) written as ``\x1b``.

    Lone surrogates, unassigned characters and spaces other than the common one are spelled out too, so that two
    different keys never look the same because of them.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def cell(text: str) -> str:
    """Return the text as a spreadsheet may be given it: visible, and never read as a formula (a leading ``'``)."""
    shown = visible(text)
    return f"'{shown}" if text.startswith(_FORMULA_STARTS) or shown.startswith(_FORMULA_STARTS) else shown
