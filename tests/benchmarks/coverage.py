"""How often the statistics are right, as shares of made-up measurements: python -m tests.benchmarks.coverage [seconds].

`seconds`: length of each made-up stream. A window of 300 s fits 120 times into the usual one, and a share of so many
is right to ±4 points; one from windows of 30 s to ±1.5. What is nominal is 95 %, or 5 %.
"""

from __future__ import annotations

import random
import sys
from bisect import bisect_left
from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING

from scipy.stats import binom

from autotune.benchmark.phases import Phases, Seen
from autotune.goal import Bound, Precise, decide
from autotune.records import Outcome, RequestRecord
from autotune.stats import (
    Interval,
    Looks,
    QuantileInterval,
    batch_means,
    decide_series,
    decide_share,
    effective_size,
    mean_interval,
    proportion_interval,
    quantile,
    quantile_interval,
    steady_from,
    trend,
)
from tests.stats.streams import BIN_S, HARD_LOADS, LOADS, Stream, autoregressive, in_flight, stream, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

USUAL = 0.95
WINDOWS_S = (30, 60, 120, 300)
PHIS = (0.0, 0.5, 0.8, 0.9)
LOOKS = Looks.at((80, 160, 240, 320, 400), 0.05)
KINDS = ("holds", "violated", "open")
ALLOWED = 0.05


def share(truths: Iterable[bool]) -> float:
    """How many of them are true."""
    return fmean(map(float, truths))


def holds(interval: Interval | QuantileInterval, truth: float) -> bool:
    """Whether the truth is inside."""
    return interval.low <= truth <= interval.high


def means(series: Mapping[str, tuple[Sequence[float], float]]) -> None:
    """Output TPS: windows of a long series, against the mean of all of it."""
    print("\ncoverage of the mean by batch means (half-width, batches); beside it, that of bins taken as independent")
    print(f"{'':16}" + "".join(f"{f'{seconds} s':>30}" for seconds in WINDOWS_S))
    for name, (rates, truth) in series.items():
        row = ""
        for seconds in WINDOWS_S:
            parts = list(windows(rates, seconds))
            found = [batch_means(part, USUAL) for part in parts]
            plain = share(holds(mean_interval(part, USUAL), truth) for part in parts)
            half = fmean((one.high - one.low) / 2 for one in found) / (abs(truth) or 1)
            count = fmean(one.n for one in found)
            row += f"{share(holds(one, truth) for one in found):9.1%} ({half:5.1%}, {count:2.0f}) {plain:6.1%}   "
        print(f"{name:16}{row}")


def stopped(series: Mapping[str, tuple[Sequence[float], float]]) -> None:
    """A window that ends at the first planned look at which the interval is narrow enough."""
    looks = (30, 60, 120, 240)
    print(f"\ncoverage when the window ends at the first of {looks} s with a small enough half-width; its length")
    narrow = (0.02, 0.05, 0.1)
    print(f"{'':16}" + "".join(f"{f'±{width:.0%}':>18}" for width in narrow))
    for name, (rates, truth) in series.items():
        row = ""
        for width in narrow:
            ends = [_stop(part, looks, width) for part in windows(rates, looks[-1])]
            row += f"{share(holds(one, truth) for one, _ in ends):10.1%} {fmean(at for _, at in ends):5.0f} s"
        print(f"{name:16}{row}")


def _stop(rates: Sequence[float], looks: Sequence[int], width: float) -> tuple[Interval, int]:
    for look in looks:
        found = batch_means(rates[: round(look / BIN_S)], USUAL)
        if found.high - found.low <= 2 * width * found.mean:
            break
    return found, look


def proportions() -> None:
    """Exactly, from the binomial distribution."""
    sizes = (20, 72, 200, 1000)
    print("\ncoverage of a proportion (exact), by its true value and the number of requests")
    print(f"{'':16}" + "".join(f"{n:9}" for n in sizes))
    for truth in (0.01, 0.05, 0.2, 0.5, 0.99):
        row = ""
        for n in sizes:
            inside = [k for k in range(n + 1) if holds(proportion_interval(k, n, USUAL), truth)]
            row += f"{sum(float(binom.pmf(k, n, truth)) for k in inside):9.1%}"
        print(f"{truth:<16}{row}")


def quantiles(times: int = 2000) -> None:
    """Of log-normal values that do not depend on each other."""
    sizes = (72, 100, 368, 1000)
    print("\ncoverage of a quantile, independent log-normal values, by their number")
    print(f"{'':16}" + "".join(f"{n:9}" for n in sizes))
    chance = random.Random(1)
    for q in (0.5, 0.9, 0.95, 0.99):
        row = ""
        for n in sizes:
            found = [
                # the q quantile of the uniform distribution is q, and no distribution makes a difference
                quantile_interval([chance.random() for _ in range(n)], q, USUAL)
                for _ in range(times if n < 1000 else times // 4)
            ]
            known = [one for one in found if one]
            row += f"{share(holds(one, q) for one in known):9.1%}" if known else f"{'none':>9}"
        print(f"{f'p{100 * q:g}':16}{row}")


def decisions(times: int = 2000) -> None:
    """Requests that violate a limit, each by itself."""
    sizes, head = [round(400 * part) for part in LOOKS.fractions], "".join(f"{kind:>9}" for kind in KINDS)
    print(f"\na limit on p95 decided at {sizes} requests with {LOOKS.alpha:g} for all looks: wrong at most 2.5 %;")
    print("beside it the same looks, each with all of it")
    print(f"{'true share':16}{head}{'requests':>9}    {head}")
    chance = random.Random(2)
    for truth in (0.01, 0.02, 0.03, 0.04, 0.05, 0.0501, 0.06, 0.07, 0.1, 0.2):
        row = ""
        nights = [[chance.random() < truth for _ in range(400)] for _ in range(times)]
        for levels in (LOOKS.levels, (LOOKS.alpha,) * len(LOOKS.levels)):
            ends = [_decided(night, levels) for night in nights]
            kinds = Counter(kind for kind, _ in ends)
            row += "".join(f"{kinds[kind] / times:9.1%}" for kind in KINDS)
            row += f"{fmean(n for _, n in ends):9.0f}    " if levels == LOOKS.levels else ""
        print(f"{truth:<16g}{row}")


def young(times: int = 400) -> None:
    """The same with who is still on their way: a limit that is long beside the window must be no easier to hold."""
    looks = Phases(10, 10, 20, 120, 10).looks
    print("\na limit on p95 decided in windows of 20 to 120 s, 5 requests/s whose waits are independent: wrong at most")
    print("2.5 %, with requests on their way at each look")
    print(f"{'true share':16}" + "".join(f"{f'{kind}, limit {most:g} s':>24}" for most in (0.2, 10) for kind in KINDS))
    for truth in (0.02, 0.04, 0.05, 0.06, 0.1):
        row = ""
        for most in (0.2, 10.0):
            kinds = Counter(_looked(random.Random(night), truth, most, looks) for night in range(times))
            row += "".join(f"{kinds[kind] / times:24.1%}" for kind in KINDS)
        print(f"{truth:<16g}{row}")


def _looked(chance: random.Random, truth: float, most: float, looks: tuple[float, ...]) -> str:
    """What the window's last look says of waits of which `truth` are longer than `most`: up to twice as long."""
    goal = Precise((Bound("ttft_s", "p95", most),), None, looks)
    asked = [number / 5 for number in range(int(5 * looks[-1]))]
    pairs = [(at, most * (chance.random() + (chance.random() < truth))) for at in asked]
    decision = "open"
    for number, at in enumerate(looks, 1):
        ended = [
            RequestRecord(0, begun, Outcome.OK, begun, first_content_at=begun + wait, finished_at=begun + wait)
            for begun, wait in pairs
            if begun + wait < at
        ]
        waiting = [(begun, None) for begun, wait in pairs if begun < at <= begun + wait]
        seen = Seen(0.0, at, number, open_loop=False, steady=True, records=ended, waiting=waiting, samples=())
        (decision,) = goal.look(seen).limits.values()
        if decision != "open":
            break
    return decision


def _decided(violations: Sequence[bool], levels: Sequence[float]) -> tuple[str, int]:
    for part, level in zip(LOOKS.fractions, levels, strict=True):
        n = round(len(violations) * part)
        kind = decide_share(sum(violations[:n]), n, ALLOWED, level)
        if kind != "open":
            break
    return kind, n


def waits(streams: Mapping[str, Stream], seconds: int = 300) -> None:
    """TTFTs as they come, in a queue or not; the limit is where exactly 5 % of all lie above it."""
    print(f"\nTTFT, windows of {seconds} s, a limit at the true p95: wrong decisions (2.5 % at most), coverage of p95")
    print("where it is known, by requests taken as independent, and by what they are worth in their order; coverage of")
    print("the mean by batch means, and by requests taken as independent")
    head = "".join(f"{word:>9}" for word in ("violated", "holds", "p95", "known"))
    print(f"{'':16}{'requests':>9}{head}{'worth':>10}{head}{'mean':>10}{'plain':>9}")
    for name, one in streams.items():
        times, all_of_them = [at for at, _ in one.ttfts], [ttft for _, ttft in one.ttfts]
        p95, centre = quantile(all_of_them, 0.95), fmean(all_of_them)
        starts = range(0, int(times[-1]) - seconds + 1, seconds)
        cuts = [all_of_them[bisect_left(times, at) : bisect_left(times, at + seconds)] for at in starts]
        parts = [part for part in cuts if len(part) >= 10]
        worth = [effective_size(part, USUAL) for part in parts]
        row = f"{fmean(map(len, parts)):9.0f}{_judged(parts, [None] * len(parts), p95)}"
        row += f"{fmean(w / len(part) for w, part in zip(worth, parts, strict=True)):10.2f}{_judged(parts, worth, p95)}"
        row += f"{share(holds(batch_means(part, USUAL), centre) for part in parts):10.1%}"
        row += f"{share(holds(mean_interval(part, USUAL), centre) for part in parts):9.1%}"
        print(f"{name:16}{row}")


def _judged(parts: Sequence[Sequence[float]], worth: Sequence[float | None], p95: float) -> str:
    pairs = list(zip(parts, worth, strict=True))
    late = [[wait > p95 for wait in part] for part in parts]
    if worth[0] is None:
        kinds = Counter(decide_share(sum(one), len(one), ALLOWED, 0.05) for one in late)
    else:
        kinds = Counter(decide_series(one, part, ALLOWED, 0.05) for one, part in zip(late, parts, strict=True))
    found = [one for part, w in pairs if (one := quantile_interval(part, 0.95, USUAL, worth=w))]
    inside = f"{share(holds(one, p95) for one in found):9.1%}" if found else f"{'–':>9}"
    shares = (kinds["violated"] / len(parts), kinds["holds"] / len(parts))
    return "".join(f"{part:9.1%}" for part in shares) + inside + f"{len(found) / len(parts):9.0%}"


def limits(streams: Mapping[str, Stream], lengths: Sequence[int] = (60, 300)) -> None:
    """The rule of `goal`: as the waits come, and as if independent where the answer is not close."""
    print(
        "\na window's decision of a limit that is so many times the truth (p95, mean of TTFT): violated + holds, at 5 %"
    )
    factors = (0.6, 0.8, 1.0, 1.25, 1.7)
    print(f"{'':24}" + "".join(f"{f'{factor:g} p95':>15}" for factor in factors) + f"{'1 mean':>15}{'1.5 mean':>15}")
    for name, one in streams.items():
        times, all_of_them = [at for at, _ in one.ttfts], [ttft for _, ttft in one.ttfts]
        p95, centre = quantile(all_of_them, 0.95), fmean(all_of_them)
        bounds = [Bound("ttft_s", "p95", factor * p95) for factor in factors]
        bounds += [Bound("ttft_s", "mean", factor * centre) for factor in (1.0, 1.5)]
        for seconds in lengths:
            starts = range(0, int(times[-1]) - seconds + 1, seconds)
            cuts = [all_of_them[bisect_left(times, at) : bisect_left(times, at + seconds)] for at in starts]
            row = ""
            for bound in bounds:
                kinds = Counter(decide(bound, part, 0.05) for part in cuts if len(part) >= 10)
                found = " + ".join(f"{kinds[kind] / kinds.total():.1%}" for kind in ("violated", "holds"))
                row += f"{found:>15}"
            print(f"{name:16}{seconds:6} s{row}")


def trends(times: int = 400) -> None:
    """Series with neighbours alike by phi, flat and rising by so many standard deviations from start to end."""
    sizes = (30, 60, 120, 300, 1000)
    print("\ntrend: how often one is seen, by likeness of neighbours, rise in standard deviations, number of values")
    print(f"{'':26}" + "".join(f"{n:9}" for n in sizes))
    for phi in PHIS:
        for rise in (0.0, 1.0, 2.0, 4.0):
            row = "".join(f"{_seen(phi, n, rise, times):9.1%}" for n in sizes)
            print(f"{f'phi {phi:g}, rise {rise:g}':26}{row}")
    for busy in (0.5, 0.7, 1.05, 1.2, 1.5):
        row = "".join(f"{_queued(busy, n, times):9.1%}" for n in sizes)
        print(f"{f'queue, asked {busy:.0%}':26}{row}")


def _seen(phi: float, n: int, rise: float, times: int) -> float:
    chance, seconds = random.Random(3), range(n)
    flat = (autoregressive(phi, n, chance) for _ in range(times))
    found = [trend(seconds, [value + rise * at / n for at, value in enumerate(one)], USUAL) for one in flat]
    return share(one.rises or (one.falls and not rise) for one in found)


def _queued(busy: float, n: int, times: int) -> float:
    chance = random.Random(6)
    found = [trend(range(n), in_flight(busy, n, chance), USUAL) for _ in range(times if n < 1000 else times // 4)]
    return share(one.rises or (one.falls and busy < 1) for one in found)


def steady(times: int = 400) -> None:
    """Series that begin away from where they settle, by so many standard deviations; a third of it is left after 30."""
    print("\nMSER-5, 600 values, the first of them off by standard deviations: no steady part seen, values cut")
    offs = (0.0, 3.0, 10.0)
    print(f"{'':16}" + "".join(f"{f'off by {off:g}':>20}" for off in offs))
    for phi in PHIS:
        row = ""
        for off in offs:
            chance = random.Random(4)
            flat = (autoregressive(phi, 600, chance) for _ in range(times))
            found = [steady_from([v + off * 2.718 ** (-at / 30) for at, v in enumerate(one)]) for one in flat]
            cut = [start for start in found if start is not None]
            row += f"{share(start is None for start in found):12.1%} {fmean(cut):7.0f}"
        print(f"{f'phi {phi:g}':16}{row}")


def main(seconds: float) -> None:
    """Print all tables."""
    streams = {name: stream(load, seconds, 1) for name, load in (LOADS | HARD_LOADS).items()}
    bins = round(seconds / BIN_S)
    pure: dict[str, tuple[Sequence[float], float]] = {
        f"phi {phi:g}": (autoregressive(phi, bins, random.Random(5)), 0.0) for phi in PHIS
    }
    made = {name: (one.rates, fmean(one.rates)) for name, one in streams.items()}
    means(pure | made)
    stopped(made)
    sections: tuple[Callable[[], None], ...] = (
        proportions,
        quantiles,
        decisions,
        young,
        lambda: waits(streams),
        lambda: limits({name: streams[name] for name in LOADS}),
        trends,
        steady,
    )
    for section in sections:
        section()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 36000.0)
