# SPDX-License-Identifier: Apache-2.0
"""What a channel is told, by an incoming webhook of Slack, or of Mattermost, which takes the same.

Names in alerts come from the network: they must not become mentions or links of the channel.
https://docs.slack.dev/reference/block-kit/blocks/section-block
"""

from collections import Counter
from typing import Any

from consumer.alerts.alert import SEVERITIES
from consumer.alerts.outlets.change import RESOLVED, Change, Delivery, rfc3339
from consumer.alerts.outlets.destination import Destination

MAX_SHOWN = 10  # of the alerts of one message; a message has 50 blocks at most
MAX_TEXT_CHARACTERS = 3000  # of a block; what it is made of is cut to fit
_MAX_SUMMARY_CHARACTERS = 600
_MAX_LABEL_CHARACTERS = 200
_MAX_EVIDENCE_CHARACTERS = 1200
_MARKS = {
    "critical": ":red_circle:",
    "warning": ":large_orange_circle:",
    "info": ":large_blue_circle:",
}
_ENDED = ":large_green_circle:"


def body(to: Destination, delivery: Delivery) -> dict[str, Any]:
    """A message: what it is about in one line, then the gravest alerts, then how many more."""
    changes = sorted(delivery.changes, key=_gravest_first)
    blocks = [_section(_shown(to, change)) for change in changes[:MAX_SHOWN]]
    title = _title(delivery)
    if len(changes) > 1:
        blocks.insert(0, _section(f"*{title}*"))
    if rest := changes[MAX_SHOWN:]:
        blocks.append(_section(f"and {len(rest)} more: {_counted(rest)}"))
    return {"text": title, "blocks": blocks}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text[:MAX_TEXT_CHARACTERS]}}


def _gravest_first(change: Change) -> tuple[bool, int]:
    alert = change.alert
    return alert.status == RESOLVED, -SEVERITIES.index(alert.sighting.severity)


def _title(delivery: Delivery) -> str:
    changes = delivery.changes
    if len(changes) == 1:
        return _line(changes[0])
    held = ", held back by the rate limit" if delivery.is_summary else ""
    return f"{len(changes)} changes of alerts{held}: {_counted(changes)}"[:MAX_TEXT_CHARACTERS]


def _line(change: Change) -> str:
    sighting = change.alert.sighting
    what = "resolved" if change.alert.status == RESOLVED else sighting.severity
    return f"[{what}] {_escaped(sighting.summary, _MAX_SUMMARY_CHARACTERS)}"


def _counted(changes: Any) -> str:
    """How many of each detector fire or end, the most frequent first."""
    counts = Counter((one.alert.sighting.detector, one.alert.status) for one in changes)
    shown = counts.most_common(MAX_SHOWN)
    told = [f"{count} {_escaped(of, 100)} {status}" for (of, status), count in shown]
    others = counts.total() - sum(count for _, count in shown)
    return ", ".join(told) + (f", {others} of others" if others else "")


def _shown(to: Destination, change: Change) -> str:
    alert, sighting = change.alert, change.alert.sighting
    is_over = alert.status == RESOLVED
    mark = _ENDED if is_over else _MARKS[sighting.severity]
    lines = [f"{mark} {_line(change)}"]
    labels = ", ".join(f"{name}={value}" for name, value in sighting.labels.items())
    since = f"since {rfc3339(sighting.began_ns)}"
    until = f" until {rfc3339(alert.resolved_ns or alert.changed_ns)}" if is_over else ""
    again = f", told {change.repeat} times before" if change.repeat else ""
    lines.append(f"{_escaped(sighting.detector, 100)} {since}{until}{again}")
    if labels:
        lines.append(_escaped(labels, _MAX_LABEL_CHARACTERS))
    if link := to.linked(sighting):
        lines.append(f"<{_escaped(link, 500)}|more>")
    if sighting.evidence and not is_over:
        evidence = _escaped(sighting.evidence, _MAX_EVIDENCE_CHARACTERS).replace("`", "'")
        lines.append(f"```{evidence}```")
    return "\n".join(lines)


def _escaped(text: str, most: int) -> str:
    """*text* as text, in *most* characters: only these three begin something in a message."""
    whole = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if len(whole) <= most:
        return whole
    cut = whole[: most - 1]
    before, _, last = cut.rpartition("&")
    return (before if "&" in cut and ";" not in last else cut) + "…"
