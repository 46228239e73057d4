"""Feature engineering: point-in-time joins, as-of layouts, on-demand features, request schemas, training-serving skew."""
