"""Steps of training: training set, model, search, refit, gates, kinds of candidates, batch predictions, and the retraining loop."""
