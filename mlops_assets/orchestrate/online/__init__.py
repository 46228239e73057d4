"""Steps of the online store: materialisation, the check against the offline store, and training-serving skew."""
