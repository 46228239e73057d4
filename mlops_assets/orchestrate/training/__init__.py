"""Steps of training: training set, model, search, refit, judging, batch predictions, and the retraining loop."""
