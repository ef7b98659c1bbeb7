"""Many experiments: every combination of some knobs' values, or the highest rate that meets an SLO."""
