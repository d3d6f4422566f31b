"""Aligned text tables."""

from collections.abc import Mapping, Sequence

from divergences.results import TwoSampleResult

LEVEL = 0.05  # of the verdict


def aligned(rows: Sequence[Sequence[str]], left: frozenset[int] = frozenset({0})) -> list[str]:
    """Cells padded to the width of their columns: those in ``left`` to the left, others to the
    right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def comparison_table(tests: Mapping[str, TwoSampleResult]) -> str:
    """A row for each question and its two-sample test, with a verdict at the level 0.05."""
    rows = [("question", "n", "m", "statistic", "effect", "p-value", "verdict at α = .05")]
    for question, test in tests.items():
        verdict = "they differ" if test.pvalue <= LEVEL else "no difference found"
        effect = "" if test.effect_size is None else f"{test.effect_size:.2%}"
        statistic = f"{test.statistic:.4g}"
        rows.append(
            (question, str(test.n), str(test.m), statistic, effect, f"{test.pvalue:.3f}", verdict)
        )
    header, *lines = aligned(rows, frozenset({0, 6}))
    return "\n".join([header, "─" * max(map(len, [header, *lines])), *lines])
