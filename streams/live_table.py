"""The demo's screen: features, the incident that plays, and the alerts that fire, as a rich renderable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rules.quantities import NANODOLLARS_PER_DOLLAR, SECOND, format_duration
from rules.rule import Severity
from streams.alerts_seen import FiringAlert
from streams.incidents import Incident
from streams.live_overview import OverviewRow

_COLOURS = {Severity.CRITICAL: "red", Severity.WARNING: "yellow"}


@dataclass(frozen=True, slots=True)
class Playing:
    """What the simulator does: the incident and the ms until it ends, or None and the ms until the next one."""

    incident: Incident | None
    left_ms: int


def screen(
    rows: Sequence[OverviewRow],
    firing: Sequence[FiringAlert],
    playing: Playing,
    *,
    span_ms: int,
    now_ms: int,
) -> RenderableType:
    """Everything that stays on the screen. `rows` are by feature, over the last `span_ms`."""
    if not rows:
        table: RenderableType = Text("the worker starts ...", "dim")
    else:
        table = _table(rows, firing)
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    lines.add_row("simulator", _playing(playing))
    lines.add_row("alerts", _firing(firing, now_ms))
    title = Text(f" live, over the last {span_ms // SECOND} s ", "bold")
    return Group(Rule(title, align="left", style="dim"), table, lines)


def _table(rows: Sequence[OverviewRow], firing: Sequence[FiringAlert]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_footer=True, pad_edge=False, header_style="dim")
    spend = sum(row.spend_per_minute for row in rows)
    table.add_column("  feature", Text("  all", "dim"), no_wrap=True, min_width=17)
    table.add_column(
        "calls/s",
        f"{sum(row.calls_per_second for row in rows):,.1f}",
        justify="right",
        footer_style="dim",
        no_wrap=True,
    )
    for name in ("P50", "P95", "P99", "errors"):
        table.add_column(name, justify="right", min_width=6, no_wrap=True)
    table.add_column("spend/min", _money(spend), justify="right", footer_style="dim", no_wrap=True)
    worst: dict[str, Severity] = {}
    for alert in firing:
        feature = dict(alert.series).get("feature")
        if feature is not None and worst.get(feature) is not Severity.CRITICAL:
            worst[feature] = alert.severity
    for row in rows:
        feature = row.series[0]
        severity = worst.get(feature)
        named = Text(f"  {feature}") if severity is None else Text(f"● {feature}", _COLOURS[severity])
        table.add_row(
            named,
            f"{row.calls_per_second:,.1f}",
            _duration(row.p50_ms),
            _duration(row.p95_ms),
            _duration(row.p99_ms),
            _share(row.error_rate),
            _money(row.spend_per_minute),
        )
    return table


def _playing(playing: Playing) -> Text:
    left = f"{-(-playing.left_ms // SECOND)} s"
    if playing.incident is None:
        return Text(f"normal traffic; the next incident starts in {left}")
    incident = playing.incident
    return Text.assemble((f"{incident.kind}", "bold"), f": {incident.cause} ", (f"({left} more)", "dim"))


def _firing(firing: Sequence[FiringAlert], now_ms: int) -> Text:
    if not firing:
        return Text("none firing", "green")
    parts: list[Text] = []
    for alert in firing:
        of = ", ".join(value for _, value in alert.series)
        lasted = format_duration(max(0, now_ms - alert.since_ms) // SECOND * SECOND) if now_ms else ""
        parts.append(
            Text.assemble(
                ("● ", _COLOURS[alert.severity]),
                (alert.alert, f"bold {_COLOURS[alert.severity]}"),
                f" {of} " if of else " ",
                (f"for {lasted}", "dim"),
            )
        )
    return Text("\n").join(parts)


def _duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:,.0f} ms" if milliseconds < SECOND else f"{milliseconds / SECOND:,.1f} s"


def _share(share: float | None) -> Text:
    if share is None:
        return Text("-")
    return Text(f"{share:.1%}".replace("%", " %"), "red" if share >= 0.1 else "")


def _money(nanodollars: float) -> str:
    return f"${nanodollars / NANODOLLARS_PER_DOLLAR:,.2f}"
