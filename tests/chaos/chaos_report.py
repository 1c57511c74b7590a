"""The page that a chaos run prints."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from chaos_check import Verdict
from chaos_faults import Faults, Recovery

SHOWN = 12


@dataclass
class Page:
    """What is known of a run."""

    seed: int
    nodes: int
    rate: int
    session_seconds: float
    seconds: float
    load_seconds: float
    faults: Faults
    verdict: Verdict | None
    how_cut_off: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def all_problems(self) -> list[str]:
        found = [*self.problems, *self.faults.problems]
        return found + (
            self.verdict.report.problems if self.verdict is not None else ["nothing was compared"]
        )

    @property
    def text(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        done, faults = self.faults.done, self.faults
        yield f"Chaos on Apache Kafka: seed {self.seed}, {self.nodes} broker(s), {self.seconds:.0f} s in all"
        yield ""
        yield f"  load                 {self.rate} calls/s for {self.load_seconds:.0f} s, 3 partitions"
        yield f"  workers              {faults.plan.workers} at first, session timeout {self.session_seconds:g} s"
        yield f"  kill -9 of a worker  {done['kill']}"
        slowest = _most(faults.leave_seconds)
        yield f"  joins, leaves        {done['join']}, {done['leave']} (SIGTERM; the slowest took {slowest})"
        yield f"  zombies              {done['zombie']} (SIGSTOP for {faults.plan.zombie_seconds:g} s)"
        yield f"  broker killed        {done['broker kill']} (back after {faults.plan.broker_seconds:g} s)"
        if done["bounce"]:
            yield f"  rolling bounces      {done['bounce']}"
        if done["cut"]:
            yield f"  broker cut off       {done['cut']} (for {faults.plan.cut_seconds:g} s, {self.how_cut_off})"
        for ended in faults.crew.ended:
            yield f"  ended by itself      {ended[:150]}"
        yield ""
        yield "  from the fault to       seconds: p50, max (how many)"
        for name in ("kill", "leave", "zombie", "broker kill", "bounce", "cut"):
            yield from _recovery(name, [each for each in faults.recoveries if each.what == name])
        overlapped = sum(each.again is None for each in faults.recoveries if each.what == "kill")
        yield f"    {overlapped} kills were followed by the next fault before that, on purpose"
        if self.verdict is not None:
            yield from self._of_verdict(self.verdict)
        problems = self.all_problems
        yield ""
        if problems:
            yield f"VERDICT: {len(problems)} differences"
            yield from (f"  - {problem[:700]}" for problem in problems[:SHOWN])
        else:
            yield "VERDICT: nothing lost, nothing double, nothing different"

    def _of_verdict(self, verdict: Verdict) -> Iterator[str]:
        compared = verdict.report.compared
        yield ""
        yield "  compared with the oracle"
        for name in sorted(compared):
            yield f"    {compared[name]:>9,}  {name}"
        yield f"    {verdict.spend_nanodollars:>9,}  nano-dollars in the final panes of the spend view"
        yield f"    {verdict.histogram_entries:>9,}  entries of their histograms"
        for name in sorted(verdict.repeats):
            yield f"    {verdict.repeats[name]:>9,}  repeats: {name}"
        if verdict.delays_ms:
            ordered = sorted(verdict.delays_ms)
            p50, p95 = (ordered[len(ordered) * rank // 100] for rank in (50, 95))
            yield (
                "  a transition is on the alerts log after its tick has passed on the producers' clocks: "
                f"p50 {p50 / 1000:.1f} s, p95 {p95 / 1000:.1f} s, max {ordered[-1] / 1000:.1f} s"
            )


def _recovery(name: str, recoveries: Sequence[Recovery]) -> Iterator[str]:
    again = [each.again for each in recoveries if each.again is not None]
    takeover = [each.takeover for each in recoveries if each.takeover is not None]
    if again and name == "kill":
        yield f"    {name}: partitions taken over {_spread(takeover)}"
    if again:
        yield f"    {name}: all evaluating, nothing left {_spread(again)}"


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return f"{statistics.median(seconds):.1f}, {max(seconds):.1f} ({len(seconds)})"


def _most(seconds: Sequence[float]) -> str:
    return f"{max(seconds):.1f} s" if seconds else "-"
