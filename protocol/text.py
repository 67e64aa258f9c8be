"""Pure functions: texts from outside in a form that terminals, logs and messages can show."""


def escaped(text: str) -> str:
    """Return the text without characters that a terminal acts on. A text without such characters is returned as it is.

    Control characters, line breaks, ANSI escapes, marks of the writing direction, lone surrogates and bytes that are
    not UTF-8 become `\\xNN`, `\\uNNNN` or `\\UNNNNNNNN`.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(ord(each)) for each in text)


def escaped_lines(text: str) -> str:
    """Return the text with each line as `escaped`. Only line feeds stay."""
    return "\n".join(escaped(line) for line in text.split("\n"))


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # a byte that is not UTF-8, as Python reads it from arguments and file names (PEP 383)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
