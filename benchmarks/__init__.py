"""Long measurements, each one command; results go to docs/results.md. Importing activates the base."""

import layered_plugin  # noqa: F401
