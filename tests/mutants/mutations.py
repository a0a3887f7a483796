"""Where a module can be changed by one small fault, and how: found in its syntax tree.

A mutation replaces one stretch of the source by another. `mutations` lists all there are in a
file; `sample` draws from them so that every kind of fault occurs in every file.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Mutation", "line_of", "mutations", "sample", "text_of"]

COMPARISONS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"), ast.In: ("in", "not in"), ast.NotIn: (r"not\s+in", "in"),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "//"), ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}  # fmt: skip
PAIRS = (
    ("fan_in", "fan_out"), ("n_in", "n_out"), ("rows", "indices"), ("rows", "columns"),
    ("row", "column"), ("before", "after"), ("n_dropped", "n_grown"), ("n_drop", "n_grow"),
    ("dropped", "grown"), ("low", "high"), ("mean", "median"), ("floor", "ceil"),
    ("above", "below"), ("inputs", "outputs"), ("kept", "grown"), ("any", "all"),
)  # fmt: skip
EXTREMES = (
    ("min", "max"), ("argmin", "argmax"), ("minimum", "maximum"), ("nanmin", "nanmax"),
    ("amin", "amax"),
)  # fmt: skip
WORDS = {"left": "right", "right": "left", "less": "greater", "greater": "less"}

# What a test cannot or need not see, with the reason.
EXCLUDED_NAMES = {
    "__repr__": "text for people",
    "__all__": "names, tested by the tables",
    "_compiled": "falls back to compiling anew where no cache can be written",
    "TERMS": "terms summed before the remainder takes over: accuracy beyond double precision",
    "TABLE": "how much of a law is tabulated: speed",
    "GAP": "probabilities one by one or by a sum: speed",
    "_DIGIT": "bits of one sorting pass: speed",
    "EVALUATION_BATCH": "samples evaluated at once: memory",
    "WIDEST_CELLS": "samples evaluated at once: memory",
    "FORWARD_BATCH": "samples evaluated at once: memory",
    "prepare": "measures any graph, to compile what measures need",
    "_hash_bit": "a hash, of which no value is promised",
    "check": "when an iteration looks whether it has converged: speed",
    "most": "the most steps of an iteration: time",
}
EXCLUDED_BLOCKS = re.compile(r"^_?(\w*_)?(BLOCK|CELLS|BATCH|CHUNK|BYTES|TILE|PANEL)(_\w*)?$")
EXCLUDED_KEYWORDS = {"stacklevel", "xatol", "xtol", "rtol", "maxiter", "indent", "cache", "nogil"}


@dataclass(frozen=True)
class Mutation:
    """One replaced stretch of a file."""

    path: str
    start: int  # in bytes
    end: int
    before: str
    after: str
    kind: str
    where: str = ""  # the outermost function or class it is in

    def apply(self, source: bytes) -> bytes:
        """Return the file with the fault in it."""
        assert source[self.start : self.end].decode() == self.before
        return source[: self.start] + self.after.encode() + source[self.end :]


def line_of(source: bytes, position: int) -> int:
    """Line, from 1, of a position in bytes."""
    return source.count(b"\n", 0, position) + 1


def text_of(source: bytes, position: int) -> str:
    """The line, stripped, at a position in bytes."""
    begin = source.rfind(b"\n", 0, position) + 1
    return source[begin : source.find(b"\n", position)].decode().strip()


def mutations(path: str, source: bytes, only: str | None = None) -> list[Mutation]:
    """List all mutations of a file, in order; `only` is a pattern of the functions looked at."""
    tree = ast.parse(source)
    found = list(_Finder(path, source, only).of_body(tree))
    unique = {(m.start, m.end, m.after): m for m in found if m.before != m.after}
    return sorted(unique.values(), key=lambda m: (m.start, m.end, m.after))


def sample(found: list[Mutation], source: bytes, count: int, seed: str) -> list[Mutation]:
    """Draw mutations of a file without replacement, in turn from each kind.

    Each has a place in the order of its kind that depends on the seed, its line and the fault
    alone, so that a change of the file elsewhere leaves the sample nearly as it was.
    """
    ranks: dict[tuple[str, str], Mutation] = {}
    for mutation in found:
        line = text_of(source, mutation.start)
        text = f"{seed}|{mutation.where}|{line}|{mutation.before}|{mutation.after}"
        number = 0
        while (mutation.kind, rank := _digest(f"{text}|{number}")) in ranks:
            number += 1
        ranks[mutation.kind, rank] = mutation
    kinds: dict[str, list[Mutation]] = {}
    for (kind, _), mutation in sorted(ranks.items(), reverse=True):
        kinds.setdefault(kind, []).append(mutation)
    order = sorted(kinds, key=lambda kind: _digest(f"{seed}|{kind}"))
    chosen: list[Mutation] = []
    while len(chosen) < count and any(kinds.values()):
        for kind in order:
            if kinds[kind] and len(chosen) < count:
                mutation = kinds[kind].pop()
                chosen += [mutation] if _compiles(mutation, source) else []
    return sorted(chosen, key=lambda m: (m.start, m.end, m.after))


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def _compiles(mutation: Mutation, source: bytes) -> bool:
    try:
        ast.parse(mutation.apply(source))
    except SyntaxError:
        return False
    return True


class _Finder:
    """Walks a syntax tree and says what could be changed in it."""

    def __init__(self, path: str, source: bytes, only: str | None) -> None:
        self.path, self.source = path, source
        self.only = re.compile(only) if only else None
        self.where = ""
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return start, end

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode()

    def make(self, start: int, end: int, after: str, kind: str) -> Mutation:
        before = self.source[start:end].decode()
        return Mutation(self.path, start, end, before, after, kind, self.where)

    def replace(self, node: ast.AST, after: str, kind: str) -> Mutation:
        return self.make(*self.span(node), after, kind)

    def between(self, left: ast.AST, right: ast.AST, pattern: str) -> tuple[int, int] | None:
        """Where an operator stands between two operands, if it can be told."""
        low, high = self.span(left)[1], self.span(right)[0]
        gap = re.sub(rb"#[^\n]*", lambda m: b" " * len(m.group()), self.source[low:high])
        hit = re.search(pattern.encode(), gap)
        return None if hit is None else (low + hit.start(), low + hit.end())

    def of_body(self, tree: ast.Module) -> Iterator[Mutation]:
        for node in tree.body:
            self.where = getattr(node, "name", "")
            if self.only is None or isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield from self.of(node, within=False)

    def of(self, node: ast.AST, within: bool) -> Iterator[Mutation]:
        """Mutations of a node and of what it holds; `within` a function that is looked at."""
        if self.skipped(node):
            return
        if isinstance(node, ast.FunctionDef):
            within = within or self.only is None or bool(self.only.fullmatch(node.name))
        if self.only is None or within:
            yield from self.here(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not self.limits(node, child):
                    yield from self.of(child, within)

    def limits(self, node: ast.AST, child: ast.AST) -> bool:
        """Whether a child only limits the rounds of an iteration that ends by itself."""
        if not isinstance(node, ast.For) or child is not node.iter:
            return False
        counts = isinstance(node.target, ast.Name) and node.target.id == "_"
        return counts and any(isinstance(part, ast.Break) for part in ast.walk(node))

    def skipped(self, node: ast.AST) -> bool:
        """Whether a node holds nothing that a test ought to see."""
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return True
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return True  # a docstring
        if isinstance(node, ast.Call) and "get_close_matches" in ast.dump(node.func):
            return True  # how many names a message suggests
        if isinstance(node, ast.Call) and "default_rng" in ast.dump(node.func):
            return True  # the seed of a fixed random stream: any does
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return True
        if isinstance(node, ast.keyword) and node.arg in EXCLUDED_KEYWORDS:
            return True
        names = [getattr(node, "name", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [t.id for t in targets if isinstance(t, ast.Name)]
            if any(word in self.text(node) for word in ("Literal[", "TypeVar(")):
                return True
        return any(n in EXCLUDED_NAMES or EXCLUDED_BLOCKS.match(n) for n in names if n)

    def here(self, node: ast.AST) -> Iterator[Mutation]:
        """Mutations of one node itself."""
        match node:
            case ast.Compare():
                for left, op, right in zip(
                    [node.left, *node.comparators], node.ops, node.comparators, strict=False
                ):
                    old, new = COMPARISONS[type(op)]
                    word = old[0].isalpha()
                    at = self.between(left, right, rf"\b{old}\b" if word else re.escape(old))
                    if at:
                        yield self.make(*at, new, "comparison")
            case ast.BinOp() if type(node.op) in ARITHMETIC and not self.is_text(node):
                old, new = ARITHMETIC[type(node.op)]
                at = self.between(node.left, node.right, re.escape(old))
                if at:
                    yield self.make(*at, new, "arithmetic")
            case ast.BoolOp():
                old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                at = self.between(node.values[0], node.values[1], rf"\b{old}\b")
                if at and len(node.values) == 2:
                    whole = self.span(node)
                    text = self.source[whole[0] : at[0]].decode() + new
                    text += self.source[at[1] : whole[1]].decode()
                    yield self.make(*whole, f"({text})", "boolean")
            case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub()):
                if not isinstance(node.operand, ast.Constant):
                    yield self.replace(node, f"({self.text(node.operand)})", "negation")
            case ast.Constant(value=bool()):
                yield self.replace(node, str(not node.value), "constant")
            case ast.Constant(value=int()):
                yield self.replace(node, str(node.value + 1), "constant")
            case ast.Constant(value=float()):
                yield self.replace(node, repr(2 * node.value or 1.0), "constant")
            case ast.Constant(value=str()) if node.value in WORDS:
                yield self.replace(node, f'"{WORDS[node.value]}"', "extreme or side")
            case ast.Attribute() | ast.Name():
                yield from self.names(node)
            case ast.IfExp():
                body, test, other = (self.text(n) for n in (node.body, node.test, node.orelse))
                yield self.replace(node, f"(({other}) if {test} else ({body}))", "branch")
            case ast.If() | ast.While():
                if isinstance(node, ast.If):
                    yield self.replace(node.test, f"not ({self.text(node.test)})", "branch")
            case ast.AugAssign():
                yield self.replace(node, "pass", "statement")
                swap = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
                if type(node.op) in swap:
                    old, new = ARITHMETIC[type(node.op)]
                    at = self.between(node.target, node.value, re.escape(old + "="))
                    if at:
                        yield self.make(*at, new + "=", "arithmetic")
            case ast.Assign(targets=[ast.Subscript() | ast.Attribute()]):
                yield self.replace(node, "pass", "statement")
            case ast.Expr(value=ast.Call()) | ast.Continue() | ast.Break():
                yield self.replace(node, "pass", "statement")
            case ast.Slice():
                for bound in (node.lower, node.upper):
                    if bound is not None:
                        yield self.replace(bound, f"{self.operand(bound)} + 1", "range")
            case ast.Call(func=ast.Name(id="range")) if node.args:
                stop = node.args[0] if len(node.args) == 1 else node.args[1]
                yield self.replace(stop, f"{self.operand(stop)} - 1", "range")

    def names(self, node: ast.Attribute | ast.Name) -> Iterator[Mutation]:
        """Names exchanged for those of the other side, or for the other extreme."""
        if isinstance(node.ctx, ast.Store):
            return
        name = node.attr if isinstance(node, ast.Attribute) else node.id
        end = self.span(node)[1]
        start = end - len(name.encode())
        known = self.source.decode()
        for pairs, kind in ((PAIRS, "swap"), (EXTREMES, "extreme or side")):
            for pair in pairs:
                if name in pair:
                    other = pair[1 - pair.index(name)]
                    plain = isinstance(node, ast.Name) and kind == "swap"
                    if not plain or other in ("any", "all") or re.search(rf"\b{other}\b", known):
                        yield self.make(start, end, other, kind)

    def operand(self, node: ast.AST) -> str:
        simple = isinstance(node, ast.Name | ast.Constant | ast.Attribute | ast.Call)
        return self.text(node) if simple else f"({self.text(node)})"

    def is_text(self, node: ast.BinOp) -> bool:
        """Whether an operator joins texts or types instead of numbers."""
        for side in (node.left, node.right):
            if isinstance(side, ast.JoinedStr):
                return True
            if isinstance(side, ast.Constant) and (
                side.value is None or isinstance(side.value, str)
            ):
                return True
            if isinstance(side, ast.BinOp) and self.is_text(side):
                return True
        return False
