"""Every effect boundary at which a fault can strike, by stage."""

BOUNDARIES = (
    *(
        f"ingest: {name}"
        for name in (
            "taking over: state read, commits not yet",
            "taking over: commits read, not yet sought",
            "records fetched, not taken",
            "calls taken, rejected ones not published",
            "between two rejected calls",
            "rejected calls published",
            "flushed, no chunk published",
            "between two chunks",
            "chunks published, not committed",
            "committed",
        )
    ),
    *(
        f"evaluate: {name}"
        for name in (
            "taking over: state read, commits not yet",
            "taking over: commits read, not yet sought",
            "records fetched, not taken",
            "panes taken, alerts not published",
            "between two alerts",
            "alerts published, nobody notified",
            "snapshot taken, nothing published",
            "between two snapshot chunks",
            "snapshot chunks published, no manifest",
            "manifest published, nothing removed",
            "between two removals",
            "removals published, not committed",
            "committed",
        )
    ),
    *(
        f"notify: {name}"
        for name in (
            "taking over: state read, commits not yet",
            "taking over: commits read, not yet sought",
            "records fetched, not taken",
            "alerts taken, nothing logged",
            "between two log records",
            "logged, not handed over",
            "caught up, nothing logged",
            "notification handed over, not announced",
            "lease checked, not announced",
            "announced, not attempted",
            "attempt under way, not accepted",
            "delivered, answer lost",
            "delivery accepted, not logged",
            "delivery logged",
        )
    ),
)
