"""Steps of feature views: computed, from dbt and from pushed rows; freshness policies and discovery metadata."""
