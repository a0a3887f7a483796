"""Triton's interpreter, with less to do for each function that a kernel calls."""

__all__ = ["patch_once"]


def patch_once():
    """Let the interpreter replace the operations of Triton's language once for each function.

    By itself it looks for them, through the whole language, whenever a kernel is launched or calls
    a function: a third of its time. What it replaces them by is always the same.
    """
    from triton.runtime import interpreter

    original, seen = interpreter._patch_lang, set()

    def once(function):
        if function not in seen:
            seen.add(function)
            original(function)
        return interpreter._LangPatchScope()  # with nothing that is put back after the launch

    interpreter._patch_lang = once
