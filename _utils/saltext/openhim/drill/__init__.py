"""Drills: a restored stack started where it reaches nobody, measured, recorded, and judged."""
