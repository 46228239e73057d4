"""Pages and charts: model cards, monitor reports, run comparisons and pull-request reports."""
