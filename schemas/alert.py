# SPDX-License-Identifier: Apache-2.0
"""Alerts as rows: every change of each, from when it fires to when it is resolved.

They are a kind like all others, so they take the way of all others into their table, and whoever
reads the topics reads them as everything else.
"""

from schemas import fields as f
from schemas.layout import F64, NAME, TEXT, TIME_NS, Field, Record, enum8

SEVERITIES = {"info": 1, "warning": 2, "critical": 3}
STATUSES = {"firing": 1, "resolved": 2}

ALERT = Record(
    kind="alert",
    table="alerts",
    doc=(
        "What `hookline alert` has found, one row a change: an alert fires, still fires, or is"
        " resolved.  `node` is where the service runs, not where the trouble is."
    ),
    fields=(
        f.TIME.of(TIME_NS, "wall time of the change, nanoseconds since the epoch"),
        Field(
            "began",
            TIME_NS,
            "wall time of the first row that shows it, nanoseconds since the epoch",
            f.TIME_CODEC,
        ),
        Field(
            "resolved",
            TIME_NS,
            "wall time at which it ended, nanoseconds since the epoch; 0 while it fires",
            f.TIME_CODEC,
        ),
        Field("detector", NAME, "what found it, as `syn_flood` or `port_scan`"),
        Field("severity", enum8(**SEVERITIES), "how bad it is"),
        Field("status", enum8(**STATUSES), "`firing`: it goes on; `resolved`: it is over"),
        Field(
            "fingerprint",
            TEXT,
            "names the alert: 16 hexadecimal digits of detector and labels, the same in every run",
        ),
        Field("summary", TEXT, "one sentence for people"),
        Field("labels", TEXT, "what it is about, a JSON object of texts"),
        Field("value", F64, "what was measured, in the unit that the summary names"),
        Field("threshold", F64, "from which value on it is an alert"),
        Field("evidence", TEXT, "an SQL query that shows the rows"),
        Field(
            "proposed_match", TEXT, "filter of a rule that would end it; empty where there is none"
        ),
        Field("proposed_action", NAME, "what such a rule would do: `drop` or `limit`; else empty"),
        Field("proposed_seconds", F64, "for how long, seconds"),
    ),
    order_by="time, detector, fingerprint",
)
