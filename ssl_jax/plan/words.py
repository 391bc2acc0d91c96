"""What a plan says to people: how long a step takes at best, in words and in tables."""

import math
from typing import Any

from ssl_jax.plan.chips import CHIPS, GIB
from ssl_jax.plan.plan import Plan


def roofline(plan: Plan) -> dict[str, float]:
    """Seconds that arithmetic, memory and links each need for a step at their peak rates; empty for an unknown chip."""
    if plan.chip not in CHIPS:
        return {}
    chip = CHIPS[plan.chip]
    exchanged = sum(size for _, size in plan.collectives.values())
    return {
        "arithmetic": plan.flops / chip.flops,
        "memory": plan.main_memory / chip.bytes,
        "links": exchanged / chip.link,
    }


def summarise(plan: Plan, efficiency: float) -> dict[str, Any]:
    """The figures of a plan as people want them.

    Args:
      plan: from `plan`.
      efficiency: share of the bounding rate that is assumed to be reached.

    Returns:
      name to number or word; times are absent for a chip whose rates are not known, or a step that does not fit.
    """
    views_a_chip = plan.views / plan.chips
    out: dict[str, Any] = {
        "topology": plan.topology,
        "chip": plan.chip,
        "chips": plan.chips,
        "batch_size": plan.batch_size,
        "fits": plan.fits,
        "memory_gib": plan.memory / GIB,
        "held_gib": plan.held / GIB,
        "held_without_fsdp_gib": plan.held_whole / GIB,
        "gflop_per_view": plan.flops / views_a_chip / 1e9,
        "mb_per_view": plan.bytes / views_a_chip / 1e6,
        "main_mb_per_view": plan.main_memory / views_a_chip / 1e6,
        "collectives": {kind: {"count": n, "mb": size / 1e6} for kind, (n, size) in plan.collectives.items()},
        "compile_seconds": plan.compile_seconds,
    }
    times = roofline(plan)
    if times and plan.fits:
        side = max(times, key=lambda name: times[name])
        seconds = times[side] / efficiency
        hours = seconds * plan.steps / 3600
        out |= {
            "bound_by": side,
            "bound_ms": {name: 1e3 * value for name, value in times.items()},
            "efficiency": efficiency,
            "step_ms": 1e3 * seconds,
            "views_per_second_per_chip": views_a_chip / seconds,
            "hours": hours,
            "chip_hours": hours * plan.chips,
        }
    return out


def describe(rows: list[dict[str, Any]]) -> str:
    """One topology in words, or several as a table in Markdown."""
    return _words(rows[0]) if len(rows) == 1 else table(rows)


def _words(row: dict[str, Any]) -> str:
    limit = CHIPS[row["chip"]].memory / GIB if row["chip"] in CHIPS else None
    of = f" of {limit:.0f} GiB" if limit else ""
    lines = [
        f"{row['topology']}: {row['chips']} x {row['chip']}, {row['batch_size']} images an update "
        f"(compiled in {row['compile_seconds']:.0f} s)",
        f"  memory       {row['memory_gib']:.2f} GiB{of} at the peak: {'fits' if row['fits'] else 'does not fit'}",
    ]
    held, whole = row["held_gib"], row["held_without_fsdp_gib"]
    less = f" ({whole:.2f} GiB without fsdp)" if held < whole else ""
    lines.append(f"  of it        {held:.2f} GiB of parameters, state and optimiser{less}")
    if not math.isnan(row["gflop_per_view"]):
        lines.append(
            f"  a view       {row['gflop_per_view']:.2f} GFLOP, {row['mb_per_view']:.1f} MB "
            f"accessed, {row['main_mb_per_view']:.1f} MB of main memory"
        )
    for kind, entry in row["collectives"].items():
        lines.append(f"  {kind:<12} {entry['count']} a step, {entry['mb']:.2f} MB a chip")
    if "step_ms" in row:
        bounds = ", ".join(f"{name} {ms:.2f}" for name, ms in row["bound_ms"].items())
        lines += [
            f"  at best, ms  {bounds}: bound by {row['bound_by']}",
            f"  at {row['efficiency']:.0%} of that {row['step_ms']:.2f} ms a step, "
            f"{row['views_per_second_per_chip']:.0f} views/s a chip; all epochs {row['hours']:.2f} hours, "
            f"{row['chip_hours']:.1f} chip-hours",
        ]
    elif row["fits"]:
        lines.append(f"  no time: peak rates of '{row['chip']}' are not in ssl_jax/plan/chips.py")
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """Plans as a table in Markdown, a line a plan."""
    head = (
        "topology",
        "batch",
        "GiB a chip",
        "GFLOP a view",
        "MB a view",
        "of main memory",
        "collectives, MB a chip",
        "bound by",
        "views/s a chip",
        "hours",
        "chip-hours",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        exchanged = sum(entry["mb"] for entry in row["collectives"].values())
        counted = not math.isnan(row["gflop_per_view"])
        cells = [
            row["topology"],
            str(row["batch_size"]),
            f"{row['memory_gib']:.2f}" + ("" if row["fits"] else " (does not fit)"),
            f"{row['gflop_per_view']:.2f}" if counted else "",
            f"{row['mb_per_view']:.1f}" if counted else "",
            f"{row['main_mb_per_view']:.1f}" if counted else "",
            f"{exchanged:.2f}" if counted else "",
        ]
        if "step_ms" in row:
            cells += [
                row["bound_by"],
                f"{row['views_per_second_per_chip']:.0f}",
                f"{row['hours']:.2f}",
                f"{row['chip_hours']:.1f}",
            ]
        else:
            cells += [""] * 4
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
