"""Figures of several rounds as a table: medians of each, and of their ratios within a round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple


class Figure(NamedTuple):
    """One measurement.

    Attributes:
        mails: that came through.
        seconds: that they took.
        cpu: seconds of CPU of the measured process.
        p50: seconds until a POST was answered; 0: there was none.
        p99: the same.
    """

    mails: int
    seconds: float
    cpu: float
    p50: float = 0.0
    p99: float = 0.0

    @property
    def rate(self) -> float:
        """Mails a second."""
        return self.mails / self.seconds

    @property
    def cost(self) -> float:
        """Seconds of CPU for a mail."""
        return max(self.cpu, 0.01) / self.mails  # the kernel counts in steps of 10 ms


class Share(NamedTuple):
    """A rate to be seen as a share of another; `wanted` is the least it should be."""

    name: str
    ceiling: str
    wanted: float | None


def table(rounds: Mapping[str, Sequence[Figure]], shares: Sequence[Share]) -> Iterator[str]:
    """The lines to print."""
    width = max(map(len, rounds))
    yield f"{'':{width}}  mails/s  CPU, us/mail   p50, ms   p99, ms"
    for name, figures in rounds.items():
        rate = median(figure.rate for figure in figures)
        cpu = median(figure.cost for figure in figures) * 1e6
        p50, p99 = (median(times) * 1e3 for times in zip(*((f.p50, f.p99) for f in figures), strict=True))
        answered = f"{p50:10.1f}{p99:10.1f}" if p50 else ""
        yield f"{name:{width}}  {rate:7,.0f}  {cpu:12,.0f}{answered}"
    yield ""
    for name, ceiling, wanted in shares:
        pairs = list(zip(rounds[name], rounds[ceiling], strict=True))
        ratios = [one.rate / other.rate for one, other in pairs]
        by_cpu = median(other.cost / one.cost for one, other in pairs)
        share = median(ratios)
        verdict = "" if wanted is None else f"; wanted {wanted}: {'good' if share >= wanted else 'MISSED'}"
        spread = f"{min(ratios):.2f} .. {max(ratios):.2f}, by CPU {by_cpu:.2f}"
        yield f"{name} / {ceiling} = {share:.2f} ({spread}){verdict}"
