"""Faults that once went unnoticed, tried in every run of the mutation tool.

Each is a pattern in a file and what stands there instead. A pattern that no longer matches exactly
once is an error: then the code has changed and the fault must be planted anew.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.mutants.mutations import Mutation

__all__ = ["PLANTED", "Planted", "locate"]


class Planted(NamedTuple):
    """One fault: the one match of a regular expression in files like `path` is replaced."""

    name: str
    path: str
    pattern: str
    after: str


PLANTED = [
    Planted(
        "bootstrap: head and tail probabilities exchanged",
        "topokit/measures/*kernels.py",
        r"rng\.random\(\) >= tail_share",
        "rng.random() < tail_share",
    ),
    Planted(
        "scan: the larger x_min on ties",
        "topokit/measures/*kernels.py",
        r"if distance < best:",
        "if distance <= best:",
    ),
    Planted(
        "verdict: no guard on decades",
        "topokit/measures/scalefree.py",
        r"if fit\.decades < DECADES:",
        "if False:",
    ),
    Planted(
        "null score: z with the wrong degrees of freedom",
        "topokit/measures/nulls.py",
        r"ddof=1",
        "ddof=0",
    ),
    Planted(
        "null score: p without its + 1",
        "topokit/measures/nulls.py",
        r"\(min\(above, below\) \+ 1\)",
        "min(above, below)",
    ),
    Planted(
        "turnover over the edges before",
        "topokit/measures/change.py",
        r"return update\.n_grown / update\.after\.n_edges if",
        "return update.n_grown / update.before.n_edges if",
    ),
    Planted(
        "learning-rate schedule one epoch late",
        "topokit/experiments/loop.py",
        r"lr_schedule\(epoch, plan\.epochs\)",
        "lr_schedule(epoch - 1, plan.epochs)",
    ),
    Planted(
        "learning-rate schedule one epoch early",
        "topokit/experiments/loop.py",
        r"lr_schedule\(epoch, plan\.epochs\)",
        "lr_schedule(epoch + 1, plan.epochs)",
    ),
    Planted(
        "momentum window one batch short",
        "topokit/nn/rule_data.py",
        r"(?<=self\.window )\+= (?=math\.ceil\(math\.log\()",
        "= ",
    ),
    Planted(
        "momentum window of one batch",
        "topokit/nn/rule_data.py",
        r"self\.window \+= math\.ceil\(.*\)\)",
        "pass",
    ),
    Planted(
        "sensitivity not reset by a rewiring",
        "topokit/rules/memory.py",
        r"lambda update, sums, values: np\.zeros\(update\.after\.n_edges\)",
        "lambda update, sums, values: update.carry(sums)",
    ),
    Planted(
        "even degrees: the larger ones not at random places",
        "topokit/generators/sampling.py",
        r"degrees\[rng\.permutation\(n\)\[: total % n\]\] \+= 1",
        "degrees[: total % n] += 1",
    ),
    Planted(
        "chung_lu: sides exchanged for the inputs",
        "topokit/generators/degrees.py",
        r'exponent if heavy in \("both", "fan_out"\) else None',
        'exponent if heavy in ("both", "fan_in") else None',
    ),
    Planted(
        "preferential attachment: order of the sides exchanged",
        "topokit/generators/degrees.py",
        r'\(last, first\) if heavy == "fan_out" else',
        '(last, first) if heavy == "fan_in" else',
    ),
    Planted(
        "shuffle: sides exchanged",
        "topokit/generators/sampling.py",
        r'if shuffle in \("fan_out", "both"\):',
        'if shuffle in ("fan_in", "both"):',
    ),
    Planted(
        "hubs: sides exchanged",
        "topokit/generators/random.py",
        r"(?=n, other = \(n_in, n_out\) if side ==)",
        'side = "fan_in" if side == "fan_out" else "fan_out"\n    ',
    ),
    Planted(
        "transposed convolution: the kernel's cells not reversed",
        "topokit/nn/conv.py",
        r"by_cell\.flip\(2\)\.flatten",
        "by_cell.flatten",
    ),
    Planted(
        "recurrent layer: the states of ended sequences forgotten",
        "topokit/nn/recurrent.py",
        r"torch\.cat\(\[n, s\[size:\]\]\)",
        "torch.cat([n, 0 * s[size:]])",
    ),
    Planted(
        "attention: appended keys masked like the first ones",
        "topokit/nn/attention.py",
        r"F\.pad\(mask, \(0, k\.shape\[1\] - mask\.shape\[-1\]\)\)",
        "F.pad(mask, (k.shape[1] - mask.shape[-1], 0))",
    ),
    Planted(
        "sparsify: torch's fast path for encoders left on",
        "topokit/nn/attention.py",
        r"part\.activation_relu_or_gelu = 0",
        "pass",
    ),
    Planted(
        "topology_of: a parametrization's mask believed unseen",
        "topokit/nn/extract.py",
        r"return both if not bool\(\(tensor\[~both\] != 0\)\.any\(\)\) else None",
        "return both",
    ),
    Planted(
        "growth: best edges between groups",
        "topokit/graph/layergraph.py",
        r"absent = _within_groups\(graph, start, stop\)",
        "absent = np.ones(block.size, bool)",
    ),
]


def locate(planted: Planted, root: Path) -> Mutation:
    """Return the fault as a mutation of the file as it is now.

    Raises
    ------
    LookupError
        If the pattern does not match exactly once.
    """
    hits = []
    for file in sorted(root.glob(planted.path)):
        text = file.read_text(encoding="utf-8")
        hits += [(file, text, hit) for hit in re.finditer(planted.pattern, text)]
    if len(hits) != 1:
        raise LookupError(
            f"expected one match of {planted.pattern!r} in {planted.path} for the fault "
            f"{planted.name!r}, got {len(hits)}; plant it anew in tests/mutants/planted.py"
        )
    file, text, hit = hits[0]
    start, end = (len(text[:at].encode()) for at in hit.span())
    above = re.findall(r"^(?:def|class) (\w+)", text[: hit.start()], re.MULTILINE)
    where = above[-1] if above else ""
    path = str(file.relative_to(root))
    return Mutation(path, start, end, hit.group(), planted.after, "planted", where)
