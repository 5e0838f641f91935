"""How good a set of VPT's recordings is: what was left out and why, and how well lines and frames agree."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from launch.vpt_segments import FPS, Segment

Notes = Mapping[str, Mapping[str, Any]]
SUMS = (
    *("lines", "broken_last_line", "last_frame_twice", "null_mouse", "null_keyboard", "steps", "idle"),
    *("closed", "yaw_error", "window_mouse", "window_cursor"),
)
"""Numbers of `vpt_lines.Reading.quality` that are added up."""


def quality_report(segments: Sequence[Segment], unreadable: Mapping[str, str], notes: Notes) -> dict[str, Any]:
    """`unreadable` are segments that were not even tried; `notes` are those of the import."""
    left_out = {**unreadable, **{name: note["left_out"] for name, note in notes.items() if "left_out" in note}}
    total: Counter[str] = Counter()
    events: Counter[str] = Counter()
    for note in notes.values():
        total.update({name: note.get(name, 0) for name in SUMS})
        events.update(note.get("events", {}))
    frames = sum(note["frames"] for note in notes.values())
    return {
        "recordings": len(segments) + len(unreadable),
        "imported": sum("left_out" not in note for note in notes.values()),
        "sessions": len({segment.session for segment in segments}),
        "frames": frames,
        "hours": frames / FPS / 3600,
        "left_out": dict(Counter(map(_kind, left_out.values())).most_common()),
        "broken_last_lines": total["broken_last_line"],
        "last_frame_twice": total["last_frame_twice"],
        "null_mouse_share": _share(total["null_mouse"], total["lines"]),
        "null_keyboard_share": _share(total["null_keyboard"], total["lines"]),
        "idle_share": _share(total["idle"], total["steps"]),
        "yaw_error_degrees": _share(total["yaw_error"], total["closed"]),
        "cursor_per_mouse": _cursor_per_mouse(notes),
        "events": dict(events),
        "left_out_recordings": left_out,
    }


def print_report(report: Mapping[str, Any]) -> None:
    table = Table(title="VPT recordings")
    table.add_column("what")
    table.add_column("", justify="right")
    whole = ("recordings", "imported", "sessions", "frames", "broken_last_lines", "last_frame_twice")
    for name in whole:
        table.add_row(name.replace("_", " "), f"{report[name]}")
    table.add_row("hours", f"{report['hours']:.2f}")
    for name in ("null_mouse_share", "null_keyboard_share", "idle_share"):
        table.add_row(name.replace("_", " "), f"{report[name]:.2%}")
    table.add_row("|0.15 dx - change of yaw|, degrees", f"{report['yaw_error_degrees']:.4f}")
    for version, ratio in report["cursor_per_mouse"].items():
        table.add_row(f"cursor / mouse in windows, recorder {version}", f"{ratio:.3f}")
    for kind, count in report["left_out"].items():
        table.add_row(f"left out: {kind}", f"{count}")
    Console().print(table)


def _cursor_per_mouse(notes: Notes) -> dict[str, float]:
    """By version of the recorder: how far the cursor goes in a window for each pixel of the mouse."""
    by_version: dict[str, Counter[str]] = {}
    for note in notes.values():
        if note.get("window_mouse"):
            by_version.setdefault(note["version"], Counter()).update(
                {name: note[name] for name in ("window_mouse", "window_cursor")}
            )
    return {version: sums["window_cursor"] / sums["window_mouse"] for version, sums in sorted(by_version.items())}


def _kind(reason: str) -> str:
    """What reasons that differ in names and numbers have in common."""
    return re.sub(r"\d+", "N", reason.partition(":")[0])


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
