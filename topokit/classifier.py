"""The former place of `topokit.estimators.SparseMLPClassifier`; it can still be imported here."""

from topokit.estimators import SparseMLPClassifier

__all__ = ["SparseMLPClassifier"]
