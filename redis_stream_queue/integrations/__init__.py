"""Ready-made middleware for other libraries: django, sentry, opentelemetry; see docs/hooks.md."""
