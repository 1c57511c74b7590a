"""From calls on a Kafka topic to alerts: ingest, windows, the evaluation and notification stages, the worker."""
