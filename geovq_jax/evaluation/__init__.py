"""Image metrics, clustering and generation scores, statistics, figures and the report."""
