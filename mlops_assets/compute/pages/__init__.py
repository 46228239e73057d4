"""Pages and charts for people: model cards, monitor reports, run comparisons and pull-request reports."""
