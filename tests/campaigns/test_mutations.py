"""The short form of the campaign of mutated files."""

import pytest

from tests.campaigns.mutations import MEGABYTES, SECONDS, attacked, beginnings, mutated


@pytest.mark.slow
def test_mutated_files_are_read_or_refused_in_one_sentence():
    results = attacked(8, seed=1)
    assert len(results) == len(beginnings()) == 32
    for reader, rows in results.items():
        assert len(rows) == 8
        for row in rows:
            assert row["outcome"] in ("read", "refused"), (reader, row)
            assert row["s"] < SECONDS
            assert row["mb"] < MEGABYTES
    assert any(row["outcome"] == "refused" for rows in results.values() for row in rows)


def test_mutations_are_repeatable_and_change_files(rng):
    import numpy as np

    for _, files in beginnings().values():
        changed = [mutated(files[0], np.random.default_rng(5), files[-1]) for _ in range(2)]
        assert changed[0] == changed[1]
        assert any(
            mutated(files[0], np.random.default_rng(k), files[-1]) != files[0] for k in range(5)
        )
