"""Who is told of an alert, when, and in which words: routing, notification decisions, Slack and console messages."""
