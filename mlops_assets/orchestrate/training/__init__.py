"""Steps of training: training set, model, search, refit, gates and kinds of candidates."""
