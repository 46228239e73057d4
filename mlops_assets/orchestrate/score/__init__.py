"""The ML Test Score of a model: tests computed from declarations and stores, and the asset that shows them."""
