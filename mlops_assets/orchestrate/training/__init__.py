"""Steps of training: training set, model, search, refit, gates, kinds of candidates, and batch predictions."""
