"""`make bench`: what Podium costs, as ratios within one run. See docs/PERFORMANCE.md."""
